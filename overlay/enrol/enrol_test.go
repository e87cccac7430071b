package enrol

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/textproto"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const overlay = "alpha-test.mission.home.arpa"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// shelf is a Book in memory.
type shelf struct {
	mu    sync.Mutex
	b     []byte
	saves int
	fail  error
}

func (s *shelf) Update(change func([]byte) ([]byte, error)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := change(s.b)
	if err != nil || b == nil {
		return err
	}
	if s.fail != nil {
		return s.fail
	}
	s.b, s.saves = b, s.saves+1
	return nil
}

// world is an overlay with an enrolment server that really listens, with real TLS, on loopback.
type world struct {
	root   *ident.Authority
	mu     sync.Mutex
	doc    *config.Document
	book   *shelf
	server *Server
	https  *httptest.Server
	client *Client
	clock  time.Time
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) wait(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{root: must(ident.NewAuthority(overlay, 16)), book: &shelf{}, clock: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	w.server = must(NewServer("/enrol", ServerConfig{Authority: w.root, Book: w.book, Now: w.now, Document: func() *config.Document {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.doc
	}}))
	w.https = httptest.NewUnstartedServer(w.server)
	w.https.TLS = &tls.Config{Certificates: []tls.Certificate{must(w.root.ServerCertificate([]string{overlay}, []netip.Addr{netip.MustParseAddr("127.0.0.1")}))}}
	w.https.Config.ErrorLog = nil
	w.https.StartTLS()
	t.Cleanup(w.https.Close)
	w.sign(nil)
	roots := x509.NewCertPool()
	roots.AddCert(w.root.Certificate())
	w.client = &Client{Roots: roots, Now: w.now}
	for _, a := range []Account{
		{Name: "ann", Users: []string{"ann@" + overlay, "info@" + overlay}, MaxNodeIDs: 3},
		{Name: "bob", Users: []string{"bob@" + overlay}},
		{Name: "kit-7", Kit: true},
	} {
		if err := Add(w.book, a, "password of "+a.Name); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// sign puts the next document in force.
func (w *world) sign(edit func(*config.Document)) {
	d := ident.NewDocument(w.root)
	if w.doc != nil {
		c := *w.doc
		d = &c
		d.Sequence++
	}
	d.Rest.EnrollmentServers = []string{w.https.URL + "/enrol"}
	if edit != nil {
		edit(d)
	}
	signed := must(d.Sign(must(w.root.Signer())))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.doc = signed
}

func (w *world) enrol(account string, edit func(*Request)) (*ident.Identity, error) {
	r := Request{Account: account, Password: "password of " + account}
	if edit != nil {
		edit(&r)
	}
	return w.client.Enrol(context.Background(), w.doc, r)
}

// RFC 6940 §11.3: "If the authentication succeeds and the requested user name in the CSR is acceptable, the server MUST
// generate and return a certificate for the CSR". The whole exchange, over TLS on loopback.
func TestEnrol(t *testing.T) {
	w := newWorld(t)
	trust := must(ident.TrustFor(w.doc))
	ann, err := w.enrol("ann", func(r *Request) { r.User = "info@" + overlay })
	if err != nil {
		t.Fatal(err)
	}
	p, err := trust.VerifyChain(ann.TLSCertificate().Certificate, w.now())
	if err != nil || p.User != "info@"+overlay || len(p.NodeIDs) != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	// "Node-IDs which MUST be cryptographically random … chosen by the enrollment server": not made of the key.
	if own := must(ident.KeyNodeID(p.Leaf, 16)); own == p.NodeID {
		t.Error("the Node-ID is the key's")
	}
	// "The subject distinguished name in the certificate MUST be empty."
	if p.Leaf.Subject.String() != "" || len(p.Leaf.DNSNames)+len(p.Leaf.IPAddresses) != 0 {
		t.Errorf("%v", p.Leaf.Subject)
	}
	// "if the same user returns … the enrollment server should return the same Node-IDs", whatever the key; more of them
	// as far as they are allowed.
	again := must(w.enrol("ann", func(r *Request) { r.NodeIDs = 3 }))
	if len(again.NodeIDs()) != 3 || again.NodeIDs()[0] != ann.NodeID() {
		t.Errorf("%v, before %v", again.NodeIDs(), ann.NodeIDs())
	}
	if third := must(w.enrol("ann", func(r *Request) { r.NodeIDs = 3; r.Key = again.Key() })); !slices.Equal(third.NodeIDs(), again.NodeIDs()) {
		t.Error("other Node-IDs for the same user")
	}
	if bob := must(w.enrol("bob", nil)); slices.Contains(again.NodeIDs(), bob.NodeID()) {
		t.Error("one Node-ID for two users")
	}
	if _, err := ann.SignerFor("bob@" + overlay); err == nil {
		t.Error("a user's certificate can issue others")
	}
	// A kit certifies its handsets.
	kit := must(w.enrol("kit-7", nil))
	if kit.Signer().User() != ident.KitUser(kit.NodeID(), overlay) {
		t.Errorf("kit's user name %q", kit.Signer().User())
	}
	phone := must(kit.SignerFor("10001@" + overlay))
	if p, err := trust.VerifyChain(phone.Certificates(), w.now()); err != nil || p.NodeID != kit.NodeID() {
		t.Errorf("handset of an enrolled kit: %v", err)
	}
	if s := w.server.Stats(); s.Issued != 5 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
	if n := w.book.saves; n != 3+4 { // three accounts, and each change of Node-IDs, not each certificate
		t.Errorf("saved %d times", n)
	}
}

// A board without a clock starts in 1970, and enrols all the same.
func TestEnrolWithoutAClock(t *testing.T) {
	w := newWorld(t)
	w.mu.Lock()
	w.clock = time.Unix(100, 0)
	w.mu.Unlock()
	if _, err := w.enrol("kit-7", nil); err != nil {
		t.Error(err)
	}
	if _, err := w.client.Configuration(context.Background(), overlay, w.https.URL+WellKnown, w.doc); err != nil {
		t.Error(err)
	}
}

// "Certificate processing errors SHOULD result in an HTTP return code of 403 Forbidden, along with a body of type
// "text/plain" and body that consists of one of the tokens".
func TestEnrolRefused(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		account string
		edit    func(*Request)
		want    error
	}{
		"wrong password":            {"ann", func(r *Request) { r.Password = "x" }, ErrAuthentication},
		"no such account":           {"eve", nil, ErrAuthentication},
		"no account at all":         {"", func(r *Request) { r.Password = "" }, ErrAuthentication},
		"another's user name":       {"ann", func(r *Request) { r.User = "bob@" + overlay }, ErrUserName},
		"a user name from nowhere":  {"bob", func(r *Request) { r.User = "root@" + overlay }, ErrUserName},
		"a kit as somebody":         {"kit-7", func(r *Request) { r.User = "ann@" + overlay }, ErrUserName},
		"more Node-IDs than may be": {"bob", func(r *Request) { r.NodeIDs = 2 }, ErrNodeIDs},
		"far too many":              {"ann", func(r *Request) { r.NodeIDs = 1 << 30 }, ErrNodeIDs},
	} {
		if _, err := w.enrol(c.account, c.edit); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A revoked Node-ID is not given out again.
	bob := must(w.enrol("bob", nil))
	w.sign(func(d *config.Document) { d.BadNodes = []wire.NodeID{bob.NodeID()} })
	if _, err := w.enrol("bob", nil); !errors.Is(err, ErrNodeIDs) {
		t.Errorf("revoked: %v", err)
	}
	// What cannot be kept is not given out: the next one could get the same Node-ID.
	w.book.fail = errors.New("disk full")
	if _, err := w.enrol("kit-7", nil); !errors.Is(err, ErrRefused) {
		t.Errorf("not kept: %v", err)
	}
	for token, want := range map[string]error{tokenAuth: ErrAuthentication, tokenUser: ErrUserName, tokenNodeIDs: ErrNodeIDs, tokenCSR + "\r\n": ErrCSR,
		// "If the client receives an unknown token in the body, it SHOULD treat it as a failure for an unknown reason."
		"out_of_coffee": ErrRefused} {
		if err := refused(http.StatusForbidden, []byte(token)); !errors.Is(err, want) {
			t.Errorf("%q: %v", token, err)
		}
	}
	if err := refused(http.StatusBadGateway, []byte(tokenAuth)); !errors.Is(err, ErrRefused) {
		t.Error("a token with another status")
	}
}

// post sends a form as anybody could make it.
func (w *world) post(t *testing.T, accept string, fill func(add func(name, media string, b []byte))) (int, string, string) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	fill(func(name, media string, v []byte) {
		h := textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf("form-data; name=%q", name)}}
		if media != "" {
			h.Set("Content-Type", media)
		}
		must(must(m.CreatePart(h)).Write(v))
	})
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	req := must(http.NewRequest(http.MethodPost, w.https.URL+"/enrol", &b))
	req.Header.Set("Content-Type", m.FormDataContentType())
	req.Header.Set("Accept", accept)
	return w.do(t, req)
}

func (w *world) do(t *testing.T, req *http.Request) (int, string, string) {
	t.Helper()
	status, media, body, err := exchange(w.client.client(overlay, nil), req, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return status, media, string(body)
}

// What a stranger may send, and what comes of it.
func TestHostileRequests(t *testing.T) {
	w := newWorld(t)
	key := must(ident.NewKey())
	csrOf := func(tmpl *x509.CertificateRequest, key any) []byte {
		return must(x509.CreateCertificateRequest(rand.Reader, tmpl, key))
	}
	good := csrOf(&x509.CertificateRequest{}, key)
	broken := bytes.Clone(good)
	broken[len(broken)-3] ^= 1
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	base := func(csr []byte) func(func(string, string, []byte)) {
		return func(add func(string, string, []byte)) {
			add("username", "", []byte("bob"))
			add("password", "", []byte("password of bob"))
			add("csr", "application/pkcs10", csr)
		}
	}
	const accept = "text/html, application/pkix-cert;q=0.9"
	for name, c := range map[string]struct {
		accept string
		fill   func(func(string, string, []byte))
		status int
		body   string
	}{
		"as it should be":         {accept, base(good), 200, ""},
		"another Accept":          {"application/json", base(good), 406, "application/pkix-cert"},
		"not for itself":          {accept, base(broken), 403, "bad_CSR"},
		"garbage":                 {accept, base([]byte("garbage")), 403, "bad_CSR"},
		"cut short":               {accept, base(good[:len(good)-1]), 403, "bad_CSR"},
		"a weak key":              {accept, base(csrOf(&x509.CertificateRequest{}, small)), 403, "bad_CSR"},
		"two names":               {accept, base(csrOf(&x509.CertificateRequest{EmailAddresses: []string{"bob@" + overlay, "ann@" + overlay}}, key)), 403, "username_not_available"},
		"a name and another":      {accept, base(csrOf(&x509.CertificateRequest{EmailAddresses: []string{"bob@" + overlay}, Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidEmailAddress, Value: "ann@" + overlay}}}}, key)), 403, "username_not_available"},
		"the name in the subject": {accept, base(csrOf(&x509.CertificateRequest{Subject: pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{{Type: oidEmailAddress, Value: "bob@" + overlay}}}}, key)), 200, ""},
		"no csr": {accept, func(add func(string, string, []byte)) {
			add("username", "", []byte("bob"))
			add("password", "", []byte("password of bob"))
		}, 403, "bad_CSR"},
		"csr of no type":    {accept, func(add func(string, string, []byte)) { add("csr", "", good) }, 403, "bad_CSR"},
		"nodeids no number": {accept, func(add func(string, string, []byte)) { base(good)(add); add("nodeids", "", []byte("many")) }, 403, "Node-IDs_not_available"},
		"nodeids negative":  {accept, func(add func(string, string, []byte)) { base(good)(add); add("nodeids", "", []byte("-1")) }, 403, "Node-IDs_not_available"},
		"a field twice":     {accept, func(add func(string, string, []byte)) { base(good)(add); base(good)(add) }, 400, "malformed form"},
		"many fields": {accept, func(add func(string, string, []byte)) {
			for i := range 100 {
				add(fmt.Sprint(i), "", nil)
			}
		}, 400, "malformed form"},
		"a huge field":    {accept, func(add func(string, string, []byte)) { add("x", "", make([]byte, 1<<20)) }, 400, "malformed form"},
		"a long password": {accept, func(add func(string, string, []byte)) { add("password", "", make([]byte, 1000)) }, 403, "failed_authentication"},
	} {
		status, media, body := w.post(t, c.accept, c.fill)
		if status != c.status || status != 200 && (body != c.body || !strings.HasPrefix(media, "text/plain")) || status == 200 && media != "application/pkix-cert" {
			t.Errorf("%s: %d %s %.60q", name, status, media, body)
		}
	}
	// The Node-ID is not for the CSR to choose, nor what the certificate may do.
	ask := &x509.CertificateRequest{URIs: []*url.URL{must(url.Parse(ident.ReloadURI(w.root.SignerNodeID(), overlay)))}, DNSNames: []string{overlay}}
	_, _, der := w.post(t, accept, base(csrOf(ask, key)))
	x := must(x509.ParseCertificate([]byte(der)))
	if len(x.URIs) != 1 || strings.Contains(x.URIs[0].String(), w.root.SignerNodeID().String()) || len(x.DNSNames) != 0 || x.IsCA {
		t.Errorf("%v %v", x.URIs, x.DNSNames)
	}
	// Not a form, not POST, not TLS.
	req := must(http.NewRequest(http.MethodPost, w.https.URL+"/enrol", strings.NewReader("username=bob")))
	req.Header.Set("Accept", accept)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if status, _, _ := w.do(t, req); status != 415 {
		t.Errorf("URL-encoded: %d", status)
	}
	if status, _, _ := w.do(t, must(http.NewRequest(http.MethodGet, w.https.URL+"/enrol?username=bob&password=x", nil))); status != 405 {
		t.Errorf("GET: %d", status)
	}
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "http://"+overlay+WellKnown, nil))
	if rec.Code != http.StatusForbidden { // "MUST be performed over HTTPS"
		t.Errorf("without TLS: %d", rec.Code)
	}
}

// "strict rate-limiting policies" (RFC 6940 §13.6.2): who guesses has to wait, and others do not.
func TestGuessingIsSlow(t *testing.T) {
	w := newWorld(t)
	for i := range triesEach {
		if _, err := w.enrol("ann", func(r *Request) { r.Password = fmt.Sprint(i) }); !errors.Is(err, ErrAuthentication) {
			t.Fatal(err)
		}
	}
	if _, err := w.enrol("ann", nil); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "429") {
		t.Errorf("after %d wrong passwords the right one: %v", triesEach, err)
	}
	if w.server.Stats().Throttled != 1 {
		t.Errorf("%+v", w.server.Stats())
	}
	w.wait(pauseEach)
	if _, err := w.enrol("ann", nil); err != nil {
		t.Errorf("after a pause: %v", err)
	}

	now := w.now()
	g := newGuesses(now)
	one, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:0:1::1")
	for i := range triesEach {
		g.count(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)), now) // one network, many addresses
	}
	if g.wait(one, now) == 0 || g.wait(other, now) != 0 {
		t.Errorf("one network %v, another %v", g.wait(one, now), g.wait(other, now))
	}
	// Everybody together, from ever new addresses: they wait, and the table stays as it is.
	for i := range 5000 {
		g.count(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now)
	}
	if len(g.each) > maxGuessers || g.wait(other, now) == 0 {
		t.Errorf("%d addresses, wait %v", len(g.each), g.wait(other, now))
	}
	if later := now.Add(5000 * pauseAll); g.wait(other, later) != 0 {
		t.Error("for ever")
	}
	g.count(other, now.Add(5000*pauseAll))
	if len(g.each) > 10 {
		t.Errorf("%d addresses after the pause", len(g.each))
	}
	if g.wait(other, now.Add(-time.Hour)) != 0 && g.wait(other, now.Add(time.Hour)) != 0 {
		t.Error("a clock that was set back locks everybody out")
	}
}

// slow is a request body of which nothing more comes until it is let go.
type slow struct {
	io.Reader
	once  sync.Once
	begun chan<- struct{}
	more  <-chan struct{}
}

func (s *slow) Read(b []byte) (int, error) {
	s.once.Do(func() { s.begun <- struct{}{} })
	<-s.more
	return s.Reader.Read(b)
}

// Whoever is slow to say what he wants keeps nobody else from it, and has no more guesses for having begun early: "strict
// rate-limiting policies" (RFC 6940 §13.6.2).
func TestSlowRequests(t *testing.T) {
	w := newWorld(t)
	const guessers = 3 * triesEach
	begun, more := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	var answers [guessers]*httptest.ResponseRecorder
	for i := range answers {
		var b bytes.Buffer
		m := multipart.NewWriter(&b)
		must(must(m.CreateFormField("username")).Write([]byte("ann")))
		must(fmt.Fprint(must(m.CreateFormField("password")), "guess ", i))
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		req := httptest.NewRequest(http.MethodPost, "https://"+overlay+"/enrol", &slow{Reader: &b, begun: begun, more: more})
		req.Header.Set("Accept", mediaCert)
		req.Header.Set("Content-Type", m.FormDataContentType())
		answers[i] = httptest.NewRecorder()
		wg.Go(func() { w.server.ServeHTTP(answers[i], req) })
		select {
		case <-begun:
		case <-time.After(5 * time.Second):
			close(more)
			t.Fatalf("request %d is not read: %d %s", i, answers[i].Code, answers[i].Body)
		}
	}
	if _, err := w.enrol("bob", nil); err != nil {
		t.Errorf("while %d are slow: %v", guessers, err)
	}
	close(more)
	wg.Wait()
	wrong := 0
	for _, a := range answers {
		if a.Code == http.StatusForbidden {
			wrong++
		}
	}
	if wrong == 0 || wrong > triesEach {
		t.Errorf("%d passwords were tried, %d may be", wrong, triesEach)
	}
}

// RFC 6940 §11.2, from the overlay name alone: the SRV record leads to the server, the certificate has to match the
// overlay name.
func TestConfigurationServer(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	u := must(url.Parse(w.https.URL))
	port := must(netip.ParseAddrPort(u.Host)).Port()
	w.client.Resolver = &records{t: t, srv: []*net.SRV{{Target: "127.0.0.1.", Port: closedPort(t)}, {Target: "127.0.0.1.", Port: port}}}
	d, err := w.client.Configuration(ctx, overlay, "", nil)
	if err != nil || !d.Same(w.doc) {
		t.Fatalf("%v", err)
	}
	// A known URL: the certificate has to match the host in it, which it does by its address.
	if d, err := w.client.Configuration(ctx, overlay, w.https.URL+WellKnown, w.doc); err != nil || !d.Same(w.doc) {
		t.Errorf("%v", err)
	}
	old := w.doc
	w.sign(nil)
	if d, err := w.client.Configuration(ctx, overlay, "", old); err != nil || d.Sequence != 2 {
		t.Errorf("newer: %v", err)
	}
	newer := w.doc
	w.mu.Lock()
	w.doc = old
	w.mu.Unlock()
	if _, err := w.client.Configuration(ctx, overlay, "", newer); err == nil {
		t.Error("an older document taken")
	}
	w.sign(func(d *config.Document) { d.Sequence, d.Expiration = 3, w.now().Add(-time.Hour) })
	if _, err := w.client.Configuration(ctx, overlay, "", newer); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("expired: %v", err)
	}
	// "the instance-name attribute … does not match the overlay name": discarded.
	w.client.Resolver = &records{srv: []*net.SRV{{Target: "127.0.0.1", Port: port}}}
	if _, err := w.client.Configuration(ctx, "beta.mission.home.arpa", w.https.URL+WellKnown, nil); !errors.Is(err, config.ErrDocument) {
		t.Errorf("another overlay's: %v", err)
	}
	// A server whose certificate is for another name.
	var certErr *tls.CertificateVerificationError
	if _, err := w.client.Configuration(ctx, "beta.mission.home.arpa", "", nil); !errors.As(err, &certErr) {
		t.Errorf("a certificate for another name: %v", err)
	}
	// A stranger's document of the same name, from a server that matches.
	stranger := must(ident.NewAuthority(overlay, 16))
	forged := ident.NewDocument(stranger)
	forged.Sequence = 9
	w.mu.Lock()
	w.doc = must(forged.Sign(must(stranger.Signer())))
	w.mu.Unlock()
	if _, err := w.client.Configuration(ctx, overlay, w.https.URL+WellKnown, newer); !errors.Is(err, ident.ErrUntrusted) {
		t.Errorf("a stranger's document: %v", err)
	}
	// A document with a secret in it is not for anybody who asks.
	w.sign(func(d *config.Document) { d.Rest.SharedSecret, d.Rest.Secret = true, "pass word" })
	if _, err := w.client.Configuration(ctx, overlay, w.https.URL+WellKnown, nil); !errors.Is(err, ErrRefused) {
		t.Errorf("a document with a secret: %v", err)
	}
	for _, bad := range []string{"http://" + overlay, ":", "ftp://x"} {
		if _, err := w.client.Configuration(ctx, overlay, bad, nil); err == nil {
			t.Errorf("%s taken", bad)
		}
	}
	w.client.Resolver = &records{srv: []*net.SRV{{Target: "."}}}
	if _, err := w.client.Configuration(ctx, overlay, "", nil); err == nil {
		t.Error("a service that is decidedly not available")
	}
}

type records struct {
	t   *testing.T
	srv []*net.SRV
}

func (r *records) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if r.t != nil && (service != "reload-config" || proto != "tcp" || name != overlay) {
		r.t.Errorf("asked for _%s._%s.%s", service, proto, name)
	}
	return name, r.srv, nil
}

func closedPort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// A server that lies: "The client MUST check that the returned certificate chains back to one of the certificates
// received in the "root-cert" list of the overlay configuration data (including PKIX BasicConstraints checks)".
func TestServersThatLie(t *testing.T) {
	w := newWorld(t)
	stranger := must(ident.NewAuthority(overlay, 16))
	key := must(ident.NewKey())
	node := must(ident.RandomNodeID(16))
	user := "ann@" + overlay
	certify := func(a *ident.Authority, pub any, user string, n int) []byte {
		ids := []wire.NodeID{node}
		for len(ids) < n {
			ids = append(ids, must(ident.RandomNodeID(16)))
		}
		return must(a.Certify(pub, ids, user, false))
	}
	insider := must(w.root.NewIdentity())
	for name, c := range map[string]struct {
		media string
		der   []byte
		want  error
	}{
		"honest":                   {"application/pkix-cert", certify(w.root, key.Public(), user, 1), nil},
		"another type":             {"application/octet-stream", certify(w.root, key.Public(), user, 1), ErrCertificate},
		"another root":             {"application/pkix-cert", certify(stranger, key.Public(), user, 1), ident.ErrUntrusted},
		"another key":              {"application/pkix-cert", certify(w.root, must(ident.NewKey()).Public(), user, 1), ErrCertificate},
		"another user name":        {"application/pkix-cert", certify(w.root, key.Public(), "eve@"+overlay, 1), ErrCertificate},
		"more Node-IDs than asked": {"application/pkix-cert", certify(w.root, key.Public(), user, 2), ErrCertificate},
		"somebody else's":          {"application/pkix-cert", insider.TLSCertificate().Certificate[0], ErrCertificate},
		"a server's certificate":   {"application/pkix-cert", must(w.root.ServerCertificate([]string{overlay}, nil)).Certificate[0], ident.ErrUntrusted},
		"issued by who may not":    {"application/pkix-cert", must(insider.SignerFor(user)).Certificates()[0], ident.ErrUntrusted},
		"nothing":                  {"application/pkix-cert", nil, ErrCertificate},
		"without end":              {"application/pkix-cert", make([]byte, 1<<20), nil},
	} {
		lying := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			rw.Header().Set("Content-Type", c.media)
			_, _ = rw.Write(c.der)
		}))
		lying.TLS = w.https.TLS.Clone()
		lying.StartTLS()
		d := *w.doc
		d.Rest.EnrollmentServers = []string{lying.URL}
		id, err := w.client.Enrol(context.Background(), &d, Request{User: user, Key: key})
		if name == "honest" {
			if err != nil || id.NodeID() != node {
				t.Errorf("honest: %v", err)
			}
		} else if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		lying.Close()
	}
	// "The server certificate MUST match the overlay name", and be of a root that the client believes.
	d := *w.doc
	impostor := httptest.NewTLSServer(w.server)
	defer impostor.Close()
	d.Rest.EnrollmentServers = []string{impostor.URL}
	var certErr *tls.CertificateVerificationError
	if _, err := w.client.Enrol(context.Background(), &d, Request{Account: "ann", Password: "password of ann"}); !errors.As(err, &certErr) {
		t.Errorf("an impostor: %v", err)
	}
	// The next server is asked where one cannot be reached.
	d.Rest.EnrollmentServers = []string{fmt.Sprintf("https://127.0.0.1:%d/", closedPort(t)), w.https.URL + "/enrol"}
	if _, err := w.client.Enrol(context.Background(), &d, Request{Account: "ann", Password: "password of ann"}); err != nil {
		t.Errorf("the second server: %v", err)
	}
	d.Rest.EnrollmentServers = nil
	if _, err := w.client.Enrol(context.Background(), &d, Request{}); !errors.Is(err, ErrRefused) {
		t.Errorf("no server: %v", err)
	}
	// The password goes to nobody in the clear, whoever named the URL.
	var heard atomic.Bool
	clear := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard.Store(true) }))
	defer clear.Close()
	for _, u := range []string{clear.URL, strings.TrimPrefix(clear.URL, "http:"), "https://"} {
		d.Rest.EnrollmentServers = []string{u}
		if _, err := w.client.Enrol(context.Background(), &d, Request{Account: "ann", Password: "password of ann"}); err == nil || !strings.Contains(err.Error(), "https") {
			t.Errorf("%q: %v", u, err)
		}
	}
	if heard.Load() {
		t.Error("the password was sent in the clear")
	}
}

func program(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err == nil {
		return p
	}
	if os.Getenv("FIELDKIT_CI") == "1" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// The protocol was made to be "compatible with the existing certificate-handling tooling": openssl makes the key, the CSR
// and judges the chain, curl does the rest.
func TestCurlAndOpenSSL(t *testing.T) {
	curl, openssl := program(t, "curl"), program(t, "openssl")
	w := newWorld(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(file("root.pem"), w.root.CertificatePEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(program string, args ...string) string {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	u := must(url.Parse(w.https.URL))
	at := "https://" + overlay + ":" + u.Port()
	common := []string{"--silent", "--show-error", "--noproxy", "*", "--cacert", file("root.pem"), "--resolve", overlay + ":" + u.Port() + ":127.0.0.1"}
	for name, key := range map[string][]string{
		"ecdsa": {"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"rsa":   {"-newkey", "rsa:2048"},
	} {
		run(openssl, append([]string{"req", "-new", "-nodes", "-sha256", "-subj", "/emailAddress=ann@" + overlay, "-keyout", file(name + ".key"), "-outform", "DER", "-out", file(name + ".csr")}, key...)...)
		code := run(curl, append(common, "-H", "Accept: application/pkix-cert", "-F", "username=ann", "-F", "password=password of ann", "-F", "nodeids=2",
			"-F", "csr=@"+file(name+".csr")+";type=application/pkcs10", "-o", file(name+".der"), "-w", "%{http_code} %{content_type}", at+"/enrol")...)
		if code != "200 application/pkix-cert" {
			t.Fatalf("%s: %s: %s", name, code, must(os.ReadFile(file(name+".der"))))
		}
		der := must(os.ReadFile(file(name + ".der")))
		if err := os.WriteFile(file(name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		if out := run(openssl, "verify", "-x509_strict", "-CAfile", file("root.pem"), file(name+".pem")); !strings.Contains(out, "OK") {
			t.Errorf("%s: %s", name, out)
		}
		if out := run(openssl, "x509", "-noout", "-text", "-in", file(name+".pem")); strings.Count(out, "URI:reload://0110") != 2 || !strings.Contains(out, "email:ann@"+overlay) {
			t.Errorf("%s: %s", name, out)
		}
		// And whoever has it is believed in the overlay.
		trust := must(ident.TrustFor(w.doc))
		block, _ := pem.Decode(must(os.ReadFile(file(name + ".key"))))
		private := must(x509.ParsePKCS8PrivateKey(block.Bytes))
		var s *ident.Signer
		switch k := private.(type) {
		case *rsa.PrivateKey:
			s = must(trust.NewSigner(k, [][]byte{der}, w.now()))
		case *ecdsa.PrivateKey:
			s = must(trust.NewSigner(k, [][]byte{der}, w.now()))
		}
		m := &wire.Message{Header: wire.Header{Overlay: ident.OverlayHash(overlay), Version: wire.Version, Fragment: wire.Unfragmented}, Code: wire.PingReq}
		if err := ident.Sign(m, s); err != nil {
			t.Fatal(err)
		}
		if p, err := trust.VerifyMessage(m, w.now()); err != nil || p.User != "ann@"+overlay || len(p.NodeIDs) != 2 {
			t.Errorf("%s: %v", name, err)
		}
	}
	refusedWith := run(curl, append(common, "-H", "Accept: application/pkix-cert", "-F", "username=ann", "-F", "password=wrong", "-F", "csr=@"+file("rsa.csr")+";type=application/pkcs10", "-w", " %{http_code} %{content_type}", at+"/enrol")...)
	if refusedWith != "failed_authentication 403 text/plain" {
		t.Errorf("%q", refusedWith)
	}
	doc := run(curl, append(common, "-w", " %{content_type}", at+WellKnown)...)
	if doc != string(w.doc.Raw())+" application/p2p-overlay+xml" {
		t.Errorf("%s", doc)
	}
}

func TestAccounts(t *testing.T) {
	b := &shelf{}
	for name, c := range map[string]struct {
		a        Account
		password string
	}{
		"no name":              {Account{Users: []string{"a@b"}}, "p"},
		"a long name":          {Account{Name: strings.Repeat("a", 65), Users: []string{"a@b"}}, "p"},
		"no password":          {Account{Name: "a", Users: []string{"a@b"}}, ""},
		"no user name":         {Account{Name: "a"}, "p"},
		"no user name of rule": {Account{Name: "a", Users: []string{"a"}}, "p"},
		"many Node-IDs":        {Account{Name: "a", Users: []string{"a@b"}, MaxNodeIDs: 17}, "p"},
	} {
		if err := Add(b, c.a, c.password); !errors.Is(err, ErrAccount) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Add(b, Account{Name: "a", Users: []string{"a@b"}, NodeIDs: []string{"chosen"}}, "p"); err != nil {
		t.Fatal(err)
	}
	for _, twice := range []Account{{Name: "a", Users: []string{"c@b"}}, {Name: "c", Users: []string{"c@b", "a@b"}}} {
		if err := Add(b, twice, "p"); !errors.Is(err, ErrAccount) {
			t.Errorf("%+v: %v", twice, err)
		}
	}
	all := must(List(b))
	if len(all) != 1 || len(all[0].NodeIDs) != 0 || len(all[0].Hash) != 32 || bytes.Contains(b.b, []byte(`"p"`)) {
		t.Errorf("%s", b.b)
	}
	for _, bad := range []string{"x", "[]x", `[{"name":"a","nobody":1}]`, `[{"node_ids":["zz"]}]`, "[" + strings.Repeat(`{},`, 5000) + "{}]", strings.Repeat(" ", MaxBook+1)} {
		if _, err := parseBook([]byte(bad)); !errors.Is(err, ErrBook) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	for name, want := range map[string]bool{"a": true, "b": false} {
		if _, ok := authenticate(all, name, "p"); ok != want {
			t.Errorf("%s: %v", name, ok)
		}
	}
	if _, ok := authenticate(all, "a", "p "); ok { // "compared as binary objects"
		t.Error("white space does not count")
	}
}

func FuzzReadForm(f *testing.F) {
	body, boundary, err := Request{Account: "a", Password: "p", NodeIDs: 2, Key: must(ident.NewKey())}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("multipart/form-data; boundary="+boundary, body)
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=csr\r\n\r\n\r\n--x--"))
	f.Fuzz(func(t *testing.T, media string, b []byte) {
		r := httptest.NewRequest(http.MethodPost, "https://x/enrol", bytes.NewReader(b))
		r.Header.Set("Content-Type", media)
		form, err := readForm(r)
		var no *refusal
		if err != nil && !errors.As(err, &no) {
			t.Errorf("%v", err)
		}
		if err == nil && (len(form.user) > maxName || len(form.password) > maxPassword) {
			t.Errorf("%+v", form)
		}
	})
}

func FuzzParseBook(f *testing.F) {
	b := &shelf{}
	if err := Add(b, Account{Name: "a", Users: []string{"a@b"}}, "p"); err != nil {
		f.Fatal(err)
	}
	f.Add(b.b)
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseBook(b)
		if err != nil && !errors.Is(err, ErrBook) {
			t.Error(err)
		}
		for i := range all {
			if _, err := all[i].nodes(); err != nil {
				t.Error(err)
			}
		}
	})
}

// BenchmarkAuthenticate is what a request costs, right or wrong: it bounds how many the server answers.
func BenchmarkAuthenticate(b *testing.B) {
	s := &shelf{}
	if err := Add(s, Account{Name: "a", Users: []string{"a@b"}}, "p"); err != nil {
		b.Fatal(err)
	}
	all := must(List(s))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := authenticate(all, "nobody", "p"); ok {
			b.Fatal("let in")
		}
	}
}

// An account whose password was taken enrols no more, and with a new one gets the same Node-ID again: "if the same user
// returns (e.g., to have their certificate re-issued), the enrollment server should return the same Node-IDs".
func TestOneTimePasswords(t *testing.T) {
	w := newWorld(t)
	book := w.book
	kit := Account{Name: "newcomer", Kit: true}
	enrolBy := func(password string) (*ident.Identity, error) {
		return w.enrol("newcomer", func(r *Request) { r.Password = password })
	}
	if err := Renew(book, kit, "first"); err != nil {
		t.Fatal(err)
	}
	first, err := enrolBy("first")
	if err != nil {
		t.Fatal(err)
	}
	if err := Lock(book, "newcomer"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"first", ""} {
		if _, err := enrolBy(p); !errors.Is(err, ErrAuthentication) {
			t.Errorf("password %q of a locked account: %v", p, err)
		}
	}
	if err := Renew(book, kit, "second"); err != nil {
		t.Fatal(err)
	}
	if _, err := enrolBy("first"); !errors.Is(err, ErrAuthentication) {
		t.Errorf("the password before: %v", err)
	}
	again, err := enrolBy("second")
	if err != nil {
		t.Fatal(err)
	}
	if again.NodeID() != first.NodeID() {
		t.Errorf("Node-ID %v after %v", again.NodeID(), first.NodeID())
	}
	if err := Lock(book, "nobody"); !errors.Is(err, ErrAccount) {
		t.Errorf("account that is not there locked: %v", err)
	}
}
