// Package link makes the connections between peers of an overlay: overlay links that carry RELOAD messages
// (Conn) and application connections made by AppAttach (AppConn). They are DTLS 1.2 over UDP with ICE (RFC 6940
// §6.5.1.3, §6.6.4 DTLS-UDP-SR) or, in an overlay without ICE and on the bootstrap port (§6.5.1.11, §11.4), DTLS
// over UDP (§6.6.6) or TLS 1.2 over TCP (§6.6.5), as the configuration document says (docs/adr/0014).
//
// A link exists only after both ends proved by their certificates that they belong to the mission and, where a
// peer was asked for, that they are that peer: in the handshake, or on the fresh link where a shared secret keys
// the handshake (proof.go, docs/adr/0015). The package decides nothing else about the overlay: it does not
// route, reads no RELOAD messages but those proofs and the headers of what is too large, and knows nothing of SIP or of SRTP keys.
//
// Together with board/simnet and overlay/turn it is the only importer of pion. The pinned pion versions no longer get fixes;
// what stands between them and the network is here: one AEAD suite without random nonces (suite), filters
// for plaintext records and malformed STUN (guard.go, relaysocket.go), read deadlines that work (guard.go), stateless
// address proofs before a handshake may cost memory (listener.go). docs/security.md says why each exists.
//
// Ownership: all exported methods may be called from any goroutine and none of Send, SendMessage, SendMedia and
// Close blocks. Every Conn has one goroutine that owns its framing state (package sr, pure) in virtual or
// real time. Callbacks (AppConn.Handle, Config.OnRefused) run on the goroutine that received the packet and must
// return at once.
package link
