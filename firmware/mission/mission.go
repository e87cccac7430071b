// Package mission is the mission file: one TOML file that the operator makes once, from which every kit of the
// mission is flashed, and that makes kits trust each other. It holds the overlay's root certificate and key, the
// signed configuration document, the name and passphrase of the handsets' Wi-Fi, and the handset accounts.
//
// The package reads and writes that file strictly, makes a kit's identity from it on the kit's first start
// (LoadOrCreateIdentity), and has the functions behind the operator's commands. It opens no socket and does not
// know what a kit does with any of it. Everything here is called at start or from a command line; nothing is safe
// for concurrent use, but a Mission that nobody changes may be read by all.
package mission

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// ErrInvalid is a mission file that breaks a rule; the error names the key.
var ErrInvalid = errors.New("mission file")

// ErrNoRootKey is a mission without its root key where one is needed.
var ErrNoRootKey = errors.New("mission without its root key")

const (
	version     = 1
	domain      = ".mission.home.arpa" // RFC 8375: names for use inside, never asked of the Internet
	maxFile     = 1 << 20              // bytes
	MaxHandsets = 4096
)

// Mission is the mission file.
type Mission struct {
	Version  int       `toml:"version"`
	Name     string    `toml:"name" comment:"What people call the mission."`
	Overlay  string    `toml:"overlay" comment:"The overlay's name, and the domain of handset addresses."`
	Founded  bool      `toml:"founded,omitempty" comment:"A kit without a mission founded this one for itself."`
	WiFi     WiFi      `toml:"wifi"`
	Root     Root      `toml:"root" comment:"Who has the key can let kits in. A kit does not keep it."`
	Config   string    `toml:"configuration,multiline" comment:"The signed overlay configuration document (RFC 6940 §11.1). Do not change a byte of it."`
	Secret   string    `toml:"shared_secret,omitempty" comment:"Who does not know it gets no link (RFC 6940 §13.4). It is not in the configuration document."`
	Handsets []Handset `toml:"handset,omitempty"`

	document *ident.Document
	trust    *ident.Trust
}

// WiFi is the handsets' network: one name at every kit, so that handsets roam.
type WiFi struct {
	SSID       string `toml:"ssid"`
	Passphrase string `toml:"passphrase"`
}

// Root is the mission's certificate authority, in PEM.
type Root struct {
	Certificate string `toml:"certificate,multiline"`
	Key         string `toml:"key,multiline,omitempty"`
}

// Handset is one handset account. The number is five digits: three of the kit that gave it out, two of its own;
// it belongs to the person and works at any kit.
type Handset struct {
	Name     string `toml:"name"`
	Number   string `toml:"number"`
	Password string `toml:"password"`
}

// AOR is the account's address-of-record without "sip:" in the mission's overlay.
func (m *Mission) AOR(h Handset) string { return h.Number + "@" + m.Overlay }

// Options of New.
type Options struct {
	Overlay string // overlay name; "" makes one of the mission's name
	SSID    string // "" is the mission's name
	// SelfSigned lets anybody in who has the mission's overlay name: kits make their own certificates (RFC 6940 §11.3.1).
	SelfSigned bool
	// SharedSecret makes links ask for a secret besides the certificates (RFC 6940 §13.4); it is drawn here.
	SharedSecret bool
	// Enrol are the https URLs of enrolment servers, which assign Node-IDs (RFC 6940 §11.3).
	Enrol []string
	// Links is what kits link by; "" is ByICE.
	Links Links
	// SelfTuning has the ring tune its timers and tables by itself (RFC 7363): for overlays of dozens of kits.
	SelfTuning bool
	// Configure changes the configuration document before it is signed; may be nil.
	Configure func(*ident.Document)
}

// Links are the ways in which a mission can have its kits link (RFC 6940 §6.6, docs/adr/0014).
type Links string

// Ways to link.
const (
	ByICE    Links = "ice"    // DTLS over UDP, the way found by ICE, through a third kit if need be
	Directly Links = "direct" // without ICE: DTLS over UDP, TLS over TCP where that does not get through
	ByTCP    Links = "tcp"    // TLS over TCP alone
)

func (l Links) configure(d *ident.Document) error {
	switch l {
	case "", ByICE:
	case Directly:
		d.NoICE = true
	case ByTCP:
		d.NoICE, d.Rest.LinkProtocols = true, []string{config.LinkTCPNoICE}
	default:
		return fmt.Errorf("links by %q: want %s, %s or %s", l, ByICE, Directly, ByTCP)
	}
	return nil
}

// New makes a mission: root, signed configuration document, Wi-Fi.
func New(name string, opt Options) (*Mission, error) {
	if err := validateText("name", name, 1, 64); err != nil {
		return nil, err
	}
	if opt.SelfSigned && len(opt.Enrol) > 0 {
		// RFC 6940 §11.3 and §11.3.1 each say what a node MUST do, and it cannot do both.
		return nil, fmt.Errorf("%w: either self-signed certificates or an enrolment server", ErrInvalid)
	}
	if opt.SharedSecret && opt.Links == ByTCP {
		return nil, fmt.Errorf("%w: links by TCP alone ask for no shared secret", ErrInvalid) // no kit could link
	}
	if err := checkEnrol(opt.Enrol); err != nil {
		return nil, err
	}
	if opt.Overlay == "" {
		opt.Overlay = overlayName(name)
	}
	if opt.SSID == "" {
		opt.SSID = ssid(name)
	}
	a, err := ident.NewAuthority(opt.Overlay, wire.MinNodeIDLen)
	if err != nil {
		return nil, err
	}
	key, err := a.KeyPEM()
	if err != nil {
		return nil, err
	}
	d := ident.NewDocument(a)
	d.Rest.SharedSecret, d.Rest.EnrollmentServers = opt.SharedSecret, opt.Enrol
	if opt.SelfSigned {
		// With a root-cert in it, it would not be said who decides over a Node-ID.
		d.SelfSigned, d.RootCerts = true, nil
	}
	if err := opt.Links.configure(d); err != nil {
		return nil, err
	}
	if opt.SelfTuning {
		d.TopologyPlugin = config.ChordSelfTuning
		d.Rest.MandatoryExtensions = append(d.Rest.MandatoryExtensions, config.NSSelfTuning)
	}
	if opt.Configure != nil {
		opt.Configure(d)
	}
	s, err := signerOf(a, d)
	if err != nil {
		return nil, err
	}
	if d, err = d.Sign(s); err != nil {
		return nil, err
	}
	m := &Mission{
		Version: version, Name: name, Overlay: opt.Overlay,
		WiFi:   WiFi{SSID: opt.SSID, Passphrase: passphrase()},
		Root:   Root{Certificate: string(a.CertificatePEM()), Key: string(key)},
		Config: string(d.Raw()),
	}
	if opt.SharedSecret {
		m.Secret = sharedSecret()
	}
	return m, m.check()
}

// checkEnrol wants of each URL what a configuration document does not: a host and a port that can be.
func checkEnrol(urls []string) error {
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil || !strings.EqualFold(u.Scheme, "https") || u.Hostname() == "" || u.User != nil {
			return fmt.Errorf("%w: enrolment server %q: want https://HOST:PORT/PATH", ErrInvalid, s)
		}
		if port := u.Port(); port != "" {
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				return fmt.Errorf("%w: enrolment server %q: port %s is none", ErrInvalid, s, port)
			}
		}
	}
	return nil
}

// signerOf is who signs the documents of a mission: the root, or where it lets nobody in, its key.
func signerOf(a *ident.Authority, d *ident.Document) (*ident.Signer, error) {
	if len(d.RootCerts) == 0 {
		return a.SelfSigner()
	}
	return a.Signer()
}

// Found makes the mission of a lone kit that was given none: it serves its handsets by it, and nobody else has it until
// the kit is paired with another, which then enrols at it (RFC 6940 §11.3).
func Found() (*Mission, error) {
	name := "Kit " + strings.ToUpper(word())
	overlay := overlayName(name)
	m, err := New(name, Options{Overlay: overlay, Enrol: []string{fmt.Sprintf("https://%s:%d%s", overlay, EnrolPort, EnrolPath)}})
	if err != nil {
		return nil, err
	}
	m.Founded = true
	return m, nil
}

// overlayName makes a DNS-legal name of whatever people call their mission.
func overlayName(name string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(name) {
		switch {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	label := b.String()
	label = strings.Trim(label[:min(len(label), 40)], "-")
	if label == "" {
		label = "field"
	}
	// Two missions of one name are different overlays, and their kits must not take each other for their own.
	return label + "-" + word() + domain
}

// ssid is at most 32 bytes (IEEE 802.11 §9.4.2.2) and cut between characters.
func ssid(name string) string {
	for len(name) > 32 {
		r := []rune(name)
		name = string(r[:len(r)-1])
	}
	return strings.TrimSpace(name)
}

// Parse reads a mission file strictly: an unknown key is an error that names it.
func Parse(b []byte) (*Mission, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrInvalid, len(b), maxFile)
	}
	// An editor may have put a mark before it and changed the line ends: that must not break the signature.
	b = bytes.ReplaceAll(bytes.TrimPrefix(b, []byte("\ufeff")), []byte("\r\n"), []byte("\n"))
	m := new(Mission)
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, explain(err))
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	return m, nil
}

// explain makes one line that names the key out of what the TOML reader says. It never quotes the file: what
// stands beside the fault may be a key.
func explain(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		var keys []string
		for _, e := range strict.Errors[:min(len(strict.Errors), 8)] {
			line, _ := e.Position()
			keys = append(keys, fmt.Sprintf("%q (line %d)", strings.Join(e.Key(), "."), line))
		}
		return fmt.Errorf("unknown key %s", strings.Join(keys, ", "))
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, column := bad.Position()
		if key := strings.Join(bad.Key(), "."); key != "" {
			return fmt.Errorf("key %q (line %d): %s", key, line, bad.Error())
		}
		return fmt.Errorf("line %d, column %d: %s", line, column, bad.Error())
	}
	return err
}

// Marshal writes the mission as Parse reads it.
func (m *Mission) Marshal() ([]byte, error) {
	b, err := toml.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrInvalid, len(b), maxFile)
	}
	return b, nil
}

func invalid(key, format string, a ...any) error {
	return fmt.Errorf("%w: key %q: %s", ErrInvalid, key, fmt.Sprintf(format, a...))
}

// check validates everything and prepares document and trust.
func (m *Mission) check() error {
	if m.Version != version {
		return invalid("version", "%d: want %d", m.Version, version)
	}
	if err := validateText("name", m.Name, 1, 64); err != nil {
		return err
	}
	if err := ident.ValidateOverlayName(m.Overlay); err != nil {
		return invalid("overlay", "%v", err)
	}
	if err := validateText("wifi.ssid", m.WiFi.SSID, 1, 32); err != nil {
		return err
	}
	if n := len(m.WiFi.Passphrase); n < 8 || n > 63 || strings.Trim(m.WiFi.Passphrase, printable) != "" {
		return invalid("wifi.passphrase", "want 8 to 63 printable ASCII characters") // WPA's rule; the value is a secret
	}
	d, err := ident.ParseDocument([]byte(m.Config), m.Overlay)
	if err != nil {
		return invalid("configuration", "%v", err)
	}
	if err := d.Supported(); err != nil {
		return invalid("configuration", "%v", err)
	}
	t, err := ident.TrustFor(d)
	if err != nil {
		return invalid("configuration", "%v", err)
	}
	// The clock cannot matter: certificates are valid from before its floor to the end of time.
	if err := d.Verify(d, t, time.Time{}); err != nil {
		return invalid("configuration", "%v", err)
	}
	root, err := ident.ParseCertificatePEM([]byte(m.Root.Certificate))
	if err != nil {
		return invalid("root.certificate", "%v", err)
	}
	if err := checkRoot(root, d); err != nil {
		return err
	}
	if err := m.checkSecret(d); err != nil {
		return err
	}
	m.document, m.trust = d, t
	if m.Root.Key != "" {
		if _, err := m.Authority(); err != nil {
			return invalid("root.key", "%v", err)
		}
	}
	return m.checkHandsets()
}

// checkRoot wants that the mission's root lets kits in, or where nobody does, signs the configuration.
func checkRoot(root *x509.Certificate, d *ident.Document) error {
	if len(d.RootCerts) > 0 {
		if !slices.ContainsFunc(d.RootCerts, root.Equal) {
			return invalid("root.certificate", "not a root-cert of the configuration")
		}
		return nil
	}
	id, err := ident.KeyNodeID(root, d.NodeIDLength)
	if err != nil || !slices.Contains(d.Signers, id) {
		return invalid("root.certificate", "not of a configuration-signer of the configuration")
	}
	return nil
}

// checkSecret wants a secret where the configuration asks for one and has none, and nowhere else.
func (m *Mission) checkSecret(d *ident.Document) error {
	switch {
	case m.Secret == "" && (!d.Rest.SharedSecret || d.Rest.Secret != ""):
		return nil
	case m.Secret == "":
		return invalid("shared_secret", "missing, and the configuration has shared-secret")
	case !d.Rest.SharedSecret:
		return invalid("shared_secret", "the configuration has no shared-secret")
	case len(m.Secret) < 16 || len(m.Secret) > 256 || strings.Trim(m.Secret, printable) != "":
		return invalid("shared_secret", "want 16 to 256 printable ASCII characters") // the value is a secret
	}
	return nil
}

// SharedSecret is what links ask for, nil in a mission without one.
func (m *Mission) SharedSecret() []byte {
	switch {
	case !m.document.Rest.SharedSecret:
		return nil
	case m.Secret == "":
		return []byte(m.document.Rest.Secret) // somebody else's document that has it
	}
	return []byte(m.Secret)
}

func (m *Mission) checkHandsets() error {
	if len(m.Handsets) > MaxHandsets {
		return invalid("handset", "%d accounts, more than %d", len(m.Handsets), MaxHandsets)
	}
	names, numbers := map[string]bool{}, map[string]bool{}
	for i, h := range m.Handsets {
		key := fmt.Sprintf("handset[%d]", i)
		if err := validateText(key+".name", h.Name, 1, maxName); err != nil {
			return err
		}
		if _, err := ParseNumber(h.Number); err != nil {
			return invalid(key+".number", "%v", err)
		}
		if n := len(h.Password); n < 8 || n > 128 || strings.Trim(h.Password, printable) != "" {
			return invalid(key+".password", "want 8 to 128 printable ASCII characters")
		}
		if names[fold(h.Name)] {
			return invalid(key+".name", "%q: twice", h.Name)
		}
		if numbers[h.Number] {
			return invalid(key+".number", "%q: twice", h.Number)
		}
		names[fold(h.Name)], numbers[h.Number] = true, true
	}
	// Both are dialled: a name that is somebody else's number would be two people at one address.
	for i, h := range m.Handsets {
		if numbers[h.Name] && h.Name != h.Number {
			return invalid(fmt.Sprintf("handset[%d].name", i), "%q: the number of another", h.Name)
		}
	}
	return nil
}

// Document is the configuration document.
func (m *Mission) Document() *ident.Document { return m.document }

// Trust believes the kits of this mission.
func (m *Mission) Trust() *ident.Trust { return m.trust }

// HasRootKey reports whether kits can be let in with this copy.
func (m *Mission) HasRootKey() bool { return m.Root.Key != "" }

// Authority is the mission's root; ErrNoRootKey where the copy has none.
func (m *Mission) Authority() (*ident.Authority, error) {
	if m.Root.Key == "" {
		return nil, ErrNoRootKey
	}
	return ident.LoadAuthority(m.Overlay, m.document.NodeIDLength, []byte(m.Root.Certificate), []byte(m.Root.Key))
}

// WithoutRootKey is the copy that a kit keeps.
func (m *Mission) WithoutRootKey() *Mission {
	c := *m
	c.Root.Key = ""
	c.Handsets = slices.Clone(m.Handsets)
	return &c
}

// Same reports that two files are of one mission: the same root.
func (m *Mission) Same(o *Mission) bool {
	return m.Overlay == o.Overlay && strings.TrimSpace(m.Root.Certificate) == strings.TrimSpace(o.Root.Certificate)
}

// Revoke is the mission with a new configuration document that names a lost kit among the bad nodes (RFC 6940
// §11.1): whoever has the document links with that kit no more and believes nothing it signed. It needs the root key.
func (m *Mission) Revoke(id wire.NodeID) (*Mission, error) {
	if slices.Contains(m.document.BadNodes, id) {
		return nil, fmt.Errorf("kit %s: revoked already", id)
	}
	return m.change(func(d *ident.Document) { d.BadNodes = append(d.BadNodes, id) })
}

// LetDiagnose is the mission with a new configuration document by which a kit may ask the others for everything that
// they tell of themselves (access-node, RFC 7851 §7). It needs the root key.
func (m *Mission) LetDiagnose(id wire.NodeID) (*Mission, error) {
	if m.document.MayDiagnose(uint16(wire.DiagSoftwareVersion), id) {
		return nil, fmt.Errorf("kit %s: may ask already", id)
	}
	return m.change(func(d *ident.Document) {
		for kind := wire.DiagStatusInfo; kind <= wire.DiagBatteryStatus; kind++ {
			d.LetDiagnose(uint16(kind), id)
		}
	})
}

// change is the mission with the next configuration document, signed by its root.
func (m *Mission) change(f func(*ident.Document)) (*Mission, error) {
	a, err := m.Authority()
	if err != nil {
		return nil, err
	}
	d, err := ident.ParseDocument([]byte(m.Config), m.Overlay)
	if err != nil {
		return nil, err
	}
	s, err := signerOf(a, d)
	if err != nil {
		return nil, err
	}
	d.Sequence = ident.NextSequence(d.Sequence)
	f(d)
	if d, err = d.Sign(s); err != nil {
		return nil, err
	}
	return m.WithDocument(d)
}

// WithDocument is the mission with another configuration document, which must supersede the one in force (a higher
// sequence, or of two with the same the one that the tie-break of docs/adr/0019 prefers) and be signed by a
// configuration-signer of that.
func (m *Mission) WithDocument(d *ident.Document) (*Mission, error) {
	if !config.Supersedes(m.document, d) {
		return nil, fmt.Errorf("%w: configuration of sequence %d and hash %s does not supersede the one in force, %d and %s",
			ErrInvalid, d.Sequence, d.ShortHash(), m.document.Sequence, m.document.ShortHash())
	}
	if err := d.Verify(m.document, m.trust, time.Time{}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	c := *m
	c.Handsets = slices.Clone(m.Handsets)
	c.Config = string(d.Raw())
	return &c, c.check()
}

// Merge is the mission after two stewards signed different documents of which neither knew of the other
// (docs/adr/0019): a new document with the next sequence that goes on from the one that superseded the other, and revokes
// whom either revoked. It needs the root key.
func (m *Mission) Merge(other *ident.Document) (*Mission, error) {
	if other.Same(m.document) {
		return nil, fmt.Errorf("%w: the same configuration", ErrInvalid)
	}
	// An older one, too, which WithDocument would refuse: what it revoked may be missing in the newer.
	if err := other.Verify(m.document, m.trust, time.Time{}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	base, second := m.document, other
	if config.Supersedes(base, second) {
		base, second = second, base
	}
	d := *base
	d.Sequence = ident.NextSequence(base.Sequence)
	d.BadNodes = slices.Clone(base.BadNodes)
	for _, id := range second.BadNodes {
		if !slices.Contains(d.BadNodes, id) {
			d.BadNodes = append(d.BadNodes, id)
		}
	}
	a, err := m.Authority()
	if err != nil {
		return nil, err
	}
	s, err := signerOf(a, &d)
	if err != nil {
		return nil, err
	}
	signed, err := d.Sign(s)
	if err != nil {
		return nil, err
	}
	return m.WithDocument(signed)
}

// Adopt is what a kit of mission m goes on with when it gets a newer file o of the same mission: o's accounts and
// Wi-Fi, never its root key, and of the two configuration documents the one that supersedes the other, because a kit
// may have learnt a newer one from its neighbours. It fails when o is of another mission.
func (m *Mission) Adopt(o *Mission) (*Mission, error) {
	if !m.Same(o) {
		return nil, fmt.Errorf("%w %q: of another mission than %q", ErrInvalid, o.Name, m.Name)
	}
	c := o.WithoutRootKey()
	c.Founded = m.Founded && o.Founded
	if config.Supersedes(o.document, m.document) {
		c.Config, c.document, c.trust = m.Config, m.document, m.trust
	}
	return c, nil
}
