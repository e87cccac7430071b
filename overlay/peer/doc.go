// Package peer is the pure core of a RELOAD peer (RFC 6940): all that one decides, and nothing that takes time. It
// joins the wire codec, CHORD-RELOAD and the store: connection table, receipt rules and forwarding, transactions
// with their end-to-end retransmission, the cache of answers, Attach and AppAttach with their glare, all methods,
// replication, and what to do about configurations that differ.
//
// It decides nothing about topology (overlay/chord does) or about what may be stored (overlay/storage does); it
// knows no sockets and nothing of SIP.
//
// # Ownership
//
// A Peer has no goroutine, lock, clock or random source of its own. One goroutine, the owner, calls its methods and
// hands it the time; what takes time, or touches the world, goes through Env, which overlay/node implements with
// goroutines and workers, and overlay/sim in virtual time with neither. Whatever is done for a Peer ends with a call
// of a function that it gave, by the owner, later: never from within the call that began it. Callbacks of the API
// (done) are called by the owner from within some method of the Peer, and may call its methods again.
//
// From the same inputs at the same times and the same Config.Rand comes the same behaviour, to the byte of each
// message, as far as the signatures are.
//
// # Time
//
// Every method that may lead to something takes now. Advance fires what is due; Deadline says when that is next.
//
// # Liveness
//
// A neighbour that vanishes without goodbye is noticed by silence: after 4 s without anything heard
// on a link to a neighbour it is pinged (RFC 6940 §6.5.3) every 1.5 s, and after 8.5 s of silence the
// link is dropped and chord repairs the ring, so a loss is noticed within 10 s even if two of the three
// Pings are lost. Links to others are pinged after 15 s and dropped after 30 s.
package peer
