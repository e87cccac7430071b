package enrol

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
)

// What enrolment fails with.
var (
	ErrAuthentication = errors.New("account name or password not valid")                   // failed_authentication
	ErrUserName       = errors.New("user name not acceptable")                             // username_not_available
	ErrNodeIDs        = errors.New("no Node-IDs for this account, or its kit was revoked") // Node-IDs_not_available
	ErrCSR            = errors.New("certificate signing request not acceptable")           // bad_CSR
	ErrRefused        = errors.New("request refused by the server for another reason")     // an unknown token or status
	ErrCertificate    = errors.New("certificate from the enrolment server")                // that does not keep the rules
)

const (
	maxAnswer  = 64 << 10 // bytes of an answer other than a document
	askTimeout = 30 * time.Second
)

// Resolver finds SRV records; *net.Resolver does.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Client asks configuration and enrolment servers. The zero value trusts the system's certificate authorities and looks
// names up as the system does.
type Client struct {
	Roots    *x509.CertPool   // for the servers' TLS certificates; nil: the system's
	Resolver Resolver         // nil: net.DefaultResolver
	Now      func() time.Time // nil: time.Now
	// Dial connects to the enrolment server of an overlay, wherever its URL leads: for one that is known by its address on a
	// link and not by a name. Whose server answers, its certificate says all the same. nil: by the URL.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// transport is for one exchange. name is what the server's certificate must match (RFC 2818 §3.1); dial replaces the
// connection to the URL's host where it is not nil.
func (c *Client) client(name string, dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &http.Client{
		Timeout: askTimeout,
		Transport: &http.Transport{
			DialContext: dial, TLSHandshakeTimeout: askTimeout, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots, ServerName: name, Time: func() time.Time { return later(c.now()) }},
		},
		// Neither protocol knows of a redirect, and another server's certificate would match another name.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// later is now for a board without a clock: not before this code was.
func later(now time.Time) time.Time {
	if now.Before(ident.ClockFloor) {
		return ident.ClockFloor
	}
	return now
}

// Configuration fetches the document of an overlay (RFC 6940 §11.2), from the URL of its configuration server if that is
// known, else from where the SRV record of the overlay name leads. current is the document in force, nil if there is none.
//
// A document that is not valid, not of this overlay or out of date is discarded with an error. Its signature is checked
// by the rules of current; without one, all that is known is that the server's certificate matched and that the document
// is consistent in itself.
func (c *Client) Configuration(ctx context.Context, overlay, server string, current *config.Document) (*config.Document, error) {
	if err := config.ValidateOverlayName(overlay); err != nil {
		return nil, err
	}
	name := overlay
	var dial func(context.Context, string, string) (net.Conn, error)
	if server == "" {
		// "form the URL by appending a path of "/.well-known/reload-config" to the overlay name"
		server, dial = "https://"+overlay+WellKnown, c.dialService(overlay)
	} else {
		u, err := url.Parse(server)
		if err != nil || !strings.EqualFold(u.Scheme, "https") {
			return nil, fmt.Errorf("configuration server %q: not an https URL", server)
		}
		// "If an optional URL for the configuration server was provided, the certificate MUST match the domain name from
		// the URL … otherwise, the certificate MUST match the overlay name".
		name = u.Hostname()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server, nil)
	if err != nil {
		return nil, fmt.Errorf("configuration server: %w", err)
	}
	req.Header.Set("Accept", config.MediaType)
	status, media, b, err := exchange(c.client(name, dial), req, config.MaxDocument)
	switch {
	case err != nil:
		return nil, fmt.Errorf("configuration server: %w", err)
	case status != http.StatusOK:
		return nil, fmt.Errorf("configuration server: %w: status %d", ErrRefused, status)
	case media != config.MediaType:
		return nil, fmt.Errorf("configuration server: answer of type %q, want %q", media, config.MediaType)
	}
	d, err := config.Parse(b, overlay)
	if err != nil {
		return nil, err
	}
	return d, c.acceptable(d, current)
}

func (c *Client) acceptable(d, current *config.Document) error {
	if current == nil {
		current = d
	} else if !d.Same(current) && !config.Supersedes(current, d) {
		return fmt.Errorf("configuration of sequence %d: older than the one in force", d.Sequence)
	}
	t, err := ident.TrustFor(current)
	if err != nil {
		return err
	}
	if err := d.Verify(current, t, c.now()); err != nil {
		return err
	}
	if d.Expired(c.now()) {
		return fmt.Errorf("configuration of sequence %d: expired on %v", d.Sequence, d.Expiration)
	}
	return d.Supported()
}

// dialService connects to where the SRV record leads: "the node MUST do a DNS SRV query using a Service name of
// "reload-config" and a protocol of TCP".
func (c *Client) dialService(overlay string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var r Resolver = net.DefaultResolver
		if c.Resolver != nil {
			r = c.Resolver
		}
		_, found, err := r.LookupSRV(ctx, Service, "tcp", overlay)
		if err != nil {
			return nil, fmt.Errorf("SRV record of %s: %w", overlay, err)
		}
		err = fmt.Errorf("SRV record of %s: no server", overlay)
		for _, s := range found[:min(len(found), 8)] {
			if s.Target == "." { // "the service is decidedly not available" (RFC 2782)
				break
			}
			var conn net.Conn
			if conn, err = new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(strings.TrimSuffix(s.Target, "."), strconv.Itoa(int(s.Port)))); err == nil {
				return conn, nil
			}
		}
		return nil, err
	}
}

// exchange sends a request and reads the whole answer, up to limit bytes.
func exchange(h *http.Client, req *http.Request, limit int64) (status int, media string, body []byte, err error) {
	resp, err := h.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1)); err != nil {
		return 0, "", nil, err
	}
	if int64(len(body)) > limit {
		return 0, "", nil, fmt.Errorf("answer of more than %d bytes", limit)
	}
	media, _, _ = mime.ParseMediaType(resp.Header.Get(headerMediaType)) // "" fits nothing
	return resp.StatusCode, media, body, nil
}

// Request is what a node asks of an enrolment server.
type Request struct {
	Account  string // and Password: where the server wants to know who is there
	Password string
	User     string            // user name to ask for; "" leaves it to the server
	NodeIDs  int               // how many; 0 is 1
	Key      *ecdsa.PrivateKey // nil: a new one is made
}

// Enrol gets a certificate from one of the enrolment servers of a document (RFC 6940 §11.3), which must be one that this
// node believes already. The servers are tried in turn until one gives an answer, be it a refusal.
func (c *Client) Enrol(ctx context.Context, d *config.Document, r Request) (*ident.Identity, error) {
	if len(d.Rest.EnrollmentServers) == 0 {
		return nil, fmt.Errorf("%w: overlay %q has no enrolment server", ErrRefused, d.InstanceName)
	}
	var err error
	if r.Key == nil {
		if r.Key, err = ident.NewKey(); err != nil {
			return nil, err
		}
	}
	r.NodeIDs = max(r.NodeIDs, 1)
	body, boundary, err := r.encode()
	if err != nil {
		return nil, err
	}
	// "The server certificate MUST match the overlay name as described in [RFC2818]", whatever host the URL names.
	h := c.client(d.InstanceName, c.Dial)
	var causes error
	for _, server := range d.Rest.EnrollmentServers {
		// The account and its password are in the body: they go nowhere but through TLS.
		if u, err := url.Parse(server); err != nil || !strings.EqualFold(u.Scheme, "https") || u.Host == "" {
			return nil, fmt.Errorf("enrolment server %q: not an https URL", server)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, server, bytes.NewReader(body))
		if err != nil {
			return nil, fmt.Errorf("enrolment server: %w", err)
		}
		req.Header.Set(headerMediaType, "multipart/form-data; boundary="+boundary)
		req.Header.Set("Accept", mediaCert)
		status, media, answer, err := exchange(h, req, maxAnswer)
		if err != nil {
			causes = errors.Join(causes, fmt.Errorf("enrolment server: %w", err))
			continue
		}
		if status != http.StatusOK {
			return nil, fmt.Errorf("enrolment server %s: %w", server, refused(status, answer))
		}
		if media != mediaCert {
			return nil, fmt.Errorf("%w: answer of type %q, want %q", ErrCertificate, media, mediaCert)
		}
		return c.checked(d, r, answer)
	}
	return nil, causes
}

// refused reads a token. "If the client receives an unknown token in the body, it SHOULD treat it as a failure for an
// unknown reason."
func refused(status int, body []byte) error {
	if status == http.StatusForbidden {
		switch strings.TrimSpace(string(body)) {
		case tokenAuth:
			return ErrAuthentication
		case tokenUser:
			return ErrUserName
		case tokenNodeIDs:
			return ErrNodeIDs
		case tokenCSR:
			return ErrCSR
		}
	}
	return fmt.Errorf("%w: status %d, %.80q", ErrRefused, status, body)
}

// checked is what the certificate has to be: "The client MUST check that the returned certificate chains back to one of
// the certificates received in the "root-cert" list of the overlay configuration data (including PKIX BasicConstraints
// checks)", and besides for this key, this user and as many Node-IDs as were asked for.
func (c *Client) checked(d *config.Document, r Request, der []byte) (*ident.Identity, error) {
	bad := func(err error) error { return fmt.Errorf("%w: %w", ErrCertificate, err) }
	t, err := ident.TrustFor(d)
	if err != nil {
		return nil, bad(err)
	}
	p, err := t.VerifyChain([][]byte{der}, c.now())
	if err != nil {
		return nil, bad(err)
	}
	if r.User != "" && p.User != r.User {
		return nil, bad(fmt.Errorf("for user %q, asked for %q", p.User, r.User))
	}
	if len(p.NodeIDs) != r.NodeIDs {
		return nil, bad(fmt.Errorf("%d Node-IDs, asked for %d", len(p.NodeIDs), r.NodeIDs))
	}
	id, err := t.Identity(r.Key, der)
	if err != nil {
		return nil, bad(err)
	}
	return id, nil
}

// encode writes the form: "The request MUST be an HTTP POST with the parameters encoded as described in [RFC2388]".
func (r Request) encode() (body []byte, boundary string, err error) {
	tmpl := &x509.CertificateRequest{}
	if r.User != "" {
		if err := ident.ValidateUser(r.User); err != nil {
			return nil, "", err
		}
		tmpl.EmailAddresses = []string{r.User}
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, tmpl, r.Key)
	if err != nil {
		return nil, "", fmt.Errorf("certificate signing request: %w", err)
	}
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	add := func(name, media string, value []byte) {
		h := textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name=%q`, name)}}
		if media != "" {
			h.Set(headerMediaType, media)
		}
		p, e := w.CreatePart(h)
		if e == nil {
			_, e = p.Write(value)
		}
		err = errors.Join(err, e)
	}
	if r.Account != "" || r.Password != "" {
		add(fieldUser, "", []byte(r.Account))
		add(fieldPassword, "", []byte(r.Password))
	}
	if r.NodeIDs > 1 {
		// "If more than one Node-ID is required, there MUST be a form parameter of "nodeids""
		add(fieldNodeIDs, "", []byte(strconv.Itoa(r.NodeIDs)))
	}
	add(fieldCSR, mediaCSR, csr)
	err = errors.Join(err, w.Close())
	return b.Bytes(), w.Boundary(), err
}
