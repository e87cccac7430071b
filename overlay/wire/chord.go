package wire

import "strconv"

// JoinRequest is the body of a JoinReq (RFC 6940 §6.4.2.1).
type JoinRequest struct {
	Node            NodeID // joining_peer_id
	OverlaySpecific []byte // empty in CHORD-RELOAD; at most 65535 bytes
}

// JoinAnswer is the body of a JoinAns (RFC 6940 §6.4.2.1).
type JoinAnswer struct {
	OverlaySpecific []byte // empty in CHORD-RELOAD; at most 65535 bytes
}

// LeaveRequest is the body of a LeaveReq (RFC 6940 §6.4.2.2); its OverlaySpecific holds a ChordLeave
// (§10.9), at most 65535 bytes.
type LeaveRequest struct {
	Node            NodeID // leaving_peer_id
	OverlaySpecific []byte
}

// ParseJoinRequest reads the body of a JoinReq in an overlay with Node-IDs of idLen bytes.
func ParseJoinRequest(body []byte, idLen int) (JoinRequest, error) {
	r := newReader(body)
	return finish(&r, JoinRequest{
		Node: r.nodeID(idLen, "joining_peer_id"), OverlaySpecific: r.opaque(2, "overlay_specific_data"),
	}, "JoinReq")
}

// AppendBinary appends the body.
func (j JoinRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.nodeID(j.Node, "joining_peer_id")
	w.opaque(2, j.OverlaySpecific, "overlay_specific_data")
	return w.end(b, "JoinReq")
}

// ParseJoinAnswer reads the body of a JoinAns.
func ParseJoinAnswer(body []byte) (JoinAnswer, error) {
	r := newReader(body)
	return finish(&r, JoinAnswer{OverlaySpecific: r.opaque(2, "overlay_specific_data")}, "JoinAns")
}

// AppendBinary appends the body.
func (j JoinAnswer) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.opaque(2, j.OverlaySpecific, "overlay_specific_data")
	return w.end(b, "JoinAns")
}

// ParseLeaveRequest reads the body of a LeaveReq in an overlay with Node-IDs of idLen bytes.
func ParseLeaveRequest(body []byte, idLen int) (LeaveRequest, error) {
	r := newReader(body)
	return finish(&r, LeaveRequest{
		Node: r.nodeID(idLen, "leaving_peer_id"), OverlaySpecific: r.opaque(2, "overlay_specific_data"),
	}, "LeaveReq")
}

// AppendBinary appends the body.
func (l LeaveRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.nodeID(l.Node, "leaving_peer_id")
	w.opaque(2, l.OverlaySpecific, "overlay_specific_data")
	return w.end(b, "LeaveReq")
}

// ChordLeaveType tells which neighbour of the receiver leaves (RFC 6940 §10.9).
type ChordLeaveType uint8

// Chord leave types.
const (
	LeaveFromSuccessor   ChordLeaveType = 1 // sent by a successor of the receiver
	LeaveFromPredecessor ChordLeaveType = 2 // sent by a predecessor of the receiver
)

// ChordLeave is the ChordLeaveData of RFC 6940 §10.9.
type ChordLeave struct {
	Type ChordLeaveType
	// Nodes is the leaving node's successor list in a LeaveFromSuccessor, and its predecessor list in a
	// LeaveFromPredecessor.
	Nodes []NodeID
}

// ParseChordLeave reads the overlay-specific data of a LeaveReq.
func ParseChordLeave(b []byte, idLen int) (ChordLeave, error) {
	r := newReader(b)
	l := ChordLeave{Type: ChordLeaveType(r.u8("type"))}
	list := "successors"
	switch l.Type {
	case LeaveFromSuccessor:
	case LeaveFromPredecessor:
		list = "predecessors"
	default:
		r.refuse(1, "type", "unknown type "+strconv.Itoa(int(l.Type)))
	}
	l.Nodes = r.nodeIDs(idLen, list)
	return finish(&r, l, "ChordLeaveData")
}

// AppendBinary appends the structure.
func (l ChordLeave) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	if l.Type != LeaveFromSuccessor && l.Type != LeaveFromPredecessor {
		w.fail("unknown type")
	}
	w.u8(uint8(l.Type))
	w.nodeIDs(l.Nodes, "Node-ID list")
	return w.end(b, "ChordLeaveData")
}

// ChordUpdateType is RFC 6940 §10.7.
type ChordUpdateType uint8

// Chord update types.
const (
	UpdatePeerReady ChordUpdateType = 1 // no lists
	UpdateNeighbors ChordUpdateType = 2 // predecessors and successors
	UpdateFull      ChordUpdateType = 3 // predecessors, successors and fingers
)

// ChordUpdate is the body of an UpdateReq in CHORD-RELOAD (RFC 6940 §10.7). Lists that the type does
// not have must be empty.
type ChordUpdate struct {
	Uptime                            uint32 // seconds
	Type                              ChordUpdateType
	Predecessors, Successors, Fingers []NodeID
}

// ParseChordUpdate reads the body of an UpdateReq in an overlay with Node-IDs of idLen bytes.
func ParseChordUpdate(body []byte, idLen int) (ChordUpdate, error) {
	r := newReader(body)
	u := ChordUpdate{Uptime: r.u32("uptime"), Type: ChordUpdateType(r.u8("type"))}
	switch u.Type {
	case UpdatePeerReady:
	case UpdateNeighbors, UpdateFull:
		u.Predecessors = r.nodeIDs(idLen, "predecessors")
		u.Successors = r.nodeIDs(idLen, "successors")
		if u.Type == UpdateFull {
			u.Fingers = r.nodeIDs(idLen, "fingers")
		}
	default:
		r.refuse(1, "type", "unknown type "+strconv.Itoa(int(u.Type)))
	}
	return finish(&r, u, "ChordUpdate")
}

// AppendBinary appends the body.
func (u ChordUpdate) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.u32(u.Uptime)
	w.u8(uint8(u.Type))
	neighbours := len(u.Predecessors) + len(u.Successors)
	switch u.Type {
	case UpdatePeerReady:
		if neighbours+len(u.Fingers) > 0 {
			w.fail("lists in a peer_ready")
		}
	case UpdateNeighbors, UpdateFull:
		w.nodeIDs(u.Predecessors, "predecessors")
		w.nodeIDs(u.Successors, "successors")
		if u.Type == UpdateFull {
			w.nodeIDs(u.Fingers, "fingers")
		} else if len(u.Fingers) > 0 {
			w.fail("fingers in a neighbors")
		}
	default:
		w.fail("unknown type")
	}
	return w.end(b, "ChordUpdate")
}
