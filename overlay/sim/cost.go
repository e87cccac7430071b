package sim

import (
	"time"

	"fieldkit/overlay/wire"
)

// What overlay/link costs in packets of IPv4, in bytes and in round trips. TestCostsAreThoseOfRealLinks holds these
// figures against overlay/link itself. Frames of the radio or the cable are not counted: they differ.
const (
	udpIP        = 20 + 8  // IPv4 and UDP headers
	dtlsRecord   = 13 + 16 // DTLS record header and the tag of ChaCha20-Poly1305
	frameData    = wire.FrameDataOverhead
	goodbye      = 2 + dtlsRecord + udpIP // close_notify
	bootBytes    = 2169                   // DTLS with cookie and both certificates, both directions
	bootFlights  = 6
	attachBytes  = 3800 // ICE checks and DTLS without cookie, both directions
	dtlsFlights  = 4
	checkRequest = 112 + udpIP // a STUN Binding request
	checkAnswer  = 64 + udpIP

	// keepaliveRate is what ICE sends on an idle link, in bytes per second, both directions.
	keepaliveRate = 29
)

// Timing of overlay/link.
const (
	checkInterval  = 50 * time.Millisecond // between ICE checks of a pair
	minFlight      = 150 * time.Millisecond
	maxFlight      = time.Second
	bootFlight     = 300 * time.Millisecond // flights of a bootstrap link are sent again after this
	connectTimeout = 15 * time.Second
	consentEvery   = 16 * time.Second // between ICE's own checks of a link
	consentTimeout = 35 * time.Second
	bootIdle       = 2 * time.Minute
	queueMessages  = 256
	queueBytes     = 512 << 10
	maxFrame       = 1500
	attemptLife    = 30 * time.Second
	attemptsPerKit = 64
	acceptedPerKit = 256
	prepareTime    = time.Millisecond // gathering host candidates
)

// Ledger counts what was sent, by layer, in bytes but for the first and the last.
type Ledger struct {
	Messages    uint64 `json:"messages"` // RELOAD messages and fragments, each hop counted, retransmissions not
	Reload      uint64 `json:"reload"`   // their bytes
	Framing     uint64 `json:"framing"`  // framing headers (RFC 6940 §6.6.2) of the first transmissions
	Acks        uint64 `json:"acks"`     // ACKs, whole packets
	Again       uint64 `json:"again"`    // retransmitted DATA, whole packets
	Records     uint64 `json:"records"`  // DTLS around first transmissions
	Packets     uint64 `json:"packets"`  // UDP and IPv4 around first transmissions
	Handshakes  uint64 `json:"handshakes"`
	Goodbyes    uint64 `json:"goodbyes"`
	Keepalives  uint64 `json:"keepalives"`
	Retransmits uint64 `json:"retransmits"` // how many DATA were sent again
}

// Wire is everything on the wire, in bytes.
func (l Ledger) Wire() uint64 {
	return l.Reload + l.Framing + l.Acks + l.Again + l.Records + l.Packets + l.Handshakes + l.Goodbyes + l.Keepalives
}

func (l *Ledger) add(o *Ledger, sign uint64) {
	l.Messages += sign * o.Messages
	l.Reload += sign * o.Reload
	l.Framing += sign * o.Framing
	l.Acks += sign * o.Acks
	l.Again += sign * o.Again
	l.Records += sign * o.Records
	l.Packets += sign * o.Packets
	l.Handshakes += sign * o.Handshakes
	l.Goodbyes += sign * o.Goodbyes
	l.Keepalives += sign * o.Keepalives
	l.Retransmits += sign * o.Retransmits
}

// since is what was sent since an earlier ledger.
func (l Ledger) since(o Ledger) Ledger {
	l.add(&o, ^uint64(0))
	return l
}

// sent counts a message sent for the first time.
func (l *Ledger) sent(n int) {
	l.Messages++
	l.Reload += uint64(n)
	l.Framing += frameData
	l.Records += dtlsRecord
	l.Packets += udpIP
}

// resent counts a DATA frame sent again.
func (l *Ledger) resent(n int) {
	l.Retransmits++
	l.Again += uint64(n + dtlsRecord + udpIP)
}
