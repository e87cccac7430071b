package media

import (
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
)

// exporterLabel is RFC 5764 §4.2's.
const exporterLabel = "EXTRACTOR-dtls_srtp"

// replayWindow in packets: more than a second of voice. RFC 3711 §3.3.2 wants 64 at least.
const replayWindow = 128

// maxReceivers bounds how many SSRCs a far kit may declare for one leg over the
// life of a call.
const maxReceivers = 16

// keys are one direction's of a trunk.
type keys struct {
	profile   srtp.ProtectionProfile
	key, salt []byte
}

func (k keys) context(options ...srtp.ContextOption) (*srtp.Context, error) {
	c, err := srtp.CreateContext(k.key, k.salt, k.profile, options...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeying, err)
	}
	return c, nil
}

// session is the SRTP session of one trunk. The cryptographic state is kept per
// stream, as RFC 3711 §3.2.3 has it, so that streams do not wait for each other.
type session struct {
	trunk   Trunk
	tx, rx  keys
	cname   string // ours on this trunk
	unknown atomic.Uint64

	// streams is read per packet and replaced whole under mu.
	streams atomic.Pointer[map[uint32]*receiver]

	mu         sync.Mutex
	ssrc, step uint32
}

func newSession(t Trunk) (*session, error) {
	profile := srtp.ProtectionProfile(t.SRTPProfile())
	switch profile {
	case srtp.ProtectionProfileAes128CmHmacSha1_80, srtp.ProtectionProfileAeadAes128Gcm, srtp.ProtectionProfileAeadAes256Gcm:
	default:
		return nil, fmt.Errorf("%w: protection profile %#04x", ErrKeying, t.SRTPProfile())
	}
	keyLen, err := profile.KeyLen()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeying, err)
	}
	saltLen, err := profile.SaltLen()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeying, err)
	}
	// "The per-association context value is empty." (RFC 5764 §4.2)
	material, err := t.ExportKeyingMaterial(exporterLabel, nil, 2*(keyLen+saltLen))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeying, err)
	}
	if len(material) != 2*(keyLen+saltLen) {
		return nil, fmt.Errorf("%w: %d bytes exported", ErrKeying, len(material))
	}
	salts := material[2*keyLen:]
	client := keys{profile, material[:keyLen], salts[:saltLen]}
	server := keys{profile, material[keyLen : 2*keyLen], salts[saltLen:]}
	var name [10]byte
	binary.BigEndian.PutUint32(name[:], random32())
	binary.BigEndian.PutUint32(name[4:], random32())
	s := &session{
		trunk: t, tx: server, rx: client,
		// RFC 7022 §4.2 wants a per-session CNAME that tells nobody anything.
		cname: base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(name[:]),
		// An odd stride visits all 2^32 values before any comes twice.
		ssrc: random32(), step: random32() | 1,
	}
	if t.IsClient() {
		s.tx, s.rx = client, server
	}
	s.streams.Store(&map[uint32]*receiver{})
	return s, nil
}

// newSSRC is unique for the life of the session: "a unique SSRC […] for each
// RTP stream" under one master key, or the key stream repeats (RFC 3711 §9.1).
func (s *session) newSSRC() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ssrc += s.step
	return s.ssrc
}

// packet takes one SRTP or SRTCP packet from the trunk.
func (s *session) packet(b []byte, now time.Duration) {
	at := 8
	control := isRTCP(b)
	if control {
		at = 4
	}
	if len(b) < at+4 || len(b) > maxPacket {
		s.unknown.Add(1)
		return
	}
	r := (*s.streams.Load())[binary.BigEndian.Uint32(b[at:])]
	switch {
	case r == nil:
		s.unknown.Add(1)
	case control:
		r.takeRTCP(b)
	default:
		r.takeRTP(b, now)
	}
}

func (s *session) add(r *receiver) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.streams.Load()
	if other := old[r.ssrc]; other != nil {
		if other == r {
			return nil
		}
		return fmt.Errorf("%w: SSRC %d belongs to another stream of the trunk", ErrSDP, r.ssrc)
	}
	next := maps.Clone(old)
	next[r.ssrc] = r
	s.streams.Store(&next)
	return nil
}

func (s *session) remove(r *receiver) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if (*s.streams.Load())[r.ssrc] == r {
		next := maps.Clone(*s.streams.Load())
		delete(next, r.ssrc)
		s.streams.Store(&next)
	}
}

// trunkEnd is the end of a leg that faces another kit.
type trunkEnd struct {
	leg     *Leg
	session *session
	tx      *sender
	rx      atomic.Pointer[receiver]
	muted   atomic.Bool
	known   map[uint32]*receiver // under call.mu: a stream that comes back keeps its replay window
}

func newTrunkEnd(l *Leg, s *session) (*trunkEnd, error) {
	tx, err := newSender(s)
	if err != nil {
		return nil, err
	}
	e := &trunkEnd{leg: l, session: s, tx: tx, known: make(map[uint32]*receiver)}
	e.muted.Store(true)
	return e, nil
}

func (e *trunkEnd) local() local {
	return local{trunk: true, connection: trunkConnection, port: trunkPort, rtcpPort: trunkPort, ssrc: e.tx.ssrc, cname: e.session.cname}
}

func (e *trunkEnd) learn(m remote) error {
	e.muted.Store(!m.active || m.hold)
	if !m.active {
		return nil
	}
	r := e.known[m.ssrc]
	if r == nil {
		if len(e.known) >= maxReceivers {
			return fmt.Errorf("%w: %d SSRCs for one stream", ErrSDP, len(e.known)+1)
		}
		var err error
		if r, err = newReceiver(e.leg, e.session, m.ssrc, m.cname); err != nil {
			return err
		}
	}
	if err := e.session.add(r); err != nil {
		return err
	}
	e.known[m.ssrc] = r
	if old := e.rx.Swap(r); old != nil && old != r {
		e.session.remove(old)
	}
	return nil
}

func (e *trunkEnd) close() {
	if r := e.rx.Load(); r != nil {
		e.session.remove(r)
	}
}

func (e *trunkEnd) sendRTP(b []byte) {
	if e.muted.Load() {
		e.leg.drops.unsendable.Add(1)
		return
	}
	switch err := e.tx.rtp(b); {
	case err == nil:
		e.leg.out.add(len(b))
	case errors.Is(err, errRepeated):
		e.leg.drops.repeated.Add(1)
	case errors.Is(err, errInUse):
		e.leg.drops.inUse.Add(1)
	default:
		e.leg.drops.unsendable.Add(1)
	}
}

func (e *trunkEnd) sendRTCP(from *Leg, b []byte) {
	if err := e.tx.rtcp(from, e.leg, b); err != nil {
		e.leg.drops.unsendable.Add(1)
	}
}

var (
	errInUse    = errors.New("stream state in use")
	errRepeated = errors.New("repeated or stale packet")
)

// sender encrypts one outgoing stream. Its state belongs to whoever holds busy;
// a second comer, which exists only for the moment Connect moves a stream to
// another source, drops its packet instead of waiting.
type sender struct {
	session *session
	ssrc    uint32

	busy    atomic.Bool
	context *srtp.Context
	header  rtp.Header
	buffer  [maxPacket + maxTag]byte
	numbers numbering

	// source and offset are the current renumbering, read by RTCP.
	source atomic.Pointer[renumbering]

	control    atomic.Bool
	rtcpState  *srtp.Context
	rtcpClear  [maxPacket]byte
	rtcpBuffer [maxPacket + maxTag]byte
}

func newSender(s *session) (*sender, error) {
	x := &sender{session: s, ssrc: s.newSSRC(), numbers: newNumbering(random32())}
	var err error
	if x.context, err = s.tx.context(); err != nil {
		return nil, err
	}
	if x.rtcpState, err = s.tx.context(); err != nil {
		return nil, err
	}
	return x, nil
}

func (x *sender) rtp(b []byte) error {
	if !x.busy.CompareAndSwap(false, true) {
		return errInUse
	}
	defer x.busy.Store(false)
	seq, fresh, ok := x.numbers.next(binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint16(b[2:]))
	if !ok {
		return errRepeated
	}
	if fresh {
		x.source.Store(&renumbering{source: x.numbers.source, offset: x.numbers.offset})
		b[1] |= 0x80 // a new talkspurt (RFC 3551 §4.1): the receiver sets its buffer anew
	}
	binary.BigEndian.PutUint16(b[2:], seq)
	binary.BigEndian.PutUint32(b[8:], x.ssrc)
	out, err := x.context.EncryptRTP(x.buffer[:0], b, &x.header)
	if err != nil {
		return fmt.Errorf("SRTP: %w", err)
	}
	return x.session.trunk.SendMedia(out)
}

func (x *sender) rtcp(from, to *Leg, b []byte) error {
	if !x.control.CompareAndSwap(false, true) {
		return errInUse
	}
	defer x.control.Store(false)
	clear := translate(x.rtcpClear[:0], b, from, to)
	if len(clear) == 0 {
		return nil
	}
	out, err := x.rtcpState.EncryptRTCP(x.rtcpBuffer[:0], clear, nil)
	if err != nil {
		return fmt.Errorf("SRTCP: %w", err)
	}
	return x.session.trunk.SendMedia(out)
}

// receiver decrypts one incoming stream.
type receiver struct {
	leg   *Leg
	ssrc  uint32
	cname string

	busy    atomic.Bool // TrunkPacket's rule broken: drop instead of corrupting state
	context *srtp.Context
	header  rtp.Header
	buffer  [maxPacket]byte
}

func newReceiver(l *Leg, s *session, ssrc uint32, cname string) (*receiver, error) {
	c, err := s.rx.context(srtp.SRTPReplayProtection(replayWindow), srtp.SRTCPReplayProtection(replayWindow))
	if err != nil {
		return nil, err
	}
	return &receiver{leg: l, ssrc: ssrc, cname: cname, context: c}, nil
}

func (r *receiver) takeRTP(b []byte, now time.Duration) {
	if !r.busy.CompareAndSwap(false, true) {
		r.leg.drops.inUse.Add(1)
		return
	}
	defer r.busy.Store(false)
	clear, err := r.context.DecryptRTP(r.buffer[:0], b, &r.header)
	if err != nil {
		r.refuse(err)
		return
	}
	if !validRTP(clear) {
		r.leg.drops.malformed.Add(1)
		return
	}
	r.leg.rtp(clear, now)
}

func (r *receiver) takeRTCP(b []byte) {
	if !r.busy.CompareAndSwap(false, true) {
		r.leg.drops.inUse.Add(1)
		return
	}
	defer r.busy.Store(false)
	clear, err := r.context.DecryptRTCP(r.buffer[:0], b, nil)
	if err != nil {
		r.refuse(err)
		return
	}
	if !validRTCP(clear) {
		r.leg.drops.malformed.Add(1)
		return
	}
	r.leg.rtcp(clear)
}

// refuse counts why: a replay is told apart by what it is not, its error type is not exported.
func (r *receiver) refuse(err error) {
	if errors.Is(err, srtp.ErrFailedToVerifyAuthTag) {
		r.leg.drops.unauthentic.Add(1)
		return
	}
	r.leg.drops.replayed.Add(1)
}
