package link

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

const (
	cookiePeriod = 30 * time.Second
	cookieMAC    = 16
)

// cookieMark begins every cookie of this package. A client that knows it begins its handshake anew as soon as it
// has sent the cookie back; any other client takes it for what it is, an opaque cookie.
var cookieMark = [8]byte{'f', 'k', '-', 'a', 'g', 'a', 'i', 'n'}

// cookies makes and checks address proofs without keeping anything per address (RFC 6347 §4.2.1).
type cookies struct{ secret [32]byte }

func newCookies() (*cookies, error) {
	c := new(cookies)
	if _, err := rand.Read(c.secret[:]); err != nil {
		return nil, fmt.Errorf("cookie secret: %w", err)
	}
	return c, nil
}

func (c *cookies) make(addr netip.AddrPort, now time.Time) []byte {
	return c.at(addr, now.Unix()/int64(cookiePeriod/time.Second))
}

func (c *cookies) at(addr netip.AddrPort, period int64) []byte {
	h := hmac.New(sha256.New, c.secret[:])
	b, _ := addr.MarshalBinary() // never fails
	h.Write(binary.BigEndian.AppendUint64(b, uint64(period)))
	return append(cookieMark[:len(cookieMark):len(cookieMark)], h.Sum(nil)[:cookieMAC]...)
}

func (c *cookies) check(cookie []byte, addr netip.AddrPort, now time.Time) bool {
	period := now.Unix() / int64(cookiePeriod/time.Second)
	return hmac.Equal(cookie, c.at(addr, period)) || hmac.Equal(cookie, c.at(addr, period-1))
}

// isAgainCookie reports whether a HelloVerifyRequest's cookie asks to begin anew.
func isAgainCookie(cookie []byte) bool {
	return len(cookie) == len(cookieMark)+cookieMAC && [8]byte(cookie[:8]) == cookieMark
}

// clientHello is what the listener reads of a ClientHello before anything is kept.
type clientHello struct {
	sequence [6]byte // of the record
	cookie   []byte
}

// parseClientHello reads a datagram that begins with a plaintext ClientHello, or with its first fragment, in so far as
// the cookie is in it (RFC 6347 §4.1, §4.2.1, §4.2.2).
func parseClientHello(b []byte) (h clientHello, ok bool) {
	const bodyMin = 2 + 32 + 1 + 1
	if len(b) < recordHeaderLen+handshakeHeaderLen+bodyMin || b[0] != contentHandshake || b[1] != 0xfe {
		return h, false
	}
	if epoch := binary.BigEndian.Uint16(b[3:]); epoch != 0 {
		return h, false
	}
	copy(h.sequence[:], b[5:11])
	n := int(binary.BigEndian.Uint16(b[11:]))
	if b = b[recordHeaderLen:]; n > len(b) || n < handshakeHeaderLen+bodyMin {
		return h, false
	}
	b = b[:n]
	if b[0] != handshakeClientHello || b[6]|b[7]|b[8] != 0 { // the fragment offset
		return h, false
	}
	b = b[handshakeHeaderLen+2+32:]
	if skip := 1 + int(b[0]); skip < len(b) { // session id
		b = b[skip:]
	} else {
		return h, false
	}
	if size := int(b[0]); size < len(b) {
		h.cookie = b[1 : 1+size]
		return h, true
	}
	return h, false
}

// helloVerifyRequest makes the datagram: "the server MUST use the record sequence number in the ClientHello as the
// record sequence number in the HelloVerifyRequest", with version DTLS 1.0 (RFC 6347 §4.2.1).
func helloVerifyRequest(sequence [6]byte, cookie []byte) []byte {
	body := 2 + 1 + len(cookie)
	b := make([]byte, 0, recordHeaderLen+handshakeHeaderLen+body)
	b = append(b, contentHandshake, version10>>8, version10&0xff, 0, 0)
	b = append(b, sequence[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(handshakeHeaderLen+body))
	b = append(b, handshakeHelloVerifyRequest, 0, 0, byte(body)) // type, length
	b = append(b, 0, 0)                                          // message_seq
	b = append(b, 0, 0, 0, 0, 0, byte(body))                     // fragment offset, fragment length
	b = append(b, version10>>8, version10&0xff, byte(len(cookie)))
	return append(b, cookie...)
}
