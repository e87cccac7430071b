package wire

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

var (
	epoch  = time.Unix(1_700_000_000, 0)
	random = rand.New(rand.NewPCG(1, 2))
)

// messageOf returns an encoded message with a body of n bytes.
func messageOf(t testing.TB, transaction uint64, n int) []byte {
	t.Helper()
	m := goldenMessage()
	m.TransactionID = transaction
	m.Body = make([]byte, n)
	for i := range m.Body {
		m.Body[i] = byte(i*7 + i>>8)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func split(t testing.TB, message []byte, mtu int) [][]byte {
	t.Helper()
	parts, err := Fragment(message, mtu)
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

func mustAdd(t *testing.T, r *Reassembler, now time.Time, from NodeID, fragment []byte) []byte {
	t.Helper()
	got, err := r.Add(now, from, fragment)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// refield returns a fragment with another fragment field.
func refield(fragment []byte, field uint32) []byte {
	b := bytes.Clone(fragment)
	b[12], b[13], b[14], b[15] = byte(field>>24), byte(field>>16), byte(field>>8), byte(field)
	return b
}

// TestFragmentMusts quotes RFC 6940 §6.7.
func TestFragmentMusts(t *testing.T) {
	message := messageOf(t, 1, 4000)
	whole, body, err := ParseHeader(message)
	if err != nil {
		t.Fatal(err)
	}
	const mtu = 1200
	parts := split(t, message, mtu)
	if len(parts) != 4 {
		t.Fatalf("%d parts", len(parts))
	}
	offset, smallest, largest := 0, len(message), 0
	for i, part := range parts {
		h, chunk, err := ParseHeader(part)
		if err != nil {
			t.Fatal(err)
		}
		// "Each fragment MUST contain a full copy of the Via List, Destination List, and ForwardingOptions
		// and MUST contain at least 256 bytes of the message body."
		if len(chunk) < 256 {
			t.Errorf("part %d has %d bytes of body", i, len(chunk))
		}
		if head := len(part) - len(chunk); !bytes.Equal(part[20:head], message[20:head]) {
			t.Errorf("part %d has not the lists of the message", i)
		}
		// "The length field MUST contain the size of the message after fragmentation."
		if int(h.Length) != len(part) {
			t.Errorf("part %d of %d bytes has length %d", i, len(part), h.Length)
		}
		// "it SHOULD be split into equal-sized fragments that are no larger than the Path MTU (PMTU) of the
		// next overlay link minus 32 bytes."
		if len(part) > mtu-32 {
			t.Errorf("part %d has %d bytes", i, len(part))
		}
		smallest, largest = min(smallest, len(part)), max(largest, len(part))
		// "The offset is the number of bytes between the end of the forwarding header and the start of the
		// data. The first fragment therefore has an offset of 0. The last fragment indicator MUST be
		// appropriately set."
		if int(h.Offset()) != offset || h.LastFragment() != (i == len(parts)-1) || !h.IsFragment() {
			t.Errorf("part %d: offset %d last %v", i, h.Offset(), h.LastFragment())
		}
		// "Because messages MUST be set with the high bit set to 1"
		if h.Fragment>>31 != 1 || h.Fragment>>24&0x3f != 0 {
			t.Errorf("part %d: fragment field %#x", i, h.Fragment)
		}
		if !bytes.Equal(chunk, body[offset:offset+len(chunk)]) {
			t.Errorf("part %d: other bytes", i)
		}
		if _, err := Parse(part); !errors.Is(err, ErrMalformed) {
			t.Errorf("part %d taken for a message: %v", i, err)
		}
		offset += len(chunk)
	}
	if offset != len(body) || largest-smallest > 1 {
		t.Errorf("%d of %d bytes, sizes %d to %d", offset, len(body), smallest, largest)
	}
	// "if the message is not fragmented, [...] a fragment value of 0xC0000000."
	if whole.Fragment != 0xC0000000 {
		t.Errorf("whole message has fragment %#x", whole.Fragment)
	}
}

// TestFragmentNotPerformed: "If these elements cannot fit within the MTU of the underlying datagram
// protocol, RELOAD fragmentation is not performed" (RFC 6940 §6.7).
func TestFragmentNotPerformed(t *testing.T) {
	header := FixedHeaderLen + 78
	for _, c := range []struct {
		name    string
		message []byte
		mtu     int
		parts   int
	}{
		{"fits", messageOf(t, 1, 1000), len(messageOf(t, 1, 1000)), 1},
		{"one byte too long", messageOf(t, 1, 1000), len(messageOf(t, 1, 1000)) - 1, 2},
		{"room for 255 bytes of body", messageOf(t, 1, 4000), header + 32 + 255, 1},
		{"room for 256, parts of 256 impossible", messageOf(t, 1, 300), header + 32 + 256, 1},
		{"no room for the header", messageOf(t, 1, 4000), 100, 1},
		{"negative", messageOf(t, 1, 4000), -1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			parts := split(t, c.message, c.mtu)
			if len(parts) != c.parts {
				t.Fatalf("%d parts", len(parts))
			}
			if c.parts == 1 && !bytes.Equal(parts[0], c.message) {
				t.Error("message changed")
			}
		})
	}
	if _, err := Fragment([]byte("no message"), 1200); !errors.Is(err, ErrMalformed) {
		t.Errorf("what is no message: %v", err)
	}
	if _, err := Fragment(refield(messageOf(t, 1, 4000), 0x80fffff0), 1200); !errors.Is(err, ErrMalformed) {
		t.Errorf("beyond 24 bits of offset: %v", err)
	}
}

// TestRefragmented: "a message may be refragmented multiple times as it traverses the overlay, but it is
// assembled only at the final destination" (RFC 6940 §6.7), in any order.
func TestRefragmented(t *testing.T) {
	message := messageOf(t, 1, 4000)
	for range 50 {
		var parts [][]byte
		for _, part := range split(t, message, 900+random.IntN(1000)) {
			parts = append(parts, split(t, part, 600+random.IntN(1000))...)
		}
		random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		r := NewReassembler(ReassemblyLimits{})
		for i, part := range parts {
			// The buffer a fragment arrived in may be used again.
			buf := bytes.Clone(part)
			got := mustAdd(t, r, epoch, node1, buf)
			clear(buf)
			if done := i == len(parts)-1; done != (got != nil) || done && !bytes.Equal(got, message) {
				t.Fatalf("after %d of %d parts: %d bytes", i+1, len(parts), len(got))
			}
		}
		if s := r.Stats(); s.Completed != 1 || s.Pending != 0 || s.Bytes != 0 || !r.Deadline().IsZero() {
			t.Fatalf("%+v", s)
		}
	}
}

func TestReassemblerPassesWholeMessages(t *testing.T) {
	r := NewReassembler(ReassemblyLimits{})
	message := messageOf(t, 1, 10)
	if got := mustAdd(t, r, epoch, node1, message); !bytes.Equal(got, message) {
		t.Errorf("got %x", got)
	}
}

// TestReassemblyTimeout: "receivers SHOULD time out incomplete fragments after the maximum request lifetime
// (15 seconds)" (RFC 6940 §6.7).
func TestReassemblyTimeout(t *testing.T) {
	r := NewReassembler(ReassemblyLimits{})
	parts := split(t, messageOf(t, 1, 2000), 1200)
	mustAdd(t, r, epoch, node1, parts[0])
	if want := epoch.Add(15 * time.Second); !r.Deadline().Equal(want) {
		t.Errorf("deadline %v, want %v", r.Deadline(), want)
	}
	r.Expire(epoch.Add(15*time.Second - 1))
	if s := r.Stats(); s.Expired != 0 || s.Pending != 1 {
		t.Errorf("too early: %+v", s)
	}
	if got := mustAdd(t, r, epoch.Add(15*time.Second), node1, parts[1]); got != nil {
		t.Error("put together with a fragment that had timed out")
	}
	if s := r.Stats(); s.Expired != 1 || s.Pending != 1 {
		t.Errorf("%+v", s)
	}
}

// TestHostileFragments: none of these is ever joined with what is held, and what comes later in order is.
func TestHostileFragments(t *testing.T) {
	message := messageOf(t, 1, 2000)
	parts := split(t, message, 900)
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	h1, body1, _ := ParseHeader(parts[1])
	forged := bytes.Clone(parts[1])
	forged[len(forged)-1] ^= 1
	h2, _, _ := ParseHeader(parts[2])
	at := func(fragment []byte, offset uint32, last bool) []byte {
		field := fragmentSet | offset
		if last {
			field |= fragmentLast
		}
		return refield(fragment, field)
	}
	for _, c := range []struct {
		name    string
		held    [][]byte
		hostile []byte
	}{
		{"same place, other bytes", parts[:2], forged},
		{"overlaps the one before", parts[:2], at(parts[1], h1.Offset()-1, false)},
		{"overlaps the one after", parts[1:2], at(parts[0], 1, false)},
		{"within one held", parts[1:2], at(parts[0][:len(parts[0])-300], h1.Offset()+10, false)},
		{"another end", parts[2:], at(parts[1], h2.Offset()+1000, true)},
		{"the end before what is held", parts[1:2], at(parts[0][:len(parts[0])-300], 1, true)},
		{"beyond the end", parts[2:], at(parts[1], h2.Offset()+uint32(len(body1)), false)},
		{"last made not last", parts[2:], at(parts[2], h2.Offset(), false)},
		{"not last made last", parts[1:2], at(parts[1], h1.Offset(), true)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReassembler(ReassemblyLimits{})
			for _, part := range c.held {
				mustAdd(t, r, epoch, node1, part)
			}
			// A fragment that was cut needs its length field right.
			h, body, err := ParseHeader(relength(c.hostile))
			if err != nil {
				t.Fatal(err)
			}
			hostile, _ := h.AppendForward(nil, body)
			if got := mustAdd(t, r, epoch, node1, hostile); got != nil {
				t.Fatal("joined")
			}
			if s := r.Stats(); s.Conflicts != 1 || s.Pending != 1 {
				t.Errorf("%+v", s)
			}
			// The sender's retransmission gets through, however the forgery lies in its way.
			var got []byte
			for range 3 {
				for _, part := range parts {
					if m := mustAdd(t, r, epoch, node1, part); m != nil {
						got = m
					}
				}
			}
			if !bytes.Equal(got, message) {
				t.Error("retransmission not put together")
			}
		})
	}
}

// relength returns a message whose length field is its length.
func relength(message []byte) []byte {
	b := bytes.Clone(message)
	b[16], b[17], b[18], b[19] = byte(len(b)>>24), byte(len(b)>>16), byte(len(b)>>8), byte(len(b))
	return b
}

func TestDuplicateFragments(t *testing.T) {
	r := NewReassembler(ReassemblyLimits{})
	message := messageOf(t, 1, 2000)
	parts := split(t, message, 1200)
	for range 3 {
		mustAdd(t, r, epoch, node1, parts[1])
	}
	if got := mustAdd(t, r, epoch, node1, parts[0]); !bytes.Equal(got, message) {
		t.Error("not put together")
	}
	if s := r.Stats(); s.Duplicates != 2 || s.Completed != 1 || s.Bytes != 0 {
		t.Errorf("%+v", s)
	}
}

// TestFragmentsOfOthers: the fragments of one source, overlay or transaction are never joined with another's.
func TestFragmentsOfOthers(t *testing.T) {
	r := NewReassembler(ReassemblyLimits{})
	parts := split(t, messageOf(t, 1, 2000), 1200)
	mustAdd(t, r, epoch, node1, parts[0])
	foreign := bytes.Clone(parts[1])
	foreign[4] ^= 1
	for name, got := range map[string][]byte{
		"source":      mustAdd(t, r, epoch, node2, parts[1]),
		"overlay":     mustAdd(t, r, epoch, node1, foreign),
		"transaction": mustAdd(t, r, epoch, node1, split(t, messageOf(t, 2, 2000), 1200)[1]),
	} {
		if got != nil {
			t.Errorf("joined with a fragment of another %s", name)
		}
	}
	if s := r.Stats(); s.Pending != 4 || s.Conflicts != 0 {
		t.Errorf("%+v", s)
	}
}

func TestRefusedFragments(t *testing.T) {
	parts := split(t, messageOf(t, 1, 2000), 1200)
	h, body, err := ParseHeader(parts[0])
	if err != nil {
		t.Fatal(err)
	}
	head := len(parts[0]) - len(body)
	small, _ := h.AppendForward(nil, body[:255])
	empty := relength(refield(parts[0], fragmentSet|fragmentLast|1000)[:head])
	legacy := refield(parts[0], fragmentLast)
	for _, c := range []struct {
		name     string
		fragment []byte
		err      error
	}{
		{"no message", []byte("x"), ErrMalformed},
		{"fewer than 256 bytes and not the last", small, ErrMalformed},
		{"empty", empty, ErrMalformed},
		{"first bit clear", legacy, ErrMalformed},
		{"beyond the largest message", refield(parts[0], fragmentSet|5000-uint32(len(parts[0]))+1), ErrTooLarge},
		{"at the largest offset", refield(parts[0], fragmentSet|fragmentLast|fragmentOffset), ErrTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReassembler(ReassemblyLimits{})
			if _, err := r.Add(epoch, node1, c.fragment); !errors.Is(err, c.err) {
				t.Errorf("%v", err)
			}
			if s := r.Stats(); s.Refused != 1 || s.Pending != 0 || s.Bytes != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestReassemblyFlood: one source holds no more than its share and loses its own oldest; others are not
// affected until the limits for all, and then lose nothing that is held.
func TestReassemblyFlood(t *testing.T) {
	limits := ReassemblyLimits{Messages: 20, Bytes: 1 << 20, SourceMessages: 8, SourceBytes: 6000}
	r := NewReassembler(limits)
	victim := messageOf(t, 1, 2000)
	parts := split(t, victim, 1200)
	mustAdd(t, r, epoch, node2, parts[0])
	fragment := parts[0]
	cost := len(fragment) + partOverhead
	for i := range uint64(1000) {
		flood := bytes.Clone(fragment)
		flood[20], flood[26], flood[27] = 0xee, byte(i>>8), byte(i)
		mustAdd(t, r, epoch, node1, flood)
		if s := r.Stats(); s.Bytes > 6000+cost || s.Pending > 9 {
			t.Fatalf("after %d: %+v", i, s)
		}
	}
	if got := mustAdd(t, r, epoch, node2, parts[1]); !bytes.Equal(got, victim) {
		t.Error("a flood from one source took another's message")
	}
	if s := r.Stats(); s.Evicted != 1000-6000/uint64(cost) {
		t.Errorf("%+v", s)
	}

	// All limits: sources with one message each.
	r = NewReassembler(limits)
	for i := range 40 {
		source := nodeIDOf(run(byte(i)))
		_, err := r.Add(epoch, source, parts[0])
		if want := i >= 20; errors.Is(err, ErrNoRoom) != want {
			t.Fatalf("source %d: %v", i, err)
		}
	}
	if got := mustAdd(t, r, epoch, nodeIDOf(run(0)), parts[1]); !bytes.Equal(got, victim) {
		t.Error("message held was lost at the limits for all")
	}
	if s := r.Stats(); s.Refused != 20 || s.Pending != 19 {
		t.Errorf("%+v", s)
	}

	// A message larger than a source's share can never be put together.
	r = NewReassembler(ReassemblyLimits{SourceBytes: 1500})
	mustAdd(t, r, epoch, node1, parts[0])
	if _, err := r.Add(epoch, node1, parts[1]); !errors.Is(err, ErrNoRoom) {
		t.Errorf("%v", err)
	}
	// Bytes for all.
	r = NewReassembler(ReassemblyLimits{Bytes: 1500})
	mustAdd(t, r, epoch, node1, parts[0])
	if _, err := r.Add(epoch, node2, parts[0]); !errors.Is(err, ErrNoRoom) {
		t.Errorf("%v", err)
	}
}

func BenchmarkReassemble(b *testing.B) {
	parts := split(b, messageOf(b, 1, 4000), 1200)
	r := NewReassembler(ReassemblyLimits{})
	b.ReportAllocs()
	for b.Loop() {
		for _, part := range parts {
			if _, err := r.Add(epoch, node1, part); err != nil {
				b.Fatal(err)
			}
		}
	}
	if r.Stats().Completed == 0 {
		b.Fatal("nothing put together")
	}
}

func BenchmarkFragment(b *testing.B) {
	message := messageOf(b, 1, 4000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Fragment(message, 1200); err != nil {
			b.Fatal(err)
		}
	}
}
