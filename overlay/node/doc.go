// Package node is a RELOAD peer (RFC 6940): it joins the wire codec, the identity, the CHORD-RELOAD
// topology machine and the store over a Transport, and offers what usages need: Store, Fetch, Stat,
// Find, Ping, Probe, RouteQuery and AppAttach.
//
// It decides nothing about topology (overlay/chord does) or about what may be stored
// (overlay/storage does), it knows no sockets (a Transport does) and nothing of SIP.
//
// # Ownership
//
// One goroutine, the loop started by Run, owns all state: connection table, transactions, attaches,
// routing, stored data. Everything else posts to it. Signing and verifying run in a fixed number of
// workers, dialling and ICE in a bounded number of goroutines; each ends in one message to the loop.
// The loop never blocks: what it hands out goes into bounded queues, select-or-drop, each drop
// counted; the end-to-end retransmission of RFC 6940 §6.2.1 makes up for drops. The methods of Node
// may be called from any goroutine while Run runs.
//
// # Liveness
//
// A neighbour that vanishes without goodbye is noticed by silence: after 4 s without anything heard
// on a link to a neighbour it is pinged (RFC 6940 §6.5.3) every 1.5 s, and after 8.5 s of silence the
// link is dropped and chord repairs the ring, so a loss is noticed within 10 s even if two of the three
// Pings are lost. A signed Ping and its answer are about 1.3 kB, one side's Ping serves both directions
// and only the neighbours, at most six, are pinged at that rate: measured, a link costs about 430 byte/s
// in both directions together, Updates included, and a kit among 16 sends 2.1 kB/s. Links to others are
// pinged after 15 s and dropped after 30 s.
package node
