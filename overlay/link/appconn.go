package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/pion/dtls/v2"
	"github.com/pion/ice/v2"

	"fieldkit/overlay/link/sr"
	"fieldkit/overlay/link/stream"
	"fieldkit/overlay/wire"
)

// srtpProfiles are what use_srtp offers (RFC 5764 §4.1.2); the DTLS client's order decides. AEAD_AES_128_GCM (RFC 7714)
// comes first: to seal and open a voice packet takes it less than half the time of AES-CM with HMAC-SHA1 where the
// processor has AES instructions, and about a tenth more where it has none (BenchmarkSRTP in sip/media). The other
// profile is what everybody must implement.
var srtpProfiles = []dtls.SRTPProtectionProfile{dtls.SRTP_AEAD_AES_128_GCM, dtls.SRTP_AES128_CM_HMAC_SHA1_80}

const appSendQueue = 64 // messages, at most MaxAppMessage each

// ErrNotMedia is returned for a packet that the far end could not tell from STUN or DTLS.
var ErrNotMedia = errors.New("not an SRTP or SRTCP packet")

// AppConn is an application connection (RFC 6940 §6.5.2): messages as DTLS application data, one per record and
// unreliable, and beside them on the same ICE transport SRTP and SRTCP, told apart by the first byte (RFC 7983) and
// keyed by the same handshake (RFC 5764). It neither protects nor opens the SRTP packets: that is its user's business,
// with ExportKeyingMaterial.
type AppConn struct {
	*carrier
	profile uint16
	path    atomic.Pointer[mediaPath]
	pairMu  sync.Mutex

	handlers atomic.Pointer[handlers]
	handled  chan struct{}
	once     sync.Once
	sendq    chan []byte

	messagesSent, messagesReceived, messagesDropped atomic.Uint64
	mediaSent, mediaReceived, mediaDropped          atomic.Uint64
	mediaBytesSent, mediaBytesReceived              atomic.Uint64
	writeErrors                                     atomic.Uint64
}

type handlers struct{ onMessage, onMedia func([]byte) }

// AppStats is what an application connection counts.
type AppStats struct {
	MessagesSent       uint64 `json:"messages_sent"`
	MessagesReceived   uint64 `json:"messages_received"`
	MessagesDropped    uint64 `json:"messages_dropped"` // send queue full
	MediaSent          uint64 `json:"media_sent"`
	MediaReceived      uint64 `json:"media_received"`
	MediaDropped       uint64 `json:"media_dropped"` // received before Handle
	MediaBytesSent     uint64 `json:"media_bytes_sent"`
	MediaBytesReceived uint64 `json:"media_bytes_received"`
	WriteErrors        uint64 `json:"write_errors"`
}

func newAppConn(c *carrier) (*AppConn, error) {
	profile := c.sess.srtp
	if profile == 0 {
		return nil, fmt.Errorf("%w: no SRTP profile agreed", ErrHandshake)
	}
	a := &AppConn{
		carrier: c, profile: profile,
		handled: make(chan struct{}), sendq: make(chan []byte, appSendQueue),
	}
	c.t.stats.appConns.Add(1)
	c.t.tasks.run(func() {
		defer c.t.stats.appConns.Add(-1)
		a.writeLoop()
	})
	c.t.tasks.run(func() {
		select {
		case <-a.handled: // nothing is read, and so nothing lost, before there is a reader
		case <-a.life.Done():
			return
		}
		a.read(a.record, nil)
	})
	return a, nil
}

// record takes one record from the far end.
func (a *AppConn) record(b []byte) {
	if len(b) > 0 && (b[0] == wire.FrameData || b[0] == wire.FrameAck) {
		switch {
		case a.sess.stream:
			a.framed(b)
			return
		case a.sess.proof != nil: // the far end did not see our acknowledgement of its proof
			for _, o := range a.sess.proof.Step(a.t.cfg.Now(), sr.Input{Kind: sr.Frame, Data: b}, nil) {
				if o.Kind != sr.Transmit {
					continue
				}
				if _, err := a.sess.records.Write(o.Data); err != nil {
					a.writeErrors.Add(1)
				}
			}
			return
		}
	}
	a.messagesReceived.Add(1)
	a.handlers.Load().onMessage(b)
}

// framed takes what came over TCP: messages and media in frames, told apart by their first byte (RFC 7983).
func (a *AppConn) framed(b []byte) {
	f, err := wire.ParseFrame(b)
	switch {
	case err != nil:
		a.end(fmt.Errorf("%w: %w", ErrLinkFailed, err))
	case f.Type != wire.FrameData: // nothing is acknowledged here
	case isMedia(f.Message):
		a.receiveMedia(f.Message)
	default:
		a.messagesReceived.Add(1)
		a.handlers.Load().onMessage(f.Message)
	}
}

func isMedia(b []byte) bool { return len(b) > 0 && b[0] >= 128 && b[0] <= 191 }

// follow sends media where ICE goes.
func (a *AppConn) follow(at *Attempt) error {
	point := func(local, remote ice.Candidate) {
		l, err1 := candidateAddrPort(local)
		r, err2 := candidateAddrPort(remote)
		if err1 != nil || err2 != nil {
			return
		}
		if s := at.network.socketOf(local); s != nil {
			a.point(s, r)
		} else if local.Type() == ice.CandidateTypeRelay {
			take := a.receiveMedia
			at.media.Store(&take)
			a.path.Store(&mediaPath{relay: a.guard.Write, local: l, remote: r})
		}
	}
	if err := at.agent.OnSelectedCandidatePairChange(point); err != nil {
		return fmt.Errorf("candidate pair: %w", err)
	}
	pair, err := at.agent.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return fmt.Errorf("candidate pair: %w", errors.Join(err, ErrLinkFailed))
	}
	point(pair.Local, pair.Remote)
	if a.path.Load() == nil {
		return fmt.Errorf("candidate pair %v: no socket of ours", pair)
	}
	return nil
}

// Handle installs the receivers, once. onMessage gets messages to keep, in order, one at a time. onMedia runs on the
// goroutine that reads the socket: it must be quick and must not keep the slice. Media that comes earlier is dropped.
func (a *AppConn) Handle(onMessage, onMedia func([]byte)) {
	a.once.Do(func() {
		a.handlers.Store(&handlers{onMessage, onMedia})
		close(a.handled)
	})
}

// SendMessage queues a copy of b. It never blocks.
func (a *AppConn) SendMessage(b []byte) error {
	if err := a.Err(); err != nil {
		return err
	}
	if len(b) > MaxAppMessage {
		return ErrTooLarge
	}
	if s, ok := a.sess.records.(*stream.Frames); ok {
		err := s.Message(b, streamQueue)
		switch {
		case err == nil:
			a.messagesSent.Add(1)
		case errors.Is(err, ErrQueueFull):
			a.messagesDropped.Add(1)
		}
		return err
	}
	select {
	case a.sendq <- append([]byte(nil), b...):
		return nil
	default:
		a.messagesDropped.Add(1)
		return ErrQueueFull
	}
}

func (a *AppConn) writeLoop() {
	for {
		select {
		case b := <-a.sendq:
			if _, err := a.sess.records.Write(b); err != nil {
				a.writeErrors.Add(1)
				continue
			}
			a.messagesSent.Add(1)
		case <-a.life.Done():
			return
		}
	}
}

// SendMedia sends one SRTP or SRTCP packet at once, without copying or allocating.
func (a *AppConn) SendMedia(b []byte) error {
	if !isMedia(b) {
		return ErrNotMedia
	}
	if len(b) > maxDatagram {
		return ErrTooLarge
	}
	if err := a.sendMedia(b); err != nil {
		if errors.Is(err, ErrClosed) {
			return ErrClosed
		}
		a.writeErrors.Add(1)
		return fmt.Errorf("media: %w", err)
	}
	a.mediaSent.Add(1)
	a.mediaBytesSent.Add(uint64(len(b)))
	return nil
}

func (a *AppConn) sendMedia(b []byte) error {
	if a.life.Err() != nil {
		return ErrClosed
	}
	if s, ok := a.sess.records.(*stream.Frames); ok {
		return s.Message(b, mediaQueue)
	}
	p := a.path.Load()
	if p == nil {
		return ErrClosed
	}
	return p.send(b)
}

func (a *AppConn) receiveMedia(b []byte) {
	h := a.handlers.Load()
	if h == nil {
		a.mediaDropped.Add(1)
		return
	}
	a.mediaReceived.Add(1)
	a.mediaBytesReceived.Add(uint64(len(b)))
	h.onMedia(b)
}

// point sends media from a socket to a far end, and takes it from there.
func (a *AppConn) point(s *agentSocket, r netip.AddrPort) {
	a.pairMu.Lock()
	defer a.pairMu.Unlock()
	p := &mediaPath{socket: s, remote: r, udpAddr: net.UDPAddrFromAddrPort(r), receive: a.receiveMedia}
	if old := a.path.Swap(p); old != nil && old.socket != nil && old.socket != s {
		old.socket.media.Store(nil)
	}
	s.media.Store(p)
}

// ExportKeyingMaterial is RFC 5705; for SRTP the label is "EXTRACTOR-dtls_srtp" without a context (RFC 5764 §4.2).
func (a *AppConn) ExportKeyingMaterial(label string, context []byte, n int) ([]byte, error) {
	return a.sess.secrets.Export(label, context, n)
}

// IsClient tells whether this end was the DTLS client, which decides whose SRTP keys are whose.
func (a *AppConn) IsClient() bool { return a.sess.client }

// SRTPProfile is the agreed protection profile (RFC 5764 §4.1.2).
func (a *AppConn) SRTPProfile() uint16 { return a.profile }

// MediaAddrs are the addresses media goes between now.
func (a *AppConn) MediaAddrs() (local, remote netip.AddrPort) {
	p := a.path.Load()
	if p == nil { // over TCP
		return a.local, a.remote
	}
	if p.socket == nil {
		return p.local, p.remote
	}
	return addrPortOf(p.socket.LocalAddr()), p.remote
}

// Stats returns the counters.
func (a *AppConn) Stats() AppStats {
	return AppStats{
		MessagesSent: a.messagesSent.Load(), MessagesReceived: a.messagesReceived.Load(), MessagesDropped: a.messagesDropped.Load(),
		MediaSent: a.mediaSent.Load(), MediaReceived: a.mediaReceived.Load(), MediaDropped: a.mediaDropped.Load(),
		MediaBytesSent: a.mediaBytesSent.Load(), MediaBytesReceived: a.mediaBytesReceived.Load(),
		WriteErrors: a.writeErrors.Load(),
	}
}
