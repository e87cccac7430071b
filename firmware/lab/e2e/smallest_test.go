//go:build linux

package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/lab"
)

// flow is one pair of UDP ports between the two kits, the smaller first.
type flow [2]uint16

// layers counts the bytes on the cable between two kits by layer. Which flow is the trunk shows when voice goes over it; all
// other DTLS is the overlay's.
type layers struct {
	tap *tap
	mu  sync.Mutex
	sum map[string]uint64 // bytes by layer, but for records of application data
	app map[flow]*records
}

// records are DTLS application data of one flow, those as small as an acknowledgement of RELOAD's framing by themselves.
type records struct {
	bytes, acks uint64
	voice       bool
}

func newLayers(k *lab.Kit) (*layers, error) {
	t, err := newTap(k)
	if err != nil {
		return nil, err
	}
	l := &layers{tap: t, sum: map[string]uint64{}, app: map[flow]*records{}}
	go func() {
		defer close(t.done)
		b := make([]byte, 1<<16)
		for {
			n, err := t.file.Read(b)
			if err != nil {
				return
			}
			l.note(b[:n])
		}
	}()
	return l, nil
}

func (l *layers) note(frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := uint64(len(frame))
	const ethernet, ip, udp = 14, 20, 8
	kind := classify(frame)
	if kind == mdns || kind == ice {
		l.sum[kind.String()] += n
		return
	}
	if len(frame) < ethernet+ip+udp+1 || binary.BigEndian.Uint16(frame[12:]) != 0x0800 || frame[ethernet] != 0x45 || frame[ethernet+9] != unix.IPPROTO_UDP {
		l.sum["ARP and other"] += n
		return
	}
	p := frame[ethernet+ip:]
	f := flow{binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])}
	slices.Sort(f[:])
	r := l.app[f]
	if r == nil {
		r = &records{}
		l.app[f] = r
	}
	switch first := p[udp]; {
	case first >= 128 && first < 192: // RFC 7983 §7
		l.sum["RTP and RTCP"] += n
		r.voice = true
	case first == 23 && len(p) <= udp+13+8+16+9: // RFC 6940 §6.6.2: an ACK has 9 bytes
		r.bytes += n
		r.acks += n
	case first == 23:
		r.bytes += n
	case kind == dtls:
		l.sum["DTLS handshakes"] += n
	default:
		l.sum["ARP and other"] += n
	}
}

// take returns the bytes by layer since the last time, given the flows that are trunks.
func (l *layers) take(trunks map[flow]bool) map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.sum
	l.sum = map[string]uint64{}
	for f, r := range l.app {
		if trunks[f] {
			out["SIP"] += r.bytes
		} else {
			out["RELOAD"] += r.bytes - r.acks
			out["RELOAD acknowledgements"] += r.acks
		}
		r.bytes, r.acks = 0, 0
	}
	return out
}

// trunks are the flows that carried voice.
func (l *layers) trunks() map[flow]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[flow]bool{}
	for f, r := range l.app {
		if r.voice {
			out[f] = true
		}
	}
	return out
}

// BenchmarkSmallest is the smallest case: two kits on one cable, a phone at each, one call of ten seconds. It reports what each
// step puts on the cable, by layer, and how long it takes. A call before the one that is measured shows which flow is the trunk.
func BenchmarkSmallest(b *testing.B) {
	for b.Loop() {
		smallest(b)
	}
	b.ReportMetric(0, "ns/op")
}

func smallest(b *testing.B) {
	l := benchLab(b, lab.Options{Kits: 2}, "anna", "bert")
	defer l.Close()
	began := time.Now()
	check(b, l.StartKits(b.Context()))
	t, err := newLayers(l.Kits[0])
	check(b, err)
	defer func() { _ = t.tap.file.Close(); <-t.tap.done }()
	waitRing(b, l)
	b.ReportMetric(ms(time.Since(began)), "start-to-ring-ms")
	rest(b, 3*time.Second)
	joined := t.take(nil) // which of it is the trunk's shows later
	began = time.Now()
	caller, err := l.StartPhone(0, "anna")
	check(b, err)
	callee, err := l.StartPhone(1, "bert")
	check(b, err)
	for _, p := range []*lab.Phone{caller, callee} {
		limited(b, 20*time.Second, p.WaitRegistered)
	}
	b.ReportMetric(ms(time.Since(began)), "register-ms")
	rest(b, 5*time.Second)
	registered := t.take(nil)
	call := func(talk time.Duration) float64 {
		var d time.Duration
		limited(b, 30*time.Second, func(ctx context.Context) (err error) {
			if d, err = caller.Call(ctx, callee.Account.Number); err != nil {
				return err
			}
			rest(b, talk)
			_, _, err = caller.Hangup(ctx, callee)
			return err
		})
		return ms(d)
	}
	call(time.Second)
	trunks := t.trunks()
	if len(trunks) != 1 {
		b.Fatalf("voice went over %d flows", len(trunks))
	}
	rest(b, 2*time.Second)
	t.take(trunks)
	b.ReportMetric(call(10*time.Second), "invite-to-200-ms")
	called := t.take(trunks)
	rest(b, time.Minute)
	idle := t.take(trunks)
	for _, step := range []struct {
		name  string
		bytes map[string]uint64
	}{{"1-join", joined}, {"2-register", registered}, {"3-call-of-10s", called}, {"4-idle-minute", idle}} {
		for _, layer := range slices.Sorted(maps.Keys(step.bytes)) {
			if n := step.bytes[layer]; n > 0 {
				b.ReportMetric(float64(n), fmt.Sprintf("%s/%s-B", step.name, unit(layer)))
			}
		}
	}
}

// unit makes a layer's name into one that a benchmark's unit may have.
func unit(layer string) string {
	out := []rune(layer)
	for i, r := range out {
		if r == ' ' {
			out[i] = '-'
		}
	}
	return string(out)
}
