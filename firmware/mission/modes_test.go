package mission

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
)

// RFC 6940 §11.3.1: where self-signed certificates are permitted "a node MUST generate its own self-signed certificate
// to join the overlay". Nobody needs the root key for it.
func TestSelfSignedMission(t *testing.T) {
	m := must(New("meeting", Options{SelfSigned: true}))
	d := m.Document()
	if !d.SelfSigned || len(d.RootCerts) != 0 || d.Rest.Digest != config.SHA256 {
		t.Errorf("%+v", d)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "meeting.mission")
	if err := m.WithoutRootKey().Create(file); err != nil {
		t.Fatal(err)
	}
	id, got, founded, err := LoadOrCreateIdentity(filepath.Join(dir, "state"), file)
	if err != nil || founded {
		t.Fatal(err)
	}
	p, err := got.Trust().VerifyChain(id.TLSCertificate().Certificate, time.Time{})
	if err != nil || p.NodeID != id.NodeID() {
		t.Errorf("%v", err)
	}
	again, _, _, err := LoadOrCreateIdentity(filepath.Join(dir, "state"), file)
	if err != nil || again.NodeID() != id.NodeID() || !bytes.Equal(again.CertificatePEM(), id.CertificatePEM()) {
		t.Errorf("another identity after a second start: %v", err)
	}
	if s := must(id.SignerFor("10001@" + m.Overlay)); len(s.Certificates()) != 1 {
		t.Errorf("%d certificates for a handset, want its self-signed one", len(s.Certificates()))
	}
	// The operator still signs documents, and with them revokes.
	newer := must(m.Revoke(id.NodeID()))
	if _, err := must(got.WithDocument(newer.Document())).Trust().VerifyChain(id.TLSCertificate().Certificate, time.Time{}); !errors.Is(err, ident.ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
	// Nobody else does: a document that names its own signers counts for nothing.
	other := must(New("meeting", Options{SelfSigned: true, Overlay: m.Overlay}))
	forged := must(other.Revoke(id.NodeID()))
	if _, err := got.WithDocument(forged.Document()); err == nil {
		t.Error("a document by somebody else's signer was taken")
	}
	mixed := *m
	mixed.Config = other.Config
	if _, err := Parse(must(mixed.Marshal())); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "root.certificate") {
		t.Errorf("another's configuration under this root: %v", err)
	}
}

// RFC 6940 §13.4: "all the peers MUST share a single symmetric key". The kits get it with the mission file; the
// configuration document, which travels, says only that there is one.
func TestSharedSecretMission(t *testing.T) {
	m := must(New("closed", Options{SharedSecret: true}))
	secret := m.SharedSecret()
	if len(secret) != 52 || bytes.Equal(secret, must(New("closed", Options{SharedSecret: true})).SharedSecret()) {
		t.Errorf("secret of %d bytes", len(secret))
	}
	if !m.Document().Rest.SharedSecret || bytes.Contains(m.Document().Raw(), secret) {
		t.Error("the document does not say that there is a secret, or says which")
	}
	b := must(m.WithoutRootKey().Marshal())
	if got := must(Parse(b)); !bytes.Equal(got.SharedSecret(), secret) {
		t.Error("lost in the file")
	}
	for name, c := range map[string]struct{ old, new, want string }{
		"missing":   {string(secret), "", "shared_secret"},
		"too short": {string(secret), "short", "shared_secret"},
	} {
		_, err := Parse(bytes.Replace(b, []byte(c.old), []byte(c.new), 1))
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), string(secret)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain := must(New("open", Options{}))
	if plain.SharedSecret() != nil {
		t.Error("a secret that nobody asked for")
	}
	plain.Secret = string(secret)
	if _, err := Parse(must(plain.Marshal())); !errors.Is(err, ErrInvalid) {
		t.Errorf("a secret that the configuration does not want: %v", err)
	}
	// TLS over TCP has no way to ask for it, and nothing else is permitted: no kit could link.
	if _, err := New("closed", Options{SharedSecret: true, Links: ByTCP}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a secret on TCP: %v", err)
	}
	var out bytes.Buffer
	t.Chdir(t.TempDir())
	if err := (NewCommand{Name: "closed", SharedSecret: true, SelfSigned: true, Links: Directly, Out: "x.mission"}).Write(&out); err != nil {
		t.Fatal(err)
	}
	made := must(Load("x.mission"))
	if err := (ShowCommand{File: "x.mission", Secrets: true}).Write(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), made.Secret) || !strings.Contains(out.String(), "shared secret") || !strings.Contains(out.String(), "make their own certificates") {
		t.Errorf("%s", out.String())
	}
}

// A kit without a certificate learns where to get one.
func TestEnrolMission(t *testing.T) {
	const url = "https://steward.example:6084/enrol"
	m := must(New("relief", Options{Enrol: []string{url}}))
	if got := m.Document().Rest.EnrollmentServers; len(got) != 1 || got[0] != url {
		t.Errorf("%q", got)
	}
	file := filepath.Join(t.TempDir(), "m")
	if err := m.WithoutRootKey().Create(file); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), "state")
	if _, _, _, err := LoadOrCreateIdentity(state, file); !errors.Is(err, ErrNoRootKey) || !strings.Contains(err.Error(), url) {
		t.Errorf("%v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := New("relief", Options{Enrol: []string{url}, SelfSigned: true}); !errors.Is(err, ErrInvalid) {
		t.Errorf("self-signed and enrolled: %v", err)
	}
	for _, bad := range []string{"http://in.the.clear", "https://host:65536/enrol", "https://host:0/enrol", "https:///enrol", "https://me:secret@host/enrol", "host"} {
		if _, err := New("relief", Options{Enrol: []string{bad}}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Two copies of the root signed the same sequence: each kit ends with the same document, from whichever it comes
// (docs/adr/0019).
func TestTieOfDocuments(t *testing.T) {
	m := must(New("relief", Options{}))
	authority := must(m.Authority())
	a := must(m.Revoke(must(authority.NewIdentity()).NodeID()))
	b := must(m.Revoke(must(authority.NewIdentity()).NodeID()))
	winner, loser := a, b
	if config.Supersedes(a.Document(), b.Document()) {
		winner, loser = b, a
	}
	if got := must(loser.WithDocument(winner.Document())); !got.Document().Same(winner.Document()) {
		t.Error("the loser's kit keeps its own")
	}
	if _, err := winner.WithDocument(loser.Document()); !errors.Is(err, ErrInvalid) {
		t.Errorf("the winner's kit: %v", err)
	}
	for _, from := range [][2]*Mission{{winner, loser}, {loser, winner}} {
		if got := must(from[0].Adopt(from[1])); !got.Document().Same(winner.Document()) {
			t.Error("an operator's file brings the losing document")
		}
	}
}

// "A steward can then merge": after the tie both revocations count, and everybody goes over to the result.
func TestMergeOfDocuments(t *testing.T) {
	m := must(New("relief", Options{}))
	authority := must(m.Authority())
	lost, stolen := must(authority.NewIdentity()), must(authority.NewIdentity())
	a, b := must(m.Revoke(lost.NodeID())), must(m.Revoke(stolen.NodeID()))
	for _, pair := range [][2]*Mission{{a, b}, {b, a}} {
		merged := must(pair[0].Merge(pair[1].Document()))
		d := merged.Document()
		if d.Sequence != 3 || len(d.BadNodes) != 2 {
			t.Errorf("sequence %d, %v", d.Sequence, d.BadNodes)
		}
		for _, kit := range []*Mission{a, b, m} {
			if _, err := kit.WithoutRootKey().WithDocument(d); err != nil {
				t.Errorf("refused by a kit with sequence %d: %v", kit.Document().Sequence, err)
			}
		}
	}
	if _, err := a.Merge(a.Document()); !errors.Is(err, ErrInvalid) {
		t.Errorf("with itself: %v", err)
	}
	if _, err := a.WithoutRootKey().Merge(b.Document()); !errors.Is(err, ErrNoRootKey) {
		t.Errorf("without the root key: %v", err)
	}
	stranger := must(New("relief", Options{Overlay: m.Overlay}))
	if _, err := a.Merge(stranger.Document()); !errors.Is(err, ErrInvalid) {
		t.Errorf("a stranger's: %v", err)
	}

	t.Chdir(t.TempDir())
	var out bytes.Buffer
	for name, mission := range map[string]*Mission{"a.mission": a, "b.mission": b} {
		if err := mission.Create(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := (DocumentCommand{File: "b.mission"}).Write(&out); err != nil || !bytes.Equal(out.Bytes(), b.Document().Raw()) {
		t.Errorf("the document is not printed as it is: %v", err)
	}
	if err := os.WriteFile("b.relo", out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (MergeCommand{File: "b.mission", Other: "a.mission"}).Write(&out); err != nil {
		t.Error(err)
	}
	if err := (MergeCommand{File: "a.mission", Other: "b.relo"}).Write(&out); err != nil {
		t.Error(err)
	}
	if got := must(Load("a.mission")).Document(); len(got.BadNodes) != 2 || got.Sequence != 3 {
		t.Errorf("sequence %d, %v", got.Sequence, got.BadNodes)
	}
	if err := os.WriteFile("x", []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (MergeCommand{File: "a.mission", Other: "x"}).Write(&out); !errors.Is(err, ErrInvalid) {
		t.Errorf("nonsense: %v", err)
	}
}

func TestLinksAndSelfTuningAreInTheDocument(t *testing.T) {
	for _, c := range []struct {
		opt   Options
		noICE bool
		names []string
		ring  string
	}{
		{Options{}, false, nil, config.ChordReload},
		{Options{Links: ByICE}, false, nil, config.ChordReload},
		{Options{Links: Directly, SelfTuning: true}, true, nil, config.ChordSelfTuning},
		{Options{Links: ByTCP}, true, []string{"TLS-TCP-FH-NO-ICE"}, config.ChordReload},
	} {
		m, err := New("relief", c.opt)
		if err != nil {
			t.Fatalf("%+v: %v", c.opt, err)
		}
		// As a kit reads it from the file.
		b, err := m.Marshal()
		if err == nil {
			m, err = Parse(b)
		}
		if err != nil {
			t.Fatalf("%+v: %v", c.opt, err)
		}
		if d := m.Document(); d.NoICE != c.noICE || !slices.Equal(d.Rest.LinkProtocols, c.names) || d.TopologyPlugin != c.ring {
			t.Errorf("%+v: no-ice %v, protocols %v, plugin %s", c.opt, d.NoICE, d.Rest.LinkProtocols, d.TopologyPlugin)
		}
	}
	if _, err := New("relief", Options{Links: "pigeon"}); err == nil {
		t.Error("links by pigeon")
	}
}
