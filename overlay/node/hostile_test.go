package node_test

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// raw is a peer that says what it likes over a link to one kit.
type raw struct {
	t    *testing.T
	id   *ident.Identity
	host *nodetest.Host
	conn node.Conn
	doc  *ident.Document
	peer wire.NodeID

	frags *wire.Reassembler
	asked []*wire.Message
}

// newRaw links a member of w's mission, which runs no node, to k.
func newRaw(t *testing.T, w *world, k *nodetest.Kit, last byte) *raw {
	t.Helper()
	return newRawAs(t, w, k, last, w.identity(func(wire.NodeID) bool { return true }))
}

// identity makes a member of the mission with a Node-ID that will do.
func (w *world) identity(will func(wire.NodeID) bool) *ident.Identity {
	w.t.Helper()
	for {
		id, err := w.mission.Authority.NewIdentity()
		if err != nil {
			w.t.Fatal(err)
		}
		if will(id.NodeID()) {
			return id
		}
	}
}

func newRawAs(t *testing.T, w *world, k *nodetest.Kit, last byte, id *ident.Identity) *raw {
	t.Helper()
	trust, err := ident.TrustFor(w.mission.Document)
	if err != nil {
		t.Fatal(err)
	}
	h := w.net.Join(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 9, last}), 6084), id, trust)
	c, err := h.Bootstrap(t.Context(), k.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return &raw{t: t, id: id, host: h, conn: c, doc: w.mission.Document, peer: k.ID()}
}

// message is a signed request to the kit, altered by change before it is signed.
func (r *raw) message(code wire.MessageCode, body []byte, change func(*wire.Message)) *wire.Message {
	r.t.Helper()
	m := &wire.Message{
		Header: wire.Header{
			Overlay: wire.OverlayHash(r.doc.InstanceName), ConfigSequence: r.doc.Sequence, Version: wire.Version, TTL: r.doc.InitialTTL,
			Fragment: wire.Unfragmented, TransactionID: rand.Uint64(), Dest: []wire.Destination{wire.ToNode(r.peer)},
		},
		Code: code, Body: body,
	}
	if change != nil {
		change(m)
	}
	if err := ident.Sign(m, r.id.Signer()); err != nil {
		r.t.Fatal(err)
	}
	return m
}

func (r *raw) send(m *wire.Message) {
	r.t.Helper()
	b, err := m.AppendBinary(nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.sendBytes(b)
}

func (r *raw) sendBytes(b []byte) {
	if err := r.conn.Send(b); err != nil {
		r.t.Logf("send: %v", err)
	}
}

// next is the next whole message; nil when none comes before ctx ends.
func (r *raw) next(ctx context.Context) *wire.Message {
	r.t.Helper()
	if r.frags == nil {
		r.frags = wire.NewReassembler(wire.ReassemblyLimits{Message: 16 << 10})
	}
	for {
		b, err := r.conn.Receive(ctx)
		if err != nil {
			return nil
		}
		if b, err = r.frags.Add(time.Now(), r.peer, b); err != nil {
			r.t.Fatal(err)
		}
		if b == nil {
			continue
		}
		m, err := wire.Parse(b)
		if err != nil {
			r.t.Fatal(err)
		}
		return m
	}
}

// answer waits a little for the answer to m; requests that come meanwhile are put aside; nil is silence.
func (r *raw) answer(m *wire.Message) *wire.Message {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 500*time.Millisecond)
	defer cancel()
	for {
		a := r.next(ctx)
		switch {
		case a == nil:
			return nil
		case a.Code.IsRequest():
			r.asked = append(r.asked, a)
		case a.TransactionID == m.TransactionID:
			return a
		}
	}
}

func errorCode(t *testing.T, m *wire.Message) wire.ErrorCode {
	t.Helper()
	if m == nil || m.Code != wire.ErrorAns {
		return 0
	}
	e, err := wire.ParseErrorResponse(m.Body)
	if err != nil {
		t.Fatal(err)
	}
	return e.Code
}

var ping = []byte{0, 0}

// The rules of RFC 6940 §6.1.1, §6.3.2 and §6.3.3 for what arrives, one by one.
func TestReceiptRules(t *testing.T) {
	w := newWorld(t, 2, nodetest.Conditions{Delay: time.Millisecond})
	other := nodeID(t, 0xaa)
	cases := []struct {
		name   string
		change func(*wire.Message)
		want   wire.MessageCode // 0: silence
		code   wire.ErrorCode
	}{
		{"for this node", nil, wire.PingAns, 0},
		{"A peer is always responsible for the wildcard Node-ID.",
			func(m *wire.Message) { m.Dest = []wire.Destination{wire.ToNode(wire.WildcardNodeID(16))} }, wire.PingAns, 0},
		{"If the entry is a Resource-ID, then it MUST be the only entry … If there are other entries, the message MUST be silently dropped.",
			func(m *wire.Message) {
				m.Dest = []wire.Destination{wire.ToResource("0123456789abcdef"), wire.ToNode(m.Dest[0].Node)}
			}, 0, 0},
		{"own Node-ID, then another entry: the node removes the entry and repeats",
			func(m *wire.Message) { m.Dest = append(m.Dest, wire.ToNode(wire.WildcardNodeID(16))) }, wire.PingAns, 0},
		{"a Node-ID which is not equal to this node … MUST drop the message silently",
			func(m *wire.Message) { m.Dest = toNodes(other) }, 0, 0},
		{"an opaque ID that is none of ours is silently dropped",
			func(m *wire.Message) { m.Dest = []wire.Destination{wire.ToOpaque(7)} }, 0, 0},
		{"repeated destinations (§13.6.5)",
			func(m *wire.Message) { m.Dest = []wire.Destination{m.Dest[0], m.Dest[0]} }, wire.ErrorAns, wire.ErrorInvalidMessage},
		{"a Resource-ID MUST NOT appear in a Via List",
			func(m *wire.Message) { m.Via = []wire.Destination{wire.ToResource("0123456789abcdef")} }, 0, 0},
		{"TTL greater than initial-ttl: MUST discard the message and send an Error_TTL_Exceeded",
			func(m *wire.Message) { m.TTL = 17 }, wire.ErrorAns, wire.ErrorTTLExceeded},
		{"TTL 0 for this node is delivered", func(m *wire.Message) { m.TTL = 0 }, wire.PingAns, 0},
		{"another overlay", func(m *wire.Message) { m.Overlay++ }, wire.ErrorAns, wire.ErrorIncompatibleWithOverlay},
		{"Nodes MUST reject messages with other versions", func(m *wire.Message) { m.Version = 1 }, wire.ErrorAns, wire.ErrorIncompatibleWithOverlay},
		{"configuration sequence behind", func(m *wire.Message) { m.ConfigSequence-- }, wire.ErrorAns, wire.ErrorConfigTooOld},
		{"configuration sequence ahead", func(m *wire.Message) { m.ConfigSequence++ }, wire.ErrorAns, wire.ErrorConfigTooNew},
		{"65535 is for ConfigUpdate only", func(m *wire.Message) { m.ConfigSequence = wire.AnySequence }, wire.ErrorAns, wire.ErrorConfigTooNew},
		{"unknown critical extension: MUST reject with Error_Unknown_Extension",
			func(m *wire.Message) { m.Extensions = []wire.Extension{{Type: 99, Critical: true}} }, wire.ErrorAns, wire.ErrorUnknownExtension},
		{"unknown extension that is not critical", func(m *wire.Message) { m.Extensions = []wire.Extension{{Type: 99}} }, wire.PingAns, 0},
		{"DESTINATION_CRITICAL option", func(m *wire.Message) {
			m.Options = []wire.ForwardingOption{{Type: 9, Flags: wire.DestinationCritical}}
		}, wire.ErrorAns, wire.ErrorUnsupportedForwardingOption},
		{"FORWARD_CRITICAL option does not matter at the destination", func(m *wire.Message) {
			m.Options = []wire.ForwardingOption{{Type: 9, Flags: wire.ForwardCritical}}
		}, wire.PingAns, 0},
		{"max_response_length that no answer keeps", func(m *wire.Message) { m.MaxResponseLength = 100 }, wire.ErrorAns, wire.ErrorResponseTooLarge},
		{"a method nobody knows", func(m *wire.Message) { m.Code = 0x55 }, wire.ErrorAns, wire.ErrorInvalidMessage},
		{"a malformed body", func(m *wire.Message) { m.Body = []byte{1} }, wire.ErrorAns, wire.ErrorInvalidMessage},
		{"a Join of somebody else: MUST be rejected with an Error_Forbidden", func(m *wire.Message) {
			m.Code, m.Body = wire.JoinReq, encode(t, wire.JoinRequest{Node: other})
		}, wire.ErrorAns, wire.ErrorForbidden},
		{"a Leave of somebody else", func(m *wire.Message) {
			m.Code, m.Body = wire.LeaveReq, encode(t, wire.LeaveRequest{Node: other})
		}, wire.ErrorAns, wire.ErrorForbidden},
		{"If the Application ID is not supported, the peer MUST reply with an Error_Not_Found", func(m *wire.Message) {
			m.Code, m.Body = wire.AppAttachReq, encode(t, wire.AppAttachReqAns{Application: 5061})
		}, wire.ErrorAns, wire.ErrorNotFound},
	}
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		r := newRaw(t, w, w.kits[0], 1)
		defer r.conn.Close()
		for _, c := range cases {
			m := r.message(wire.PingReq, ping, c.change)
			r.send(m)
			a := r.answer(m)
			switch {
			case c.want == 0 && a != nil:
				t.Errorf("%s: answered with %v %v", c.name, a.Code, errorCode(t, a))
			case c.want != 0 && a == nil:
				t.Errorf("%s: no answer", c.name)
			case c.want != 0 && (a.Code != c.want || errorCode(t, a) != c.code):
				t.Errorf("%s: %v %v, want %v %v", c.name, a.Code, errorCode(t, a), c.want, c.code)
			}
			time.Sleep(time.Second)
		}
		// RESPONSE_COPY: "any node generating a response MUST copy the option from the request to the response except
		// that the … flags MUST be cleared".
		m := r.message(wire.PingReq, ping, func(m *wire.Message) {
			m.Options = []wire.ForwardingOption{{Type: 9, Flags: wire.ResponseCopy, Data: []byte("x")}, {Type: 10}}
		})
		r.send(m)
		if a := r.answer(m); a == nil || len(a.Options) != 1 || a.Options[0].Flags != 0 || string(a.Options[0].Data) != "x" {
			t.Errorf("RESPONSE_COPY: %+v", a)
		}
	})
}

func encode(t *testing.T, b interface{ AppendBinary([]byte) ([]byte, error) }) []byte {
	t.Helper()
	out, err := b.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func nodeID(t *testing.T, b byte) wire.NodeID {
	t.Helper()
	id, err := wire.NodeIDFrom([]byte{b, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func toNodes(ids ...wire.NodeID) (out []wire.Destination) {
	for _, id := range ids {
		out = append(out, wire.ToNode(id))
	}
	return out
}

func (w *world) snapshot(k *nodetest.Kit) node.Snapshot {
	w.t.Helper()
	s, err := k.Node.Snapshot(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// A message is forwarded by an intermediate node, with the way back in the via list, and refused there when it must not be.
func TestForwarding(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		r := newRaw(t, w, w.kits[0], 1)
		defer r.conn.Close()
		far := w.kits[1].ID()
		through := func(change func(*wire.Message)) (*wire.Message, *wire.Message) {
			m := r.message(wire.PingReq, ping, func(m *wire.Message) {
				m.Dest = toNodes(far)
				if change != nil {
					change(m)
				}
			})
			r.send(m)
			return m, r.answer(m)
		}
		_, a := through(nil)
		if a == nil || a.Code != wire.PingAns || len(a.Dest) != 1 || a.Dest[0].Node != r.id.NodeID() {
			t.Fatalf("answer through the ring: %+v", a)
		}
		trust := w.kits[2].Trust
		if p, err := trust.VerifyMessage(a, time.Now()); err != nil || p.NodeID != far {
			t.Errorf("answer signed by %v, %v; want %v", p, err, far)
		}
		if _, a := through(func(m *wire.Message) { m.TTL = 0 }); errorCode(t, a) != wire.ErrorTTLExceeded {
			t.Errorf("TTL 0 on the way: %+v", a)
		}
		if _, a := through(func(m *wire.Message) { m.TTL = 1 }); a == nil || a.Code != wire.PingAns {
			t.Errorf("TTL 1 with one hop to go: %+v", a)
		}
		if _, a := through(func(m *wire.Message) {
			m.Options = []wire.ForwardingOption{{Type: 9, Flags: wire.ForwardCritical}}
		}); errorCode(t, a) != wire.ErrorUnsupportedForwardingOption {
			t.Errorf("FORWARD_CRITICAL: %+v", a)
		}
		// Source-routed through two, and an answer larger than a link carries comes back in fragments.
		m := r.message(wire.PingReq, append([]byte{0x0b, 0xb8}, make([]byte, 3000)...), func(m *wire.Message) {
			m.Dest = toNodes(w.kits[0].ID(), w.kits[2].ID(), far)
		})
		b := encodeMessage(t, m)
		parts, err := wire.Fragment(b, 1200)
		if err != nil || len(parts) < 3 {
			t.Fatalf("%d fragments, %v", len(parts), err)
		}
		for _, p := range parts {
			r.sendBytes(p)
		}
		if a := r.answer(m); a == nil || a.Code != wire.PingAns {
			t.Errorf("fragmented request through two kits: %+v", a)
		}
	})
}

func encodeMessage(t *testing.T, m *wire.Message) []byte {
	t.Helper()
	b, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Strangers, with certificates of another mission of the same name, are refused on every path and reported.
func TestStrangersAreRefused(t *testing.T) {
	w := newWorld(t, 2, nodetest.Conditions{Delay: time.Millisecond})
	theirs, err := nodetest.NewMission("test.mission.home.arpa", nil)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		k := w.kits[0]
		stranger, err := theirs.NewKit(77)
		if err != nil {
			t.Fatal(err)
		}
		if err := theirs.Start(w.net, stranger, nil); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := stranger.Stop(); err != nil {
				t.Error(err)
			}
		}()
		// Both dial the other.
		k.Node.Discovered(stranger.ID(), []netip.AddrPort{stranger.Addr})
		stranger.Node.Discovered(k.ID(), []netip.AddrPort{k.Addr})
		time.Sleep(20 * time.Second)
		s := w.snapshot(k)
		if len(s.Links) == 0 || len(s.Ring) != 2 || len(s.Strangers) == 0 {
			t.Errorf("links %d, ring %d, strangers %v", len(s.Links), len(s.Ring), s.Strangers)
		}
		for _, l := range s.Links {
			if l.Peer == stranger.ID() {
				t.Error("linked to the stranger")
			}
		}
		// Over a member's link, signed with the stranger's certificate, and with none at all.
		r := newRaw(t, w, k, 1)
		defer r.conn.Close()
		bad := w.snapshot(k).Counters["bad_signature"]
		m := r.message(wire.PingReq, ping, nil)
		m.Security = wire.SecurityBlock{}
		if err := ident.Sign(m, stranger.Identity.Signer()); err != nil {
			t.Fatal(err)
		}
		r.send(m)
		if a := r.answer(m); a != nil {
			t.Errorf("stranger's message answered with %v", a.Code)
		}
		m = r.message(wire.PingReq, ping, nil)
		m.Security = wire.SecurityBlock{Signature: wire.NoSignature()}
		r.send(m)
		if a := r.answer(m); a != nil {
			t.Errorf("unsigned message answered with %v", a.Code)
		}
		// A member's message that was altered on the way: "If the signature fails, the implementation SHOULD simply
		// drop the message and MUST NOT process it."
		m = r.message(wire.PingReq, ping, nil)
		m.Body = []byte{0, 1, 'x'}
		r.send(m)
		if a := r.answer(m); a != nil {
			t.Errorf("altered message answered with %v", a.Code)
		}
		if got := w.snapshot(k).Counters["bad_signature"] - bad; got != 3 {
			t.Errorf("%d bad signatures counted, want 3", got)
		}
		// A value signed by nobody of the mission in a member's Store.
		aor := "victim@test.mission.home.arpa"
		sg, err := stranger.Identity.SignerFor(aor)
		if err != nil {
			t.Fatal(err)
		}
		v := wire.StoredData{StorageTime: 1, Lifetime: 60, Value: wire.StoredDataValue{
			Model: wire.Dictionary, Key: stranger.ID().Bytes(), DataValue: wire.DataValue{Exists: true, Value: []byte("x")},
		}}
		res := k.Node.ResourceID(aor)
		if err := ident.SignStored(res, regKind, &v, sg); err != nil {
			t.Fatal(err)
		}
		m = r.message(wire.StoreReq, encode(t, wire.StoreRequest{Resource: res, Kinds: []wire.StoreKindData{{Kind: regKind, Values: []wire.StoredData{v}}}}),
			func(m *wire.Message) {
				m.Dest = []wire.Destination{wire.ToResource(res)}
				m.Security.Certificates = sg.Bucket()
			})
		r.send(m)
		if a := r.answer(m); errorCode(t, a) != wire.ErrorForbidden {
			t.Errorf("stranger's value: %+v", a)
		}
	})
}

// A message of one member that another repeats does no harm: Join, Leave and Update only count over "a transport
// channel that is bound to the Node-ID", a Store repeated at once is answered like the first, later it is too old.
func TestReplay(t *testing.T) {
	w := newWorld(t, 3, nodetest.Conditions{Delay: time.Millisecond})
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.stop()
		w.together()
		w.ring(30*time.Second, w.kits...)
		k := w.kits[0]
		thief := newRaw(t, w, k, 1)
		defer thief.conn.Close()
		victim := &raw{t: t, id: w.kits[1].Identity, doc: thief.doc, peer: k.ID()} // signs, but the thief sends
		leave := encode(t, wire.LeaveRequest{Node: victim.id.NodeID(), OverlaySpecific: encode(t, wire.ChordLeave{Type: wire.LeaveFromSuccessor})})
		for _, c := range []struct {
			code wire.MessageCode
			body []byte
		}{
			{wire.JoinReq, encode(t, wire.JoinRequest{Node: victim.id.NodeID()})},
			{wire.LeaveReq, leave},
			{wire.UpdateReq, encode(t, wire.ChordUpdate{Type: wire.UpdateNeighbors, Predecessors: []wire.NodeID{nodeID(t, 1)}})},
		} {
			m := victim.message(c.code, c.body, nil)
			thief.send(m)
			if a := thief.answer(m); errorCode(t, a) != wire.ErrorForbidden {
				t.Errorf("replayed %v: %+v", c.code, a)
			}
		}
		if err := nodetest.CheckRing(w.kits...); err != nil {
			t.Error(err)
		}

		aor := "u@test.mission.home.arpa"
		sg, err := w.kits[1].Identity.SignerFor(aor)
		if err != nil {
			t.Fatal(err)
		}
		res := k.Node.ResourceID(aor)
		v := wire.StoredData{StorageTime: 1000, Lifetime: 600, Value: wire.StoredDataValue{
			Model: wire.Dictionary, Key: victim.id.NodeID().Bytes(), DataValue: wire.DataValue{Exists: true, Value: []byte("x")},
		}}
		if err := ident.SignStored(res, regKind, &v, sg); err != nil {
			t.Fatal(err)
		}
		m := thief.message(wire.StoreReq, encode(t, wire.StoreRequest{Resource: res, Kinds: []wire.StoreKindData{{Kind: regKind, Values: []wire.StoredData{v}}}}),
			func(m *wire.Message) { m.Dest = []wire.Destination{wire.ToResource(res)} })
		m.Security = wire.SecurityBlock{}
		if err := ident.Sign(m, sg); err != nil {
			t.Fatal(err)
		}
		thief.send(m)
		first := thief.answer(m)
		if first == nil || first.Code != wire.StoreAns {
			t.Fatalf("store: %+v", first)
		}
		thief.send(m)
		if a := thief.answer(m); a == nil || a.Code != wire.StoreAns || string(a.Body) != string(first.Body) {
			t.Errorf("repeated within the request lifetime: %+v, want the first answer", a)
		}
		time.Sleep(16 * time.Second)
		late := newRaw(t, w, k, 2) // the first link has fallen silent
		defer late.conn.Close()
		late.send(m)
		if a := late.answer(m); errorCode(t, a) != wire.ErrorDataTooOld {
			t.Errorf("replayed later: %+v", a)
		}
	})
}
