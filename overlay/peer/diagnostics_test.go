package peer

import (
	"testing"
	"time"

	"fieldkit/overlay/chord"
	"fieldkit/overlay/client"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// diagnosticPing is a Ping that asks for diagnostics, from a kit, as change makes it.
func (r *rig) diagnosticPing(t *testing.T, from *ident.Identity, dest []wire.Destination, change func(*wire.Message, *wire.DiagnosticsRequest)) []byte {
	t.Helper()
	m := r.newMessage(&Outgoing{Dest: dest, Code: wire.PingReq, Body: pingBody})
	q := r.diagnosticsRequest(0)
	if change != nil {
		change(m, &q)
	}
	data, err := q.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Extensions = append(m.Extensions, wire.Extension{Type: wire.ExtensionDiagnosticPing, Data: data})
	if m.Code == wire.PathTrackReq {
		m.Extensions = nil
		if m.Body, err = (wire.PathTrackRequest{Destination: dest[0], Request: q}).AppendBinary(nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := ident.Sign(m, from.Signer()); err != nil {
		t.Fatal(err)
	}
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// servant is a topology in which r is responsible for nothing and sends everything over one link.
func servant(r *rig, to *fakeLink) topology {
	c := client.New(r.ID(), r.rng, t0)
	c.Step(t0, chord.LinkUp{ID: to.to.NodeID, Kind: chord.LinkBootstrap})
	return c
}

// What an intermediate peer says of diagnostic messages that do not get on, RFC 7851 §6.2.
func TestDiagnosticErrorsOnTheWay(t *testing.T) {
	minutes := func(n int) uint64 { return uint64(n) * 60_000 }
	var r *rig
	for _, c := range []struct {
		name   string
		change func(*wire.Message, *wire.DiagnosticsRequest)
		dest   func(to wire.NodeID) []wire.Destination
		set    func(from, to *fakeLink)
		want   wire.ErrorCode // 0: forwarded
	}{
		{name: "nothing wrong"},
		// "If the message expired, the intermediate peer MUST generate a response with error code 0x17
		// "Error_Message_Expired", return the response to the initiator node, and discard the message."
		{name: "expired", change: func(_ *wire.Message, q *wire.DiagnosticsRequest) {
			q.Initiated -= minutes(90)
			q.Expiration -= minutes(90)
		}, want: wire.ErrorMessageExpired},
		{name: "expired, as a PathTrack", change: func(m *wire.Message, q *wire.DiagnosticsRequest) {
			m.Code = wire.PathTrackReq
			q.Initiated -= minutes(90)
			q.Expiration -= minutes(90)
		}, want: wire.ErrorMessageExpired},
		{name: "by a clock that is behind, but not by that much", change: func(_ *wire.Message, q *wire.DiagnosticsRequest) {
			q.Initiated -= minutes(30)
			q.Expiration -= minutes(30)
		}},
		// "This value MUST have a value between 1 and 600 seconds in the future."
		{name: "valid for too long", change: func(_ *wire.Message, q *wire.DiagnosticsRequest) {
			q.Expiration = q.Initiated + 600_001
		}, want: wire.ErrorMessageExpired},
		{name: "valid for too short", change: func(_ *wire.Message, q *wire.DiagnosticsRequest) {
			q.Expiration = q.Initiated + 999
		}, want: wire.ErrorMessageExpired},
		{name: "expired before it was sent", change: func(_ *wire.Message, q *wire.DiagnosticsRequest) {
			q.Expiration = q.Initiated - 1
		}, want: wire.ErrorMessageExpired},
		// "The peer MUST return an error response with error code 0x1a "Error_TTL_Hops_Exceeded" when it finds that the
		// TTL field value is no more than 0 when forwarding."
		{name: "no hops left", change: func(m *wire.Message, _ *wire.DiagnosticsRequest) { m.TTL = 0 }, want: wire.ErrorTTLHopsExceeded},
		// "The peer MUST return an error response with error code 0x19 "Error_Loop_Detected" when it finds a loop through
		// the analysis of the Via List."
		{name: "a loop", change: func(m *wire.Message, _ *wire.DiagnosticsRequest) {
			m.Via = toNode(id(1), r.ID(), id(2))
		}, want: wire.ErrorLoopDetected},
		// "The intermediate peer MUST return an error response with the error code 0x15
		// "Error_Underlay_Destination_Unreachable" when it receives an ICMP message", of which the link layer makes that
		// nothing is acknowledged.
		{name: "a next hop that does not acknowledge", set: func(_, to *fakeLink) { to.suspect = true }, want: wire.ErrorUnderlayDestinationUnreachable},
		{name: "nobody there", dest: func(wire.NodeID) []wire.Destination { return toNode(id(9)) }, want: wire.ErrorUnderlayDestinationUnreachable},
		// "The peer MUST return an error response with error code 0x18 "Error_Upstream_Misrouting" when it finds its
		// upstream peer disobeys the routing rules defined in the overlay."
		{name: "upstream misroutes", dest: func(wire.NodeID) []wire.Destination {
			// Right after the upstream peer, so that this one is farther from it.
			return []wire.Destination{wire.ToResource(ident.AsResource(ident.Next(r.topo.members[0])))}
		}, set: func(from, to *fakeLink) {
			r.topo.members = []wire.NodeID{from.to.NodeID}
			r.chord = servant(r, to)
		}, want: wire.ErrorUpstreamMisrouting},
		{name: "upstream is a client, which need not know the rules", dest: func(wire.NodeID) []wire.Destination {
			return []wire.Destination{wire.ToResource(ident.AsResource(ident.Next(r.ID())))}
		}, set: func(_, to *fakeLink) {
			r.chord = servant(r, to)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r = newRig(t)
			var there, back [][]byte
			from, in := r.neighbour(t, &back)
			to, out := r.neighbour(t, &there)
			r.env.settle()
			if c.set != nil {
				c.set(in, out)
			}
			dest := toNode(to.NodeID())
			if c.dest != nil {
				dest = c.dest(to.NodeID())
			}
			there, back = nil, nil
			r.Receive(t0, in, r.diagnosticPing(t, from, dest, c.change))
			r.env.settle()
			if forwarded := len(there) == 1; forwarded != (c.want == 0) {
				t.Fatalf("forwarded: %v", forwarded)
			}
			if c.want == 0 {
				return
			}
			if len(back) != 1 {
				t.Fatalf("%d answers", len(back))
			}
			m, err := wire.Parse(back[0])
			if err != nil {
				t.Fatal(err)
			}
			e, err := wire.ParseErrorResponse(m.Body)
			if err != nil || e.Code != c.want {
				t.Fatalf("answered with %v, %v; want %v", e.Code, err, c.want)
			}
			if c.want == wire.ErrorUpstreamMisrouting {
				// "The immediate upstream peer information MUST also be conveyed to the initiator node."
				if up, err := wire.ParseUpstream(e.Info); err != nil || up != from.NodeID() {
					t.Errorf("upstream %v, %v", up, err)
				}
			}
		})
	}
}

// A Ping without the extension meets none of these errors.
func TestPlainPingsAreNotDiagnosed(t *testing.T) {
	r := newRig(t)
	var there, back [][]byte
	from, in := r.neighbour(t, &back)
	to, out := r.neighbour(t, &there)
	r.env.settle()
	out.suspect = true
	there, back = nil, nil
	r.Receive(t0, in, r.packet(t, from, to.NodeID()))
	r.env.settle()
	if len(there) != 1 || len(back) != 0 {
		t.Errorf("%d forwarded, %d answered", len(there), len(back))
	}
}

// The average of RFC 7851 §5.3.
func TestEWMA(t *testing.T) {
	var e ewma
	for i := range 5 {
		e.add(t0.Add(time.Duration(i)*time.Second), 1000)
	}
	for _, c := range []struct {
		at    int // seconds
		bytes int
		want  uint64
	}{
		{5, 0, 1000}, // "simply be the average of bytes sent in that time period"
		{7, 10_000, 1000},
		{10, 0, 1800}, // 0.8 × 2000 + 0.2 × 1000
		{15, 0, 360},  // 0.8 × 0 + 0.2 × 1800
		{25, 0, 14},   // two periods of nothing
		{3600, 500, 0},
		{3605, 0, 80},
	} {
		e.add(t0.Add(time.Duration(c.at)*time.Second), c.bytes)
		if got := e.rate(t0.Add(time.Duration(c.at) * time.Second)); got != c.want {
			t.Errorf("after %d s: %d byte/s, want %d", c.at, got, c.want)
		}
	}
}
