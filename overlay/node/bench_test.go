package node

import (
	"testing"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// What one message costs a worker, and one forwarded message the loop (without its link).
func BenchmarkMessage(b *testing.B) {
	a, err := ident.NewAuthority("bench.mission.home.arpa", 16)
	if err != nil {
		b.Fatal(err)
	}
	s, err := a.Signer()
	if err != nil {
		b.Fatal(err)
	}
	doc, err := ident.NewDocument(a).Sign(s)
	if err != nil {
		b.Fatal(err)
	}
	trust, err := ident.TrustFor(doc)
	if err != nil {
		b.Fatal(err)
	}
	kit, err := a.NewIdentity()
	if err != nil {
		b.Fatal(err)
	}
	n, err := New(Config{Identity: kit, Trust: trust, Document: doc, Transport: nowhere{}})
	if err != nil {
		b.Fatal(err)
	}
	o := outgoing{dest: toNode(id(1), id(2)), code: wire.PingReq, body: pingBody}
	m := n.newMessage(&o)
	if err := n.sign(m, nil, nil); err != nil {
		b.Fatal(err)
	}
	packet, err := m.AppendBinary(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("sign", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := n.sign(n.newMessage(&o), nil, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v := n.verify(m); v.err != nil {
				b.Fatal(v.err)
			}
		}
	})
	b.Run("forward", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(packet)))
		for b.Loop() {
			h, rest, err := wire.ParseHeader(packet)
			if err != nil {
				b.Fatal(err)
			}
			h.Dest = h.Dest[1:]
			h.Via = append(h.Via, wire.ToNode(id(3)))
			if _, err := h.AppendForward(nil, rest); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// nowhere is a Transport that is never used.
type nowhere struct{ Transport }
