package capture

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

// Content and handshake types (RFC 5246 §6.2.1, §7.4).
const (
	changeCipherSpec = 20
	alert            = 21
	handshake        = 22
	applicationData  = 23

	clientHello = 1
	serverHello = 2
)

// suite is what it takes to open the records of a cipher suite. All are AEADs (RFC 5288, RFC 5289, RFC 5487, RFC 7905).
type suite struct {
	chacha bool
	key    int // bytes
	hash   func() hash.Hash
}

var (
	chacha20 = suite{true, chacha20poly1305.KeySize, sha256.New}
	aes128   = suite{false, 16, sha256.New}
	aes256   = suite{false, 32, sha512.New384}
	suites   = map[uint16]suite{
		0xcca8: chacha20, 0xcca9: chacha20, 0xccaa: chacha20, 0xccab: chacha20, 0xccac: chacha20, 0xccad: chacha20,
		0x009c: aes128, 0x009e: aes128, 0xc02b: aes128, 0xc02f: aes128, 0x00a8: aes128, 0x00aa: aes128, 0xd001: aes128,
		0x009d: aes256, 0x009f: aes256, 0xc02c: aes256, 0xc030: aes256, 0x00a9: aes256, 0x00ab: aes256, 0xd002: aes256,
	}
)

// explicitNonce is what a record of AES-GCM carries of its nonce (RFC 5288 §3).
const explicitNonce = 8

// opener opens the records that one end protects.
type opener struct {
	aead   cipher.AEAD
	iv     []byte // the whole nonce before the XOR, or the part of it that records do not carry
	chacha bool
}

// openers makes those of the client and of the server.
func (s suite) openers(master []byte, client, server random) (pair [2]*opener, err error) {
	iv := 4
	if s.chacha {
		iv = chacha20poly1305.NonceSize
	}
	block := prf(s.hash, master, "key expansion", append(server[:], client[:]...), 2*(s.key+iv))
	for i := range pair {
		key := block[i*s.key:][:s.key]
		o := &opener{iv: block[2*s.key+i*iv:][:iv], chacha: s.chacha}
		if s.chacha {
			o.aead, err = chacha20poly1305.New(key)
		} else {
			var b cipher.Block
			if b, err = aes.NewCipher(key); err == nil {
				o.aead, err = cipher.NewGCM(b)
			}
		}
		if err != nil {
			return pair, err
		}
		pair[i] = o
	}
	return pair, nil
}

// open decrypts the fragment of a record; sequence is the epoch and the sequence number of DTLS (RFC 6347 §4.1.2.1).
func (o *opener) open(sequence uint64, typ byte, version uint16, fragment []byte) ([]byte, bool) {
	nonce := make([]byte, 0, chacha20poly1305.NonceSize)
	nonce = append(nonce, o.iv...)
	if o.chacha {
		for i := range 8 {
			nonce[4+i] ^= byte(sequence >> (56 - 8*i))
		}
	} else {
		if len(fragment) < explicitNonce {
			return nil, false
		}
		nonce = append(nonce, fragment[:explicitNonce]...)
		fragment = fragment[explicitNonce:]
	}
	if len(fragment) < o.aead.Overhead() {
		return nil, false
	}
	additional := binary.BigEndian.AppendUint64(nil, sequence)
	additional = append(additional, typ)
	additional = binary.BigEndian.AppendUint16(additional, version)
	additional = binary.BigEndian.AppendUint16(additional, uint16(len(fragment)-o.aead.Overhead()))
	plain, err := o.aead.Open(nil, nonce, fragment, additional)
	return plain, err == nil
}

// prf is the pseudorandom function of TLS 1.2 (RFC 5246 §5).
func prf(h func() hash.Hash, secret []byte, label string, seed []byte, n int) []byte {
	seed = append([]byte(label), seed...)
	mac := hmac.New(h, secret)
	sum := func(parts ...[]byte) []byte {
		mac.Reset()
		for _, p := range parts {
			mac.Write(p)
		}
		return mac.Sum(nil)
	}
	var out []byte
	for a := sum(seed); len(out) < n; a = sum(a) {
		out = append(out, sum(a, seed)...)
	}
	return out[:n]
}

// hello takes the random out of the body of a ClientHello or ServerHello, of which at least the beginning is there, and
// from a ServerHello the suite that was chosen.
func hello(typ byte, body []byte) (r random, chosen uint16, ok bool) {
	const at = 2 + randomLen
	if len(body) < at+1 {
		return r, 0, false
	}
	copy(r[:], body[2:])
	if typ == clientHello {
		return r, 0, true
	}
	id := int(body[at])
	if len(body) < at+1+id+2 {
		return r, 0, false
	}
	return r, binary.BigEndian.Uint16(body[at+1+id:]), true
}

// session is what is known of the keys of one handshake.
type session struct {
	client  int // direction that the ClientHello went
	random  random
	openers [2]*opener // by direction; nil without the secret
}

// agree takes the server's answer and derives the keys if the secret is in the log.
func (s *session) agree(server random, chosen uint16, keys KeyLog) {
	master, logged := keys[s.random]
	suite, known := suites[chosen]
	if !logged || !known {
		return
	}
	pair, err := suite.openers(master[:], s.random, server)
	if err != nil {
		return
	}
	s.openers[s.client], s.openers[1-s.client] = pair[0], pair[1]
}
