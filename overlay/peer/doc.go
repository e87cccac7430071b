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
// A neighbour that vanishes without goodbye is noticed by silence: after 4 s without anything heard on a link to a
// neighbour it is asked for a sign of life every second, and after 9 s of silence the link is dropped and the ring
// repaired, so a loss is noticed within 10 s, even if all but one of these are lost. Links to others are asked after 15 s
// and dropped after 30 s. A sign of life is whatever the link layer has that is authenticated and cheap (Link.Check:
// with ICE an answered connectivity check of 176 bytes in both directions); a Ping (RFC 6940 §6.5.3) and its answer,
// signed and with certificates about 1.3 kB, are for links that have none, and the last try on those that have.
package peer
