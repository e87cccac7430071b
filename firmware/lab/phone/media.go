package phone

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

const (
	packetTime = 20 * time.Millisecond
	// rtcpInterval is RFC 3550 §6.2's minimum. The first reports go out sooner,
	// the first after rtcpFirst and each next after twice the time, so that short
	// calls have figures too: a round trip takes a report each way.
	rtcpInterval = 5 * time.Second
	rtcpFirst    = 500 * time.Millisecond
)

// Stats is what one end of a call measured.
type Stats struct {
	Sent     uint64  // RTP packets
	Received uint64  // RTP packets of the stream, without duplicates
	Lost     uint64  // gaps in what was received
	Strays   uint64  // datagrams that were not of the stream
	JitterMS float64 // interarrival jitter (RFC 3550 A.8)
	RTTMS    float64 // round trip by RTCP; 0 when RTCP did not tell
	Reports  uint64  // report blocks that came about what was sent
	FarLost  uint64  // cumulative loss in the last of them
	ToneOK   bool    // the expected tone and no other was heard, all along
}

// far is the other end's side of the session description.
type far struct {
	rtp, rtcp   netip.AddrPort
	payloadType uint8
	send        bool // it wants to receive
}

// session is the media of one call.
type session struct {
	rtp, rtcp *net.UDPConn
	local     netip.Addr
	tone      float64
	cname     string
	ssrc      uint32
	began     time.Time

	far  atomic.Pointer[far]
	sent atomic.Uint64

	mu        sync.Mutex // leaf: the receiving goroutines write, reports and Stats read
	reception reception
	ear       ear
	strays    uint64
	heard     netip.AddrPort // where the stream comes from
	heardFor  *far           // under which description; a new one may bring a new source
	rtt       time.Duration
	reports   uint64
	farLost   uint64
	timestamp uint32 // of the last packet sent
	sentAt    time.Time
}

func newSession(local netip.Addr, tone, expect float64, cname string) (*session, error) {
	s := &session{
		local: local, tone: tone, cname: cname, ssrc: rand.Uint32(), began: time.Now(),
		ear: ear{hertz: expect}, timestamp: rand.Uint32(),
	}
	var err error
	// RFC 3550 §11: an even port, and RTCP on the next. The odd tries are for
	// ports that somebody holds.
	for range 64 {
		port := uint16(16384 + 2*rand.IntN(8192))
		if s.rtp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, port))); err != nil {
			continue
		}
		if s.rtcp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(local, port+1))); err != nil {
			_ = s.rtp.Close()
			continue
		}
		return s, nil
	}
	return nil, fmt.Errorf("media ports: %w", err)
}

func (s *session) port() uint16 { return s.rtp.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// now is the session's clock.
func (s *session) now() time.Duration { return time.Since(s.began) }

// run sends and receives until ctx ends, says goodbye and closes the sockets.
func (s *session) run(ctx context.Context) {
	var readers, writers sync.WaitGroup
	readers.Go(s.receive)
	readers.Go(s.receiveControl)
	writers.Go(func() { s.send(ctx) })
	writers.Go(func() { s.sendControl(ctx) })
	writers.Wait()
	s.report(true)
	s.close()
	readers.Wait()
}

func (s *session) close() {
	_ = s.rtp.Close()
	_ = s.rtcp.Close()
}

// send paces by the clock from the start, not from packet to packet: a late
// wake-up does not shift what follows.
func (s *session) send(ctx context.Context) {
	tone := newOscillator(s.tone)
	samples := make([]int16, frameSamples)
	payload := make([]byte, 0, frameSamples)
	packet := make([]byte, 0, 12+frameSamples)
	header := rtp.Header{Version: 2, SSRC: s.ssrc, SequenceNumber: uint16(rand.Uint32()), Marker: true, Timestamp: s.timestamp}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := time.Duration(1); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(n*packetTime - s.now())
		header.Timestamp += frameSamples
		tone.fill(samples)
		to := s.far.Load()
		if to == nil || !to.send {
			header.Marker = true
			continue
		}
		header.PayloadType = to.payloadType
		payload = encode(payload[:0], samples, to.payloadType)
		head, err := header.Marshal()
		if err != nil {
			continue // cannot be: the header is ours
		}
		packet = append(append(packet[:0], head...), payload...)
		if _, err := s.rtp.WriteToUDPAddrPort(packet, to.rtp); err != nil {
			continue // ICMP of an earlier one, a link that is down: the measure will tell
		}
		header.SequenceNumber++
		header.Marker = false
		s.sent.Add(1)
		s.mu.Lock()
		s.timestamp, s.sentAt = header.Timestamp, time.Now()
		s.mu.Unlock()
	}
}

func (s *session) receive() {
	var buffer [2048]byte
	var header rtp.Header
	samples := make([]int16, 0, len(buffer))
	for {
		n, from, err := s.rtp.ReadFromUDPAddrPort(buffer[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		now := s.now()
		size, err := header.Unmarshal(buffer[:n])
		to := s.far.Load()
		s.mu.Lock()
		switch {
		case err != nil || header.Version != 2 || to == nil || header.PayloadType != pcmu && header.PayloadType != pcma:
			s.strays++
		case s.heardFor == to && s.heard != from:
			s.strays++ // the first source is the far end: it need not send from where it receives
		default:
			s.heardFor, s.heard = to, from
			if !s.reception.take(&header, now) {
				break
			}
			samples = decode(samples[:0], buffer[size:n], header.PayloadType)
			s.ear.hear(samples)
		}
		s.mu.Unlock()
	}
}

func (s *session) receiveControl() {
	var buffer [2048]byte
	for {
		n, _, err := s.rtcp.ReadFromUDPAddrPort(buffer[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		packets, err := rtcp.Unmarshal(buffer[:n])
		now, wall := s.now(), ntp(time.Now())
		s.mu.Lock()
		if err != nil {
			s.strays++
		}
		for _, p := range packets {
			switch p := p.(type) {
			case *rtcp.SenderReport:
				s.reception.senderReport(p, now)
				s.reported(p.Reports, wall)
			case *rtcp.ReceiverReport:
				s.reported(p.Reports, wall)
			}
		}
		s.mu.Unlock()
	}
}

// reported takes the far end's view of what was sent; s.mu is held.
func (s *session) reported(blocks []rtcp.ReceptionReport, wall uint64) {
	for _, b := range blocks {
		if b.SSRC != s.ssrc {
			continue
		}
		s.reports++
		s.farLost = uint64(b.TotalLost)
		if b.LastSenderReport == 0 {
			continue
		}
		// "A - LSR - DLSR" in units of 1/65536 s (RFC 3550 §6.4.1, figure 2).
		if rtt := int32(uint32(wall>>16) - b.LastSenderReport - b.Delay); rtt >= 0 {
			s.rtt = time.Duration(rtt) * time.Second / 65536
		}
	}
}

func (s *session) sendControl(ctx context.Context) {
	timer := time.NewTimer(rtcpFirst)
	defer timer.Stop()
	for interval := rtcpFirst; ; interval = min(2*interval, rtcpInterval) {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		s.report(false)
		// "varied randomly over the range [0.5,1.5] times" (RFC 3550 §6.2)
		timer.Reset(time.Duration((0.5 + rand.Float64()) * float64(interval)))
	}
}

// report sends an SR, or an RR while nothing was sent, with SDES, and BYE at the end.
func (s *session) report(bye bool) {
	to := s.far.Load()
	if to == nil || !to.rtcp.IsValid() {
		return
	}
	s.mu.Lock()
	now := time.Now()
	blocks := s.reception.report(s.now())
	var first rtcp.Packet = &rtcp.ReceiverReport{SSRC: s.ssrc, Reports: blocks}
	if sent := s.sent.Load(); sent > 0 {
		first = &rtcp.SenderReport{
			SSRC: s.ssrc, NTPTime: ntp(now), Reports: blocks,
			// the media time of this moment, not of the last packet (§6.4.1)
			RTPTime:     s.timestamp + uint32(now.Sub(s.sentAt).Seconds()*sampleRate),
			PacketCount: uint32(sent), OctetCount: uint32(sent * frameSamples),
		}
	}
	s.mu.Unlock()
	packets := []rtcp.Packet{first, rtcp.NewCNAMESourceDescription(s.ssrc, s.cname)}
	if bye {
		packets = append(packets, &rtcp.Goodbye{Sources: []uint32{s.ssrc}})
	}
	if b, err := rtcp.Marshal(packets); err == nil {
		_, _ = s.rtcp.WriteToUDPAddrPort(b, to.rtcp) // a report lost is a report lost
	}
}

func (s *session) stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Sent: s.sent.Load(), Received: uint64(s.reception.total()), Lost: uint64(s.reception.lost()), Strays: s.strays,
		JitterMS: s.reception.jitter * 1000 / sampleRate,
		RTTMS:    float64(s.rtt) / float64(time.Millisecond),
		Reports:  s.reports, FarLost: s.farLost, ToneOK: s.ear.ok(),
	}
}
