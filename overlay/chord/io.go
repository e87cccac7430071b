package chord

import "fieldkit/overlay/wire"

// LinkKind tells what a link to a peer came from.
type LinkKind uint8

// Link kinds. A peer may have one of each.
const (
	// LinkBootstrap was opened to a discovered address (RFC 6940 §11.4). It carries requests to and
	// through that peer but makes nobody a member of the ring.
	LinkBootstrap LinkKind = 1
	// LinkAttached was negotiated by an Attach (RFC 6940 §6.5.1): an entry of the Connection Table.
	LinkAttached LinkKind = 2
)

func (k LinkKind) String() string {
	if k == LinkBootstrap {
		return "bootstrap"
	}
	return "attached"
}

// Input is an event for Step. The types below are all there are.
type Input interface{ isInput() }

type (
	// Discovered: discovery (mDNS) sees a kit of this overlay, with the same configuration. Repeats
	// are welcome.
	Discovered struct{ ID wire.NodeID }

	// Forgotten: discovery no longer sees it. Its links stay.
	Forgotten struct{ ID wire.NodeID }

	// LinkUp: a link is up, its peer's certificate checked against ID. A second LinkUp of the same
	// kind replaces the first: the peer has to prove itself with an Update again.
	LinkUp struct {
		ID   wire.NodeID
		Kind LinkKind
		// Ours: this side dialled the bootstrap link or sent the Attach that was answered.
		Ours bool
		// SendUpdate: the peer's Attach had its send_update flag set.
		SendUpdate bool
	}

	// LinkDown: the link is gone, for whatever reason, CloseLink included.
	LinkDown struct {
		ID   wire.NodeID
		Kind LinkKind
		// Closed: the other side closed it in order, so its peer has not failed. Only self-tuning asks.
		Closed bool
	}

	// BootstrapFailed ends a Bootstrap output that brought no link.
	BootstrapFailed struct{ ID wire.NodeID }

	// AttachFailed ends an Attach output that brought no link. InProgress is for glare: the peer
	// answered Error_In_Progress or this side yielded, so the peer's own Attach is on its way.
	AttachFailed struct {
		ID         wire.NodeID
		InProgress bool
	}

	// ProbeAnswered: the Ping of a Probe output was answered, signed by Owner.
	ProbeAnswered struct{ Via, Owner wire.NodeID }

	// ProbeFailed: it was not answered.
	ProbeFailed struct{ Via wire.NodeID }

	// UpdateReceived: an UpdateReq whose signer is the peer of the attached link it came over.
	UpdateReceived struct {
		From   wire.NodeID
		Update wire.ChordUpdate
	}

	// UpdateRequested: a RouteQuery with send_update from this peer was answered (RFC 6940 §10.8).
	UpdateRequested struct{ From wire.NodeID }

	// JoinReceived: a JoinReq whose signer and joining_peer_id are the peer of the link it came
	// over (RFC 6940 §6.4.2.1 makes node check that). AnswerJoin is the first output.
	JoinReceived struct{ From wire.NodeID }

	// JoinAnswered: the JoinAns, signed by the peer of the adjacency the Join went over.
	JoinAnswered struct{ From wire.NodeID }

	// JoinFailed: the Join got an error or no answer.
	JoinFailed struct{ From wire.NodeID }

	// LeaveReceived: a LeaveReq, checked like a Join. The link may stay until the peer closes it.
	LeaveReceived struct {
		From wire.NodeID
		// Leave is its overlay-specific data; the zero value if there was none.
		Leave wire.ChordLeave
	}

	// SearchAnswered: the Ping of a Search output was answered, signed by Owner.
	SearchAnswered struct {
		Resource wire.ResourceID
		Owner    wire.NodeID
	}

	// SearchFailed: it was not answered.
	SearchFailed struct{ Resource wire.ResourceID }

	// ProbeInfoReceived: a ProbeReq with a self_tuning_data extension came from this peer. The answer
	// carries State.SelfTuning (RFC 7363 §6.5).
	ProbeInfoReceived struct {
		From   wire.NodeID
		Tuning wire.SelfTuningData
	}

	// ProbeInfoAnswered: the ProbeAns to a ProbeInfo output. No answer needs no input.
	ProbeInfoAnswered struct {
		From wire.NodeID
		// Uptime in seconds, if HasUptime.
		Uptime    uint32
		HasUptime bool
		// Tuning is the answer's self_tuning_data extension, if HasTuning.
		Tuning    wire.SelfTuningData
		HasTuning bool
	}

	// PeerFailed: a request to a connected peer went unanswered for the maximum request lifetime,
	// which RFC 6940 §10.7.1 counts as a lost connection. Its links are closed.
	PeerFailed struct{ ID wire.NodeID }

	// Tick: Deadline is reached. A Tick too early or too late does no harm.
	Tick struct{}

	// Shutdown: the kit leaves. Leave requests come out, and after that nothing ever again.
	Shutdown struct{}
)

func (Discovered) isInput()        {}
func (Forgotten) isInput()         {}
func (LinkUp) isInput()            {}
func (LinkDown) isInput()          {}
func (BootstrapFailed) isInput()   {}
func (AttachFailed) isInput()      {}
func (ProbeAnswered) isInput()     {}
func (ProbeFailed) isInput()       {}
func (UpdateReceived) isInput()    {}
func (UpdateRequested) isInput()   {}
func (JoinReceived) isInput()      {}
func (JoinAnswered) isInput()      {}
func (JoinFailed) isInput()        {}
func (LeaveReceived) isInput()     {}
func (PeerFailed) isInput()        {}
func (SearchAnswered) isInput()    {}
func (SearchFailed) isInput()      {}
func (ProbeInfoReceived) isInput() {}
func (ProbeInfoAnswered) isInput() {}
func (Tick) isInput()              {}
func (Shutdown) isInput()          {}

// Output is what Step wants done, in order. The types below are all there are.
type Output interface{ isOutput() }

type (
	// Bootstrap: open a bootstrap link to a discovered peer. Ends in LinkUp or BootstrapFailed.
	Bootstrap struct{ ID wire.NodeID }

	// Probe: send a Ping with destination list [Via, Resource] and report who signed the answer.
	// Resource is the own Node-ID plus one, as a Resource-ID: sent to a Node-ID it would be
	// dropped by the peer responsible (RFC 6940 §6.1.1, erratum 5530). Ends in ProbeAnswered or
	// ProbeFailed.
	Probe struct {
		Via      wire.NodeID
		Resource wire.ResourceID
	}

	// Search: send a Ping to Resource, routed through the overlay, and report who signed the answer: a
	// peer for the Finger Table (RFC 6940 §10.7.4.2). Resource is a random point of the finger's range,
	// as a Resource-ID: a Node-ID that nobody has would be dropped (§6.1.1). Ends in SearchAnswered or
	// SearchFailed.
	Search struct{ Resource wire.ResourceID }

	// ProbeInfo: send a ProbeReq for the uptime to To, with Tuning in a self_tuning_data extension that
	// is not critical (RFC 7363 §5.3 and §6.5). Ends in ProbeInfoAnswered or in nothing.
	ProbeInfo struct {
		To     wire.NodeID
		Tuning wire.SelfTuningData
	}

	// Attach: send an AttachReq to ID, with destination list Via… then ID (RFC 6940 §10.6); Via is
	// empty when ID itself is linked. Ends in LinkUp of kind LinkAttached (Ours, or not ours if
	// glare was lost) or AttachFailed.
	Attach struct {
		ID         wire.NodeID
		Via        []wire.NodeID
		SendUpdate bool
	}

	// SendUpdate: send an UpdateReq over the attached link to To. Report PeerFailed if no answer
	// comes.
	SendUpdate struct {
		To     wire.NodeID
		Update wire.ChordUpdate
	}

	// SendJoin: send a JoinReq over the attached link to To. Ends in JoinAnswered or JoinFailed.
	SendJoin struct{ To wire.NodeID }

	// AnswerJoin: answer the JoinReq just received with JoinAns or else Error_Forbidden.
	AnswerJoin struct {
		To       wire.NodeID
		Accepted bool
	}

	// HandOver: store at To, as replica stores, what the range of To holds (RFC 6940 §10.5 step
	// 6), before the Updates that follow.
	HandOver struct{ To wire.NodeID }

	// SendLeave: send a LeaveReq over the attached link to To.
	SendLeave struct {
		To    wire.NodeID
		Leave wire.ChordLeave
	}

	// CloseLink: close that link. A LinkDown may follow and is ignored then.
	CloseLink struct {
		ID   wire.NodeID
		Kind LinkKind
	}

	// NeighboursChanged tells the new Neighbor Table, nearest first.
	NeighboursChanged struct{ Predecessors, Successors []wire.NodeID }

	// RangeChanged: this peer is now responsible for (After, self]; for everything if After is the
	// zero Node-ID.
	RangeChanged struct{ After wire.NodeID }

	// RingChanged tells the members known, self among them, ascending. It is the whole ring while
	// that has no more than Config.FullMesh members.
	RingChanged struct{ Members []wire.NodeID }

	// Settled: the Neighbor Table has not changed for the hold-down time. Now replicate to
	// successors, hand over what others own, and store own values again.
	Settled struct{}
)

func (Bootstrap) isOutput()         {}
func (Probe) isOutput()             {}
func (Attach) isOutput()            {}
func (Search) isOutput()            {}
func (ProbeInfo) isOutput()         {}
func (SendUpdate) isOutput()        {}
func (SendJoin) isOutput()          {}
func (AnswerJoin) isOutput()        {}
func (HandOver) isOutput()          {}
func (SendLeave) isOutput()         {}
func (CloseLink) isOutput()         {}
func (NeighboursChanged) isOutput() {}
func (RangeChanged) isOutput()      {}
func (RingChanged) isOutput()       {}
func (Settled) isOutput()           {}
