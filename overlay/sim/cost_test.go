package sim

import (
	"bytes"
	"context"
	"crypto/x509"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/board/simnet"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/link"
	"fieldkit/overlay/wire"
)

// within fails unless got is want but for so many parts of a hundred.
func within(t *testing.T, what string, got, want, percent float64) {
	t.Helper()
	if got < want*(1-percent/100) || got > want*(1+percent/100) {
		t.Errorf("%s: overlay/link takes %.1f, the model %.1f", what, got, want)
	}
}

// TestCostsAreThoseOfRealLinks holds the constants of the link model against overlay/link itself, on a simulated
// medium whose packets are counted: a fake that nobody checks against the real thing drifts away from it.
func TestCostsAreThoseOfRealLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay = 20 * time.Millisecond
		n, err := simnet.New(simnet.Config{Delay: delay, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		var total atomic.Int64
		n.Watch(func(p simnet.Packet) bool {
			total.Add(int64(len(p.Data) + udpIP))
			return true
		})
		start, from := time.Now(), int64(0)
		begin := func() { start, from = time.Now(), total.Load() }
		spent := func() float64 { return float64(total.Load() - from) }
		auth, err := ident.NewAuthority(overlayName, wire.MinNodeIDLen)
		if err != nil {
			t.Fatal(err)
		}
		trust, err := ident.NewTrust(overlayName, wire.MinNodeIDLen, []*x509.Certificate{auth.Certificate()}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var ends [2]*link.Transport
		var ids [2]wire.NodeID
		for i := range ends {
			id, err := auth.NewIdentity()
			if err != nil {
				t.Fatal(err)
			}
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
			h, err := n.Host(addr)
			if err != nil {
				t.Fatal(err)
			}
			ids[i] = id.NodeID()
			ends[i], err = link.New(link.Config{Identity: id, Trust: trust, Net: h, Port: 6084, Addresses: func() []netip.Addr { return []netip.Addr{addr} }})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = ends[i].Close() }()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()

		begin()
		boot, err := ends[0].Bootstrap(ctx, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 2}), 6084))
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != bootFlights*delay {
			t.Errorf("bootstrap link took %v, the model %v", took, bootFlights*delay)
		}
		time.Sleep(time.Second)
		within(t, "bytes of a bootstrap link", spent(), bootBytes, 2)
		begin()
		time.Sleep(time.Minute)
		within(t, "bytes of an idle bootstrap link", spent(), 0, 0)
		begin()
		if err := boot.Close(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		within(t, "bytes of a goodbye, both ways", spent(), 2*goodbye, 0)

		x, err := ends[0].Prepare(ctx)
		if err != nil {
			t.Fatal(err)
		}
		y, err := ends[1].Prepare(ctx)
		if err != nil {
			t.Fatal(err)
		}
		offer, answer := x.Local(), y.Local()
		offer.Role, answer.Role = []byte("passive"), []byte("active")
		model := (&attempt{kit: &Kit{addr: offer.Candidates[0].Addr}, ufrag: "0123456789abcdef"}).Local()
		model.Role = offer.Role
		if got, want := encoded(t, offer), encoded(t, model); len(got) != len(want) {
			t.Errorf("an AttachReq of overlay/link has %d bytes, the model's %d", len(got), len(want))
		}

		begin()
		type end struct {
			conn *link.Conn
			took time.Duration
		}
		got := make(chan end, 1)
		go func() {
			c, err := y.Connect(ctx, offer, ids[0], false)
			if err != nil {
				t.Error(err)
			}
			got <- end{c, time.Since(start)}
		}()
		a, err := x.Connect(ctx, answer, ids[1], true)
		if err != nil {
			t.Fatal(err)
		}
		b := <-got
		if want := (2 + dtlsFlights) * delay; b.took > want+delay || b.took < want {
			t.Errorf("attached link took %v, the model %v", b.took, want)
		}
		time.Sleep(2 * time.Second)
		within(t, "bytes of an attached link", spent(), attachBytes, 8) // how many checks ICE makes is a matter of moments

		begin()
		const size = 500
		if err := a.Send(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.conn.Receive(ctx); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != delay {
			t.Errorf("a message took %v, the model %v", took, delay)
		}
		time.Sleep(3 * delay)
		within(t, "bytes of a message", spent(), size+frameData+wire.FrameAckLen+2*(dtlsRecord+udpIP), 0)

		begin()
		time.Sleep(10 * time.Minute)
		within(t, "bytes of an idle link in ten minutes", spent(), 600*keepaliveRate, 5)
	})
}

func encoded(t *testing.T, p wire.IceParameters) []byte {
	t.Helper()
	b, err := wire.AttachReqAns{IceParameters: p, SendUpdate: true}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The fast signatures and certificates are as large as those of a kit, so that bytes counted in one mode are those
// of the other.
func TestFastSizesAreThoseOfRealOnes(t *testing.T) {
	real, err := newRealAuthority()
	if err != nil {
		t.Fatal(err)
	}
	sizes := func(a authority, seed byte) (message, stored int) {
		id, err := a.kit([32]byte{1: seed, 31: 1})
		if err != nil {
			t.Fatal(err)
		}
		signer, err := id.signerFor(handset(1))
		if err != nil {
			t.Fatal(err)
		}
		m := &wire.Message{Header: wire.Header{Version: wire.Version, Fragment: wire.Unfragmented, Dest: []wire.Destination{wire.ToNode(id.id())}}, Code: wire.PingReq, Body: []byte{0, 0}}
		if err := id.crypto.Sign(m, signer); err != nil {
			t.Fatal(err)
		}
		b, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		v := wire.StoredData{Value: wire.StoredDataValue{Model: wire.Dictionary, Key: id.id().Bytes(), DataValue: wire.DataValue{Exists: true}}}
		if err := id.crypto.SignStored("0123456789abcdef", wire.KindSIPRegistration, &v, nil); err != nil {
			t.Fatal(err)
		}
		return len(b), len(v.Signature.Value)
	}
	const rounds = 16
	var realMessage, realStored, fastMessage, fastStored int
	for i := range byte(rounds) {
		m, s := sizes(real, i)
		realMessage, realStored = realMessage+m, realStored+s
		m, s = sizes(newFastAuthority(), i)
		fastMessage, fastStored = fastMessage+m, fastStored+s
	}
	within(t, "a message by a handset", float64(realMessage)/rounds, float64(fastMessage)/rounds, 0.5)
	within(t, "a signature", float64(realStored)/rounds, float64(fastStored)/rounds, 2)
}

// No kit can sign as another: not the message, not a value, not with the other's certificates.
func TestFastSignaturesCannotBeForged(t *testing.T) {
	auth := newFastAuthority()
	var ids [2]*identity
	for i := range ids {
		id, err := auth.kit([32]byte{byte(i)})
		if err != nil {
			t.Fatal(err)
		}
		ids[i] = id
	}
	message := func() *wire.Message {
		m := &wire.Message{Header: wire.Header{Overlay: 1, TransactionID: 2}, Code: wire.PingReq, Body: []byte{0, 0}}
		if err := ids[0].crypto.Sign(m, nil); err != nil {
			t.Fatal(err)
		}
		return m
	}
	if p, err := ids[1].crypto.Verify(message(), epoch); err != nil || p.NodeID != ids[0].id() {
		t.Fatalf("a genuine message: %v, %v", p, err)
	}
	other := message()
	other.Security = wire.SecurityBlock{}
	if err := ids[1].crypto.Sign(other, nil); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*wire.Message){
		"another body":            func(m *wire.Message) { m.Body = []byte{0, 1, 0} },
		"another transaction":     func(m *wire.Message) { m.TransactionID++ },
		"another overlay":         func(m *wire.Message) { m.Overlay++ },
		"another signature":       func(m *wire.Message) { m.Security.Signature.Value = other.Security.Signature.Value },
		"another identity":        func(m *wire.Message) { m.Security.Signature.Identity = other.Security.Signature.Identity },
		"no certificate":          func(m *wire.Message) { m.Security.Certificates = nil },
		"the other's certificate": func(m *wire.Message) { m.Security.Certificates = other.Security.Certificates },
		"a changed certificate": func(m *wire.Message) {
			c := bytes.Clone(m.Security.Certificates[0].Data)
			c[0] ^= 1
			m.Security.Certificates = []wire.Certificate{{Data: c}}
		},
	} {
		m := message()
		change(m)
		if p, err := ids[1].crypto.Verify(m, epoch); err == nil && p.NodeID == ids[0].id() {
			t.Errorf("%s: accepted as of %v", what, p.NodeID)
		}
	}
}
