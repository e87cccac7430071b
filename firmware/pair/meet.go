package pair

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"strings"
	"time"
)

// Protocol is the ALPN name of what two kits say to each other while they pair.
const Protocol = "fieldkit-pair/1"

// Bounds of frames in bytes.
const (
	maxFrame = 8 << 10
	maxOffer = 4 << 20 // one that carries a mission with all its handsets
	nonceLen = 32
)

// Labels keep the hashes of this protocol apart from each other and from those of others.
const (
	labelCommit   = "fieldkit pairing commitment"
	labelCode     = "fieldkit pairing code"
	exportCode    = "EXPORTER-fieldkit-pairing-code"
	exportAccount = "EXPORTER-fieldkit-pairing-password"
)

var errProtocol = errors.New("pairing protocol")

// errSpoilt is a meeting that the other kit left when it could know the code and had not shown its nonce: who does that
// often enough gets a code of its choice.
var errSpoilt = errors.New("pairing left before its nonce was shown")

// Session is what a kit makes for one press of its button: a key that is used for nothing else.
type Session struct {
	ID   ID
	cert tls.Certificate
}

// NewSession makes a key and a certificate around it, which says nothing.
func NewSession() (*Session, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("pairing key: %w", err)
	}
	// Nobody asks for the times: RFC 5280 §4.1.2.5 has this end for a certificate that has none.
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("pairing certificate: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("pairing key: %w", err)
	}
	return &Session{ID: sha256.Sum256(spki), cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}}, nil
}

// config is for both ends. The certificates are names of the sessions and nothing else: what a session is worth, the code
// tells that people compare.
func (s *Session) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{Protocol}, Certificates: []tls.Certificate{s.cert},
		ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, // there is nobody whose signature could tell
		VerifyConnection: func(c tls.ConnectionState) error {
			if c.NegotiatedProtocol != Protocol {
				return fmt.Errorf("%w: no ALPN", errProtocol)
			}
			_, err := sessionOf(c)
			return err
		},
	}
}

// sessionOf is the session whose key the far end proved to have.
func sessionOf(c tls.ConnectionState) (ID, error) {
	if len(c.PeerCertificates) != 1 {
		return ID{}, fmt.Errorf("%w: %d certificates, want 1", errProtocol, len(c.PeerCertificates))
	}
	return sha256.Sum256(c.PeerCertificates[0].RawSubjectPublicKeyInfo), nil
}

// Meeting is what two kits know of each other after Meet.
type Meeting struct {
	Session    ID // of the other kit
	Self, Peer Facts
	// Code is for people: the same at both kits if and only if, but for one case in as many as there are codes, nobody is
	// between them.
	Code uint32
	// Password is known to the two ends of the connection only.
	Password string
}

// hello opens the exchange in both directions.
type hello struct {
	Facts  Facts  `json:"facts"`
	Commit []byte `json:"commit,omitempty"` // of the one who connected: a hash of its nonce
	Nonce  []byte `json:"nonce,omitempty"`  // of the other one
}

type opening struct {
	Nonce []byte `json:"nonce"`
}

// Meet exchanges what the two kits say of themselves and what the code is made of, over a connection whose handshake is
// done. Who connected commits to its nonce before it sees the other's, and shows it afterwards: neither end, and nobody
// between them, can look for nonces that give a code of their choice (as ZRTP does, RFC 6189 §4.4.1.1). The code covers
// the keys of the TLS connection, the sessions of both and what both said.
func Meet(conn io.ReadWriter, state tls.ConnectionState, own ID, connected bool, self Facts) (*Meeting, error) {
	peer, err := sessionOf(state)
	if err != nil {
		return nil, err
	}
	if peer == own {
		return nil, fmt.Errorf("%w: the kit itself", errProtocol)
	}
	nonce := make([]byte, nonceLen)
	_, _ = rand.Read(nonce) // it never fails: the runtime ends the program first
	var t transcript
	if connected {
		err = t.connect(conn, self, nonce)
		t.first, t.second = own, peer
	} else {
		err = t.answer(conn, self, nonce)
		t.first, t.second = peer, own
	}
	if err != nil {
		return nil, err
	}
	if err := t.peer.Facts.check(); err != nil {
		return nil, err
	}
	m := &Meeting{Session: peer, Self: self, Peer: t.peer.Facts}
	if m.Code, err = t.code(&state); err != nil {
		return nil, err
	}
	secret, err := state.ExportKeyingMaterial(exportAccount, nil, 20)
	if err != nil {
		return nil, fmt.Errorf("pairing password: %w", err)
	}
	m.Password = strings.ToLower(base32.StdEncoding.EncodeToString(secret))
	return m, nil
}

// transcript is what both ends have to agree on.
type transcript struct {
	first, second ID     // of the one who connected, and the other
	hellos        []byte // hash over both, in that order
	nonce         []byte // of the one who connected
	peer          hello
}

func commitment(nonce []byte) []byte {
	h := sha256.Sum256(append([]byte(labelCommit), nonce...))
	return h[:]
}

func (t *transcript) connect(conn io.ReadWriter, self Facts, nonce []byte) error {
	mine, err := writeFrame(conn, hello{Facts: self, Commit: commitment(nonce)})
	if err != nil {
		return err
	}
	theirs, err := readFrame(conn, fixed(maxFrame), &t.peer)
	if err != nil {
		return err
	}
	if len(t.peer.Nonce) != nonceLen || t.peer.Commit != nil {
		return fmt.Errorf("%w: answer without a nonce", errProtocol)
	}
	t.nonce = nonce
	t.both(mine, theirs)
	_, err = writeFrame(conn, opening{Nonce: nonce})
	return err
}

func (t *transcript) answer(conn io.ReadWriter, self Facts, nonce []byte) error {
	theirs, err := readFrame(conn, fixed(maxFrame), &t.peer)
	if err != nil {
		return err
	}
	if len(t.peer.Commit) != sha256.Size || t.peer.Nonce != nil {
		return fmt.Errorf("%w: no commitment", errProtocol)
	}
	mine, err := writeFrame(conn, hello{Facts: self, Nonce: nonce})
	if err != nil {
		return err
	}
	var o opening
	if _, err := readFrame(conn, fixed(maxFrame), &o); err != nil {
		return fmt.Errorf("%w: %w", errSpoilt, err)
	}
	if len(o.Nonce) != nonceLen || subtle.ConstantTimeCompare(commitment(o.Nonce), t.peer.Commit) != 1 {
		return fmt.Errorf("%w: %w: nonce that was not committed to", errSpoilt, errProtocol)
	}
	t.nonce = o.Nonce
	t.both(theirs, mine)
	return nil
}

func (t *transcript) both(first, second []byte) {
	a, b := sha256.Sum256(first), sha256.Sum256(second)
	t.hellos = append(a[:], b[:]...)
}

// code is of fixed-length parts, so that no two transcripts look alike.
func (t *transcript) code(state *tls.ConnectionState) (uint32, error) {
	channel, err := state.ExportKeyingMaterial(exportCode, nil, sha256.Size)
	if err != nil {
		return 0, fmt.Errorf("pairing code: %w", err)
	}
	h := sha256.New()
	for _, b := range [][]byte{[]byte(labelCode), channel, t.first[:], t.second[:], t.hellos, t.nonce} {
		h.Write(b)
	}
	return binary.BigEndian.Uint32(h.Sum(nil)), nil
}

// message is what follows the meeting, one of its fields.
type message struct {
	Confirmed bool   `json:"confirmed,omitempty"` // the code, at the button of the sender
	Offer     string `json:"offer,omitempty"`     // the mission, from host to guest after both confirmed
	Done      bool   `json:"done,omitempty"`      // the guest is in
	End       Why    `json:"end,omitempty"`       // the sender ended it
}

// writeFrame writes v as four bytes of length and JSON, and returns the JSON.
func writeFrame(w io.Writer, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("pairing frame: %w", err)
	}
	if len(b) > maxOffer {
		return nil, fmt.Errorf("%w: frame of %d bytes", errProtocol, len(b))
	}
	if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
		return nil, fmt.Errorf("pairing frame: %w", err)
	}
	return b, nil
}

func fixed(limit int) func() int { return func() int { return limit } }

// readFrame reads one of at most limit bytes strictly into v, and returns the JSON. The limit is asked for once there is
// something to read.
func readFrame(r io.Reader, limit func() int, v any) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("pairing frame: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if most := limit(); n == 0 || n > uint32(most) {
		return nil, fmt.Errorf("%w: frame of %d bytes, at most %d", errProtocol, n, most)
	}
	// As it comes: a length alone must not cost memory.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(b) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("pairing frame: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return nil, fmt.Errorf("%w: malformed frame", errProtocol)
	}
	return b, nil
}
