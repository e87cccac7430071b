// Package media is the media half of a kit's telephony: it rewrites the SDP of
// calls so that every stream goes through this kit, allocates the ports, and
// relays RTP and RTCP between handsets and, as SRTP, over the trunks to other
// kits. It measures what it relays. It does not transcode, mix, record or
// generate audio, and it speaks no SIP: sip/agent owns it.
//
// # Legs
//
// A Call has legs. A handset leg is a pair of UDP ports (even RTP, odd RTCP,
// RFC 3550 §11) facing one handset; a trunk leg is one stream each way over a
// Trunk shared by many calls. Connect says which two legs exchange packets;
// while a call forks, the caller's leg has one partner at a time.
//
// # Handset side
//
// Toward handsets it is plain RTP (RTP/AVP or RTP/AVPF) for now. Lines that key
// or connect another transport (ICE, DTLS, SDES, MIKEY) belong to one side
// only, so they are taken out of what the other side sees. An offer whose audio
// is only offered as SRTP gets ErrSecureOnly, which maps to 488.
//
// A handset leg latches: the first valid RTP packet from the IP address the
// handset signals from fixes the source, everything else is dropped and
// counted. Of the address in the SDP only the port is believed, and only until
// the latch: otherwise a handset could aim the kit's stream at a stranger. The
// latch opens again by Rewrite (a re-INVITE) and by Leg.Moved (a registration
// from a new address), never by a packet.
//
// # Trunk side
//
// Between kits a stream is SRTP on the trunk's own transport, keyed by the
// trunk's DTLS handshake (RFC 5764 §4.2, label EXTRACTOR-dtls_srtp). The SDP
// there is
//
//	c=IN IP6 100::1
//	m=audio 9 UDP/TLS/RTP/SAVP 0 8 101
//	a=ssrc:2882343476 cname:GMZ7K…
//
// Port 9 and the discard address (RFC 6666) say that there is no address to
// send to: the media takes the association that carried the message. It needs
// no fingerprint for the same reason. RTP/AVPF becomes UDP/TLS/RTP/SAVPF. A
// hold by c=0.0.0.0 stays one. RTCP is always on the same transport (RFC 5761);
// a=rtcp-mux, if there, is an agreement between the handsets and passes.
//
// The SSRC is chosen by the sending relay, unique for the life of the trunk
// (two streams with one SSRC under one key would share a key stream, RFC 3711
// §9.1), and signalled by a=ssrc (RFC 5576); the receiving relay finds the leg
// by it. A leg accepts only the SSRC that its own far end has declared on its
// own trunk, so a hostile kit reaches no call that is not with it. The relay
// renumbers what it sends, so that a handset that restarts its stream, repeats
// a packet or changes its SSRC never makes an SRTP index occur twice.
//
// RTCP crossing a trunk is taken apart and built again: sender and report SSRCs
// are mapped, sequence numbers in reports follow the renumbering, SDES says the
// signalled CNAME and nothing else, and feedback (RFC 4585) is mapped. BYE, APP
// and XR end here. Between two handsets of one kit RTP and RTCP pass verbatim.
//
// # Goroutines
//
// All methods may be called from any goroutine. Each handset leg has two
// reader goroutines, each trunk one watcher; Close waits for them.
// TrunkPacket is called by the trunk's reader, one call at a time for one
// trunk. The forwarding path takes no lock and does not allocate: it reads
// tables that are replaced whole, and where a stream's sender state changes
// hands a packet that meets it in use is dropped and counted, never waited for.
package media
