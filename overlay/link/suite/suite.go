// Package suite is the cipher suites that links over DTLS offer and accept, and their exporter (RFC 5705). All of them
// are ChaCha20-Poly1305 (RFC 7905): its nonces come from the record's sequence number and not from a random source,
// which is what GO-2026-4479 is about in the library's own AEADs; on boards without AES instructions it is the faster
// cipher as well.
//
// It knows the DTLS library's interface for suites and nothing else of links. A Suite and its Exporter belong to one
// handshake; all their methods may be called from any goroutine.
package suite

import (
	"bytes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sync"
	"sync/atomic"

	"github.com/pion/dtls/v2"
	"github.com/pion/dtls/v2/pkg/crypto/clientcertificate"
	"github.com/pion/dtls/v2/pkg/crypto/prf"
	"github.com/pion/dtls/v2/pkg/protocol"
	"github.com/pion/dtls/v2/pkg/protocol/recordlayer"
	"golang.org/x/crypto/chacha20poly1305"
)

// The suites (RFC 7905 §2).
const (
	// ECDSA is TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: certificates at both ends.
	ECDSA dtls.CipherSuiteID = 0xCCA9
	// PSK is TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256: a shared secret (RFC 4279) and, because a secret that all
	// members know keeps nothing from a member, Diffie-Hellman with it (RFC 5489).
	PSK dtls.CipherSuiteID = 0xCCAC
)

var (
	errSuiteNotReady = errors.New("cipher suite without keys")
	errShortRecord   = errors.New("record shorter than its tag")
	errPlainRecord   = errors.New("unprotected record in a protected epoch")
)

// Suite is one of the suites in one handshake.
type Suite struct {
	id       dtls.CipherSuiteID
	keys     atomic.Pointer[suiteKeys]
	exporter *Exporter
}

// New makes the suite of one handshake, whose secret e keeps. id is ECDSA or PSK.
func New(id dtls.CipherSuiteID, e *Exporter) *Suite { return &Suite{id: id, exporter: e} }

// Only is a list of that one suite, as the library wants it.
func Only(id dtls.CipherSuiteID, e *Exporter) func() []dtls.CipherSuite {
	return func() []dtls.CipherSuite { return []dtls.CipherSuite{New(id, e)} }
}

type suiteKeys struct {
	local, remote     cipher.AEAD
	localIV, remoteIV [chacha20poly1305.NonceSize]byte
}

// String is the suite's registered name.
func (s *Suite) String() string {
	if s.id == PSK {
		return "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256"
	}
	return "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
}

// ID is the suite's number.
func (s *Suite) ID() dtls.CipherSuiteID { return s.id }

// CertificateType is what the suite signs with, where it does.
func (*Suite) CertificateType() clientcertificate.Type { return clientcertificate.ECDSASign }

// HashFunc is the hash of the handshake.
func (*Suite) HashFunc() func() hash.Hash { return sha256.New }

// ECC tells that the suite uses elliptic curves.
func (*Suite) ECC() bool { return true }

// IsInitialized tells whether there are keys.
func (s *Suite) IsInitialized() bool { return s.keys.Load() != nil }

// AuthenticationType is by certificate or by secret.
func (s *Suite) AuthenticationType() dtls.CipherSuiteAuthenticationType {
	if s.id == PSK {
		return dtls.CipherSuiteAuthenticationTypePreSharedKey
	}
	return dtls.CipherSuiteAuthenticationTypeCertificate
}

// KeyExchangeAlgorithm has Diffie-Hellman in it in any case.
func (s *Suite) KeyExchangeAlgorithm() dtls.CipherSuiteKeyExchangeAlgorithm {
	if s.id == PSK {
		return dtls.CipherSuiteKeyExchangeAlgorithmPsk | dtls.CipherSuiteKeyExchangeAlgorithmEcdhe
	}
	return dtls.CipherSuiteKeyExchangeAlgorithmEcdhe
}

// Init derives the keys: no MAC keys, two 32-byte keys, two 12-byte IVs (RFC 5246 §6.3, RFC 7905 §2).
func (s *Suite) Init(masterSecret, clientRandom, serverRandom []byte, isClient bool) error {
	m, err := prf.GenerateEncryptionKeys(masterSecret, clientRandom, serverRandom,
		0, chacha20poly1305.KeySize, chacha20poly1305.NonceSize, s.HashFunc())
	if err != nil {
		return fmt.Errorf("key derivation: %w", err)
	}
	localKey, localIV, remoteKey, remoteIV := m.ServerWriteKey, m.ServerWriteIV, m.ClientWriteKey, m.ClientWriteIV
	if isClient {
		localKey, localIV, remoteKey, remoteIV = remoteKey, remoteIV, localKey, localIV
	}
	k := &suiteKeys{}
	if k.local, err = chacha20poly1305.New(localKey); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	if k.remote, err = chacha20poly1305.New(remoteKey); err != nil {
		return fmt.Errorf("read key: %w", err)
	}
	copy(k.localIV[:], localIV)
	copy(k.remoteIV[:], remoteIV)
	s.keys.Store(k)
	s.exporter.set(masterSecret, clientRandom, serverRandom)
	return nil
}

// nonceAndData computes the nonce (RFC 7905 §2: IV xor the padded 64-bit epoch and sequence number) and the
// additional data (RFC 5246 §6.2.3.3) of a record with n bytes of plaintext.
func nonceAndData(iv *[12]byte, h *recordlayer.Header, n int) (nonce [12]byte, data [13]byte) {
	binary.BigEndian.PutUint64(data[:], h.SequenceNumber)
	binary.BigEndian.PutUint16(data[:], h.Epoch)
	data[8] = byte(h.ContentType)
	data[9], data[10] = h.Version.Major, h.Version.Minor
	binary.BigEndian.PutUint16(data[11:], uint16(n))
	nonce = *iv
	for i := range 8 {
		nonce[4+i] ^= data[i]
	}
	return nonce, data
}

// Encrypt seals raw, a record header followed by its plaintext.
func (s *Suite) Encrypt(pkt *recordlayer.RecordLayer, raw []byte) ([]byte, error) {
	k := s.keys.Load()
	if k == nil {
		return nil, errSuiteNotReady
	}
	plain := raw[recordlayer.HeaderSize:]
	nonce, data := nonceAndData(&k.localIV, &pkt.Header, len(plain))
	out := make([]byte, recordlayer.HeaderSize, len(raw)+chacha20poly1305.Overhead)
	copy(out, raw)
	out = k.local.Seal(out, nonce[:], plain, data[:])
	binary.BigEndian.PutUint16(out[recordlayer.HeaderSize-2:], uint16(len(out)-recordlayer.HeaderSize))
	return out, nil
}

// Decrypt opens in, one whole record. The library's own suites let any ChangeCipherSpec through unread, also one
// that claims a protected epoch; nobody sends such a record, so here it is an error.
func (s *Suite) Decrypt(in []byte) ([]byte, error) {
	k := s.keys.Load()
	if k == nil {
		return nil, errSuiteNotReady
	}
	var h recordlayer.Header
	if err := h.Unmarshal(in); err != nil {
		return nil, fmt.Errorf("record header: %w", err)
	}
	if h.ContentType == protocol.ContentTypeChangeCipherSpec {
		return nil, errPlainRecord
	}
	if len(in) < recordlayer.HeaderSize+chacha20poly1305.Overhead {
		return nil, errShortRecord
	}
	sealed := in[recordlayer.HeaderSize:]
	nonce, data := nonceAndData(&k.remoteIV, &h, len(sealed)-chacha20poly1305.Overhead)
	out := make([]byte, recordlayer.HeaderSize, len(in)-chacha20poly1305.Overhead)
	copy(out, in)
	out, err := k.remote.Open(out, nonce[:], sealed, data[:])
	if err != nil {
		return nil, fmt.Errorf("record authentication: %w", err)
	}
	return out, nil
}

// Exporter derives keys for others from a handshake (RFC 5705). The library's own goes through a copy of its state
// that has forgotten a custom suite; the suite is told all that is needed.
type Exporter struct {
	mu           sync.Mutex
	masterSecret []byte
	seed         []byte // client random, server random
}

func (e *Exporter) set(masterSecret, clientRandom, serverRandom []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.masterSecret = bytes.Clone(masterSecret)
	e.seed = append(bytes.Clone(clientRandom), serverRandom...)
}

// Export is PRF(master_secret, label, randoms [, context]) (RFC 5705 §4). A nil context is none, which differs
// from an empty one.
func (e *Exporter) Export(label string, context []byte, n int) ([]byte, error) {
	switch label {
	case "client finished", "server finished", "master secret", "extended master secret", "key expansion", "":
		return nil, fmt.Errorf("exporter label %q is not free", label)
	}
	if n <= 0 || n > maxExport || len(context) > 0xffff {
		return nil, fmt.Errorf("exporter: %d bytes with a context of %d", n, len(context))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.masterSecret == nil {
		return nil, errSuiteNotReady
	}
	seed := append([]byte(label), e.seed...)
	if context != nil {
		seed = binary.BigEndian.AppendUint16(seed, uint16(len(context)))
		seed = append(seed, context...)
	}
	out, err := prf.PHash(e.masterSecret, seed, n, sha256.New)
	if err != nil {
		return nil, fmt.Errorf("exporter: %w", err)
	}
	return out, nil
}

// maxExport is far above what any SRTP profile needs.
const maxExport = 1024
