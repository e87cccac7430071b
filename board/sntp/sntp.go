// Package sntp tells handsets the time (RFC 4330, a subset of RFC 5905): a unicast server that says honestly when it does
// not know the time, so that a phone with a clock of its own keeps that.
//
// Answer is a function of the request and of the time; Serve is the shell around it, one goroutine and one socket on the
// handset side. An answer is never longer than what was asked.
package sntp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Size is the length of a message without extensions, which this server neither reads nor sends.
const Size = 48

// Status is what the server knows of its own clock.
type Status struct {
	Synchronised bool
	Stratum      uint8     // 1 is a clock set by a receiver, 2 to 15 one that was told; of no meaning if not synchronised
	Reference    [4]byte   // what it was set by (RFC 4330 §4, "reference identifier")
	Set          time.Time // when it was set last, by itself
	Dispersion   time.Duration
}

// modes and leap indicators (RFC 4330 §4).
const (
	client         = 3
	server         = 4
	unsynchronised = 3
)

// Answer is the answer to a request that came at received; ok is false for what is no request of a client.
func Answer(request []byte, received, now time.Time, s Status) (r [Size]byte, ok bool) {
	if len(request) < Size {
		return r, false
	}
	version := request[0] >> 3 & 7
	if request[0]&7 != client || version < 1 || version > 4 {
		return r, false
	}
	r[0] = version<<3 | server // "The VN field is copied from the request" (RFC 4330 §5)
	r[2] = request[2]          // the poll interval, too
	r[3] = 0xec                // precision: 2^-20 s
	if s.Synchronised {
		r[1] = max(1, min(s.Stratum, 15))
		copy(r[12:16], s.Reference[:])
		binary.BigEndian.PutUint32(r[8:], uint32(s.Dispersion.Seconds()*65536)) // root dispersion, 16 bits of them fraction
		putTime(r[16:], s.Set)
	} else {
		r[0] |= unsynchronised << 6
		copy(r[12:16], "INIT") // stratum 0 with this code: "The association has not yet synchronized for the first time" (RFC 4330 §8)
	}
	copy(r[24:32], request[40:48]) // originate: the client's transmit timestamp
	putTime(r[32:], received)
	putTime(r[40:], now)
	return r, true
}

// putTime writes a timestamp: seconds since 1900 modulo 2^32, which begin anew in 2036 (RFC 4330 §3), and their fraction.
func putTime(b []byte, t time.Time) {
	const since1900 = 2208988800
	binary.BigEndian.PutUint32(b, uint32(t.Unix()+since1900))
	binary.BigEndian.PutUint32(b[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
}

// Server answers handsets.
type Server struct {
	network netip.Prefix
	status  func() Status

	answered, refused atomic.Uint64
}

// Stats counts requests.
type Stats struct {
	Answered uint64
	Refused  uint64 // no request, or not of a handset
}

// NewServer makes a Server for the handsets of a network. status is asked for each answer.
func NewServer(network netip.Prefix, status func() Status) *Server {
	return &Server{network: network, status: status}
}

// Stats are the counts so far.
func (s *Server) Stats() Stats { return Stats{s.answered.Load(), s.refused.Load()} }

// Serve answers on a socket until ctx ends, and closes it.
func (s *Server) Serve(ctx context.Context, c net.PacketConn) error {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	b := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(b)
		received := time.Now()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("time server: %w", err)
		}
		if err != nil {
			continue // what ICMP told of an earlier answer
		}
		u, ok := from.(*net.UDPAddr)
		if addr := u.AddrPort().Addr().Unmap(); !ok || !s.network.Contains(addr) && !addr.IsLoopback() {
			s.refused.Add(1)
			continue
		}
		r, ok := Answer(b[:n], received, time.Now(), s.status())
		if !ok {
			s.refused.Add(1)
			continue
		}
		if _, err := c.WriteTo(r[:], from); err == nil {
			s.answered.Add(1)
		}
	}
}
