// Package chord is the topology plug-in CHORD-RELOAD of RFC 6940 §10, and CHORD-SELF-TUNING of RFC 7363,
// as a pure state machine: which peers to find, attach to, tell and route through. It does no I/O, knows
// no clock but the one it is handed and no randomness but the source in its Config, so that a whole
// overlay of States runs in a test, in virtual time, the same way every time.
//
//	out := state.Step(now, input)   // for every event; carry the outputs out in their order
//	timer.Reset(state.Deadline())   // then hand in Tick when it is reached
//
// A State belongs to one goroutine, the owner of the peer it is in. The queries (NextHop, Responsible,
// ReplicaSet, Plausible, Finger, Tuning, Snapshot) may be called between Steps by the same goroutine
// only. Lists in outputs are shared with the State and must not be written to; those that queries return
// are copies.
//
// # Life of a peer
//
// Every kit may be the first of its mission, so a State is a ring of one from the start and there
// is no failure to join. It leaves that state by joining (RFC 6940 §10.5: Ping Resource-ID n+1
// through the peer found, Attach to its owner, Attach to the neighbours the owner teaches, Join),
// if it has no peers, or else by merging (RFC 6940 §10.7.4.4: Ping, Attach, Update), or by being
// merged with. See docs/adr/0002-joining-and-merging.md.
//
// A peer counts as a member of the ring, that is as a neighbour and for routing, when it is
// attached and has sent an Update or a Join since.
//
// # Small rings and large ones
//
// Up to Config.FullMesh peers everyone attaches to everyone it hears of, and the neighbours are the
// nearest of all. Above that a peer keeps its neighbours, its fingers and those whose neighbour or finger
// it is, up to Config.MaxPeers; it remembers few others. Routing goes by all of them. See
// docs/adr/0011-fingers-and-stabilisation.md and docs/adr/0023-self-tuning.md.
//
// # What it does not do
//
// Signatures, the binding of a request to its link, glare between two Attaches and retransmission are the
// peer's. It does not notice that a link is dead; it is told.
package chord
