// Package node runs a RELOAD peer (RFC 6940): the pure core of overlay/peer over a Transport, with what that needs of
// the world, and offers what usages need as calls that wait: Store, Fetch, Stat, Find, Ping, Probe, RouteQuery and
// AppAttach.
//
// It decides nothing (overlay/peer does), it knows no sockets (a Transport does) and nothing of SIP.
//
// # Ownership
//
// One goroutine, the loop started by Run, owns the peer. Everything else posts to it. Signing and verifying run in a
// fixed number of workers, dialling and ICE in a bounded number of goroutines; each ends in one message to the loop.
// The loop never blocks: what it hands out goes into bounded queues, select-or-drop, each drop counted; the end-to-end
// retransmission of RFC 6940 §6.2.1 makes up for drops. The methods of Node may be called from any goroutine while Run
// runs.
package node
