package enrol

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Names of the two protocols (RFC 6940 §11.2, §11.3, §14.1, §14.2).
const (
	WellKnown       = "/.well-known/reload-config"
	Service         = "reload-config" // of the SRV record, over "tcp"
	mediaCSR        = "application/pkcs10"
	mediaCert       = "application/pkix-cert"
	maxRequest      = 64 << 10 // bytes
	maxAtOnce       = 4        // requests that are worked on once they are read; a password costs time on purpose
	fieldUser       = "username"
	fieldPassword   = "password"
	fieldNodeIDs    = "nodeids"
	fieldCSR        = "csr"
	tokenAuth       = "failed_authentication"
	tokenUser       = "username_not_available"
	tokenNodeIDs    = "Node-IDs_not_available"
	tokenCSR        = "bad_CSR"
	refuseTooMany   = "too many requests"
	headerMediaType = "Content-Type"
)

// ServerConfig is what a Server is made of. Authority, Document and Book are required.
type ServerConfig struct {
	Authority *ident.Authority
	Document  func() *config.Document // the one in force
	Book      Book
	Now       func() time.Time // for the pauses between wrong passwords; nil: time.Now
	Log       *slog.Logger     // nil: discard
}

// Server is a configuration server and an enrolment server for one overlay. Serve it over TLS only, with a certificate
// for the overlay name: the protocol sends passwords "in the clear (hence the need for HTTPS)".
type Server struct {
	cfg     ServerConfig
	mux     *http.ServeMux
	guesses *guesses
	busy    chan struct{}
	stats   struct{ documents, issued, refused, throttled atomic.Uint64 }
}

// Stats counts what a Server did.
type Stats struct {
	Documents uint64 // handed out
	Issued    uint64 // certificates
	Refused   uint64 // requests that got one of the tokens, or were malformed
	Throttled uint64 // requests turned away before their password was looked at
}

// NewServer makes a server that enrols at path, such as "/enrol", and has the document at WellKnown.
func NewServer(path string, cfg ServerConfig) (*Server, error) {
	if cfg.Authority == nil || cfg.Document == nil || cfg.Book == nil || !strings.HasPrefix(path, "/") || path == WellKnown {
		return nil, errors.New("enrolment server: authority, document, book and path are required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux(), guesses: newGuesses(cfg.Now()), busy: make(chan struct{}, maxAtOnce)}
	s.mux.HandleFunc("GET "+WellKnown, s.configuration)
	s.mux.HandleFunc("POST "+path, s.enrol)
	return s, nil
}

// Stats is a snapshot of the counters.
func (s *Server) Stats() Stats {
	return Stats{Documents: s.stats.documents.Load(), Issued: s.stats.issued.Load(), Refused: s.stats.refused.Load(), Throttled: s.stats.throttled.Load()}
}

// ServeHTTP answers both protocols.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.TLS == nil { // "The certificate request protocol MUST be performed over HTTPS."
		http.Error(w, "HTTPS only", http.StatusForbidden)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// configuration is RFC 6940 §11.2.
func (s *Server) configuration(w http.ResponseWriter, _ *http.Request) {
	d := s.cfg.Document()
	if d.Rest.Secret != "" {
		// "In the case when the media includes a shared-secret element, the contents of the file MUST be kept
		// confidential" (§14.16): nobody has said who he is here.
		http.Error(w, "the document has the overlay's secret in it", http.StatusForbidden)
		return
	}
	s.stats.documents.Add(1)
	w.Header().Set(headerMediaType, config.MediaType)
	_, _ = w.Write(d.Raw()) // whoever is gone needs no answer
}

// refusal is an answer other than a certificate: a token of RFC 6940 §11.3 with 403, or something that HTTP has a code
// for.
type refusal struct {
	code  int
	token string
	wait  time.Duration // until the next request, where there were too many
}

func (r *refusal) Error() string { return fmt.Sprintf("%d %s", r.code, r.token) }

func refuse(token string) error { return &refusal{code: http.StatusForbidden, token: token} }

func tooMany(wait time.Duration) error {
	return &refusal{code: http.StatusTooManyRequests, token: refuseTooMany, wait: wait}
}

// enrol is RFC 6940 §11.3.
func (s *Server) enrol(w http.ResponseWriter, r *http.Request) {
	addr := remote(r)
	if wait := s.guesses.wait(addr, s.cfg.Now()); wait > 0 {
		s.throttle(w, wait)
		return
	}
	der, name, err := s.answer(w, r, addr)
	var no *refusal
	switch {
	case err == nil:
		s.stats.issued.Add(1)
		s.cfg.Log.Info("certificate issued", "account", name, "to", addr)
		w.Header().Set(headerMediaType, mediaCert)
		_, _ = w.Write(der)
		return
	case !errors.As(err, &no):
		s.cfg.Log.Error("enrolment", "account", name, "err", err)
		no = &refusal{code: http.StatusInternalServerError, token: "internal error"}
	case no.wait > 0:
		s.throttle(w, no.wait)
		return
	}
	s.stats.refused.Add(1)
	s.cfg.Log.Warn("enrolment refused", "from", addr, "why", no.token)
	// "a body of type "text/plain" and body that consists of one of the tokens"
	w.Header().Set(headerMediaType, "text/plain")
	w.WriteHeader(no.code)
	_, _ = io.WriteString(w, no.token)
}

func (s *Server) throttle(w http.ResponseWriter, wait time.Duration) {
	s.stats.throttled.Add(1)
	w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())))
	http.Error(w, refuseTooMany, http.StatusTooManyRequests)
}

func remote(r *http.Request) netip.Addr {
	ap, _ := netip.ParseAddrPort(r.RemoteAddr) // of a listener that is not IP: everybody is one
	return ap.Addr()
}

// form is an enrolment request.
type form struct {
	user, password string
	nodes          int
	csr            []byte
	seen           map[string]bool
}

// answer makes the certificate and the name of the account that it is for.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, addr netip.Addr) ([]byte, string, error) {
	if !accepts(r.Header.Values("Accept"), mediaCert) {
		// "The Accept header MUST contain the type "application/pkix-cert""
		return nil, "", &refusal{code: http.StatusNotAcceptable, token: mediaCert}
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	f, err := readForm(r)
	if err != nil {
		return nil, "", err
	}
	// Only now: whoever is slow to say what he wants keeps nobody else from it.
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		return nil, f.user, tooMany(time.Second)
	}
	// Again, since there may have been others meanwhile.
	if wait := s.guesses.try(addr, s.cfg.Now()); wait > 0 {
		return nil, f.user, tooMany(wait)
	}
	known := false
	defer func() {
		if known {
			s.guesses.right(addr)
		}
	}()
	var der []byte
	err = change(s.cfg.Book, func(all []Account) ([]Account, error) {
		i, ok := authenticate(all, f.user, f.password)
		if known = ok; !ok {
			return nil, refuse(tokenAuth)
		}
		var changed bool
		var err error
		if der, changed, err = s.certify(all, i, f); err != nil || !changed {
			return nil, err
		}
		return all, nil
	})
	return der, f.user, err
}

func accepts(headers []string, media string) bool {
	for _, h := range headers {
		for v := range strings.SplitSeq(h, ",") {
			if t, _, err := mime.ParseMediaType(v); err == nil && t == media {
				return true
			}
		}
	}
	return false
}

func readForm(r *http.Request) (*form, error) {
	malformed := &refusal{code: http.StatusBadRequest, token: "malformed form"}
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, &refusal{code: http.StatusUnsupportedMediaType, token: "multipart/form-data"}
	}
	f := &form{nodes: 1, seen: map[string]bool{}}
	for n := 0; ; n++ {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || n == 16 {
			return nil, malformed
		}
		name := p.FormName()
		b, err := io.ReadAll(p)
		if err != nil || f.seen[name] {
			return nil, malformed
		}
		f.seen[name] = true
		switch name {
		case fieldUser:
			f.user = string(b)
		case fieldPassword:
			f.password = string(b)
		case fieldNodeIDs:
			if f.nodes, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
				return nil, refuse(tokenNodeIDs)
			}
		case fieldCSR:
			// "a form parameter of "csr" with a content type of "application/pkcs10""
			if t, _, err := mime.ParseMediaType(p.Header.Get(headerMediaType)); err != nil || t != mediaCSR {
				return nil, refuse(tokenCSR)
			}
			f.csr = b
		}
	}
	if len(f.user) > maxName || len(f.password) > maxPassword {
		return nil, refuse(tokenAuth)
	}
	return f, nil
}

// certify issues for all[i]; changed tells that its Node-IDs did.
func (s *Server) certify(all []Account, i int, f *form) (der []byte, changed bool, err error) {
	a := &all[i]
	csr, err := x509.ParseCertificateRequest(f.csr)
	if err != nil || csr.CheckSignature() != nil {
		return nil, false, refuse(tokenCSR)
	}
	ids, changed, err := s.assign(all, a, f.nodes)
	if err != nil {
		return nil, false, err
	}
	user, err := requestedUser(csr)
	if err != nil {
		return nil, false, err
	}
	if user, err = a.user(user, ids[0], s.cfg.Authority.Overlay()); err != nil {
		return nil, false, err
	}
	if der, err = s.cfg.Authority.Certify(csr.PublicKey, ids, user, a.Kit); err != nil {
		s.cfg.Log.Debug("certificate signing request refused", "account", a.Name, "err", err)
		return nil, false, refuse(tokenCSR) // its key: Certify refuses what nobody would believe
	}
	return der, changed, nil
}

// assign are the first n Node-IDs of an account, new ones as far as it has not got them: "One or more Node-IDs which
// MUST be cryptographically random … chosen by the enrollment server".
func (s *Server) assign(all []Account, a *Account, n int) (ids []wire.NodeID, changed bool, err error) {
	if n < 1 || n > max(a.MaxNodeIDs, 1) {
		return nil, false, refuse(tokenNodeIDs)
	}
	if ids, err = a.nodes(); err != nil {
		return nil, false, err
	}
	for len(ids) < n {
		id, err := ident.RandomNodeID(s.cfg.Authority.NodeIDLength())
		if err != nil {
			return nil, false, err
		}
		if slices.ContainsFunc(all, func(o Account) bool { return slices.Contains(o.NodeIDs, id.String()) }) {
			continue
		}
		ids, changed = append(ids, id), true
	}
	a.NodeIDs = a.NodeIDs[:0:0]
	for _, id := range ids {
		a.NodeIDs = append(a.NodeIDs, id.String())
	}
	// Who was cut off by bad-node does not come back by asking again.
	for _, id := range ids[:n] {
		if slices.Contains(s.cfg.Document().BadNodes, id) {
			return nil, false, refuse(tokenNodeIDs)
		}
	}
	return ids[:n], changed, nil
}

var oidEmailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1} // PKCS #9

// requestedUser is the user name in a CSR, "" if it has none: an rfc822Name of the subjectAltName that it asks for, or
// the subject's emailAddress. RFC 6940 §11.3 does not say where it stands (docs/adr/0017).
func requestedUser(csr *x509.CertificateRequest) (string, error) {
	names := slices.Clone(csr.EmailAddresses)
	for _, n := range csr.Subject.Names {
		if s, ok := n.Value.(string); ok && n.Type.Equal(oidEmailAddress) && !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	switch len(names) {
	case 0:
		return "", nil
	case 1:
		return names[0], nil
	}
	return "", refuse(tokenUser) // "A single name"
}

// user is the name that the certificate gets.
func (a *Account) user(requested string, id wire.NodeID, overlay string) (string, error) {
	own := ident.KitUser(id, overlay)
	switch {
	case requested == "" && len(a.Users) > 0:
		return a.Users[0], nil
	case a.Kit && (requested == "" || requested == own):
		return own, nil
	case requested != "" && slices.Contains(a.Users, requested):
		return requested, nil
	}
	return "", refuse(tokenUser)
}
