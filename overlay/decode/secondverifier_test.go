package decode

// This file is a second verifier of RELOAD's signatures, written from RFC 6940 alone: §6.3.2 (ForwardingHeader), §6.3.3
// (MessageContents), §6.3.4 (SecurityBlock, "overlay || transaction_id || MessageContents || SignerIdentity"), §7.1
// ("resource_id || kind || storage_time || StoredDataValue || SignerIdentity") and §7.2, §7.4.1.1 and §7.4.2.2 for where the
// values are. It shares no code with wire, ident or this package, and reads nothing but bytes;
// TestSecondVerifierSharesNothing holds it to that. Where §7.1 says too little, it follows docs/adr/0001: the Resource-ID
// without its length, an array entry with index 0.

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

var (
	errSecondShort = errors.New("second verifier: bytes missing")
	errSecondBad   = errors.New("second verifier: signature does not verify")
)

// secondCursor walks over bytes.
type secondCursor struct {
	all []byte
	pos int
	bad bool
}

func (c *secondCursor) bytes(n int) []byte {
	if c.bad || n < 0 || n > len(c.all)-c.pos {
		c.bad = true
		return nil
	}
	c.pos += n
	return c.all[c.pos-n : c.pos]
}

func (c *secondCursor) number(n int) int {
	var wide [8]byte
	copy(wide[8-n:], c.bytes(n))
	return int(binary.BigEndian.Uint64(wide[:]))
}

// behind is a vector behind a length of n bytes.
func (c *secondCursor) behind(n int) *secondCursor {
	return &secondCursor{all: c.bytes(c.number(n)), bad: c.bad}
}

func (c *secondCursor) left() bool { return !c.bad && c.pos < len(c.all) }

// secondSignature is a Signature of §6.3.4 with the SignerIdentity as it stood there.
type secondSignature struct {
	hash, algorithm byte
	identity, value []byte
}

func (c *secondCursor) signature() (s secondSignature) {
	s.hash, s.algorithm = byte(c.number(1)), byte(c.number(1))
	begin := c.pos
	c.bytes(1)
	c.bytes(c.number(2))
	if !c.bad {
		s.identity = c.all[begin:c.pos]
	}
	s.value = c.bytes(c.number(2))
	return s
}

// secondMessage is what of a message matters to signatures.
type secondMessage struct {
	overlay, transaction []byte
	code                 int
	contents, body       []byte
	certificates         [][]byte
	signature            secondSignature
}

func secondParse(message []byte) (m secondMessage, err error) {
	c := &secondCursor{all: message}
	c.bytes(4)             // relo_token
	m.overlay = c.bytes(4) //
	c.bytes(2 + 1 + 1)     // configuration_sequence, version, ttl
	c.bytes(4 + 4)         // fragment, length
	m.transaction = c.bytes(8)
	c.bytes(4) // max_response_length
	via, dest, options := c.number(2), c.number(2), c.number(2)
	c.bytes(via + dest + options)
	begin := c.pos
	m.code = c.number(2)
	m.body = c.bytes(c.number(4))
	c.bytes(c.number(4)) // extensions
	if !c.bad {
		m.contents = message[begin:c.pos]
	}
	for list := c.behind(2); list.left(); {
		typ, der := list.number(1), list.bytes(list.number(2))
		if list.bad {
			return m, errSecondShort
		}
		if typ == 0 { // X.509
			m.certificates = append(m.certificates, der)
		}
	}
	m.signature = c.signature()
	if c.bad || c.left() {
		return m, errSecondShort
	}
	return m, nil
}

// verify checks one signature over input followed by the identity.
func (m *secondMessage) verify(s secondSignature, input []byte) error {
	key, err := m.key(s.identity)
	if err != nil {
		return err
	}
	const sha256Algorithm, rsaAlgorithm, ecdsaAlgorithm = 4, 1, 3
	digest := sha256.Sum256(append(bytes.Clone(input), s.identity...))
	ok := false
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		ok = s.algorithm == ecdsaAlgorithm && ecdsa.VerifyASN1(key, digest[:], s.value)
	case *rsa.PublicKey:
		ok = s.algorithm == rsaAlgorithm && rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], s.value) == nil
	}
	if s.hash != sha256Algorithm || !ok {
		return errSecondBad
	}
	return nil
}

// key is that of the certificate that an identity names.
func (m *secondMessage) key(identity []byte) (crypto.PublicKey, error) {
	c := &secondCursor{all: identity}
	typ := c.number(1)
	value := c.behind(2)
	algorithm, sum := value.number(1), value.bytes(value.number(1))
	if c.bad || value.bad || c.left() || value.left() || algorithm != 4 {
		return nil, fmt.Errorf("%w: identity %x", errSecondBad, identity)
	}
	for _, der := range m.certificates {
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		var names [][]byte // what may have been hashed
		switch typ {
		case 1: // cert_hash
			names = [][]byte{der}
		case 2: // cert_hash_node_id: H(NodeId || certificate)
			for _, uri := range parsed.URIs {
				// "reload:" URI with one Destination of type node (1): type, length, Node-ID
				list, err := hex.DecodeString(uri.User.Username())
				if err == nil && uri.Scheme == "reload" && len(list) > 2 && list[0] == 1 && int(list[1]) == len(list)-2 {
					names = append(names, append(bytes.Clone(list[2:]), der...))
				}
			}
		}
		for _, name := range names {
			if found := sha256.Sum256(name); bytes.Equal(found[:], sum) {
				return parsed.PublicKey, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: no certificate of identity %x", errSecondBad, identity)
}

// secondMessageInput is what a message's signature covers, without the identity.
func secondMessageInput(m secondMessage) []byte {
	return bytes.Join([][]byte{m.overlay, m.transaction, m.contents}, nil)
}

// secondVerifyMessage verifies the signature of a message.
func secondVerifyMessage(message []byte) error {
	m, err := secondParse(message)
	if err != nil {
		return err
	}
	return m.verify(m.signature, secondMessageInput(m))
}

// secondVerifyValues verifies each value in a StoreReq, or in a FetchAns about a resource, and counts them. Values of
// identity none, which only a FetchAns may have, are skipped.
func secondVerifyValues(message, resource []byte) (n int, err error) {
	m, err := secondParse(message)
	if err != nil {
		return 0, err
	}
	c := &secondCursor{all: m.body}
	const storeReq, fetchAns = 7, 10
	switch m.code {
	case storeReq:
		resource = c.bytes(c.number(1))
		c.bytes(1) // replica_number
	case fetchAns:
	default:
		return 0, fmt.Errorf("second verifier: message code %d", m.code)
	}
	for kinds := c.behind(4); kinds.left(); {
		kind := kinds.bytes(4)
		kinds.bytes(8) // generation_counter
		for values := kinds.behind(4); values.left(); {
			d := values.behind(4)
			storageTime := d.bytes(8)
			d.bytes(4) // lifetime
			value := d.value(kind)
			s := d.signature()
			if d.bad || d.left() {
				return n, errSecondShort
			}
			if m.code == fetchAns && s.identity[0] == 3 {
				continue
			}
			n++
			if err := m.verify(s, bytes.Join([][]byte{resource, kind, storageTime, value}, nil)); err != nil {
				return n, fmt.Errorf("value %d: %w", n, err)
			}
		}
		if kinds.bad {
			return n, errSecondShort
		}
	}
	if c.bad || c.left() {
		return n, errSecondShort
	}
	return n, nil
}

// value is a StoredDataValue in the data model of its Kind, as it is signed.
func (c *secondCursor) value(kind []byte) []byte {
	var signed []byte
	begin := c.pos
	switch strings.ToLower(hex.EncodeToString(kind)) {
	case "00000001": // SIP-REGISTRATION: dictionary
		c.bytes(c.number(2))
	case "00000003", "00000010": // CERTIFICATE_BY_NODE, CERTIFICATE_BY_USER: array
		c.bytes(4)
		signed = make([]byte, 4)
		begin = c.pos
	case "00000002": // TURN-SERVICE: single value
	default:
		c.bad = true
	}
	c.bytes(1) // exists
	c.bytes(c.number(4))
	if c.bad {
		return nil
	}
	return append(signed, c.all[begin:c.pos]...)
}
