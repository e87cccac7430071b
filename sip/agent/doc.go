// Package agent is the telephony of a kit: the transports of its handsets (SIP
// over UDP and TCP) and of its trunks, and the loop that joins the registrar,
// the call logic and the media relay.
//
// It is built on github.com/emiago/sipgo: its messages and its transaction state
// machines. sipgo's transport layer and dispatch are not used: they start a
// goroutine per message, so that the order of messages is lost, keep an entry for
// each source address for good, and trust what the parser let through. Their
// place is taken by, in the order a message passes them,
//
//   - the handset network's prefix and a token bucket per source and for all
//     (admission.go); over it a 503 without state,
//   - the strict layer (package sipmsg), which answers malformed requests itself,
//   - one loop (agent.go), which owns registrar, digest, calls and transactions,
//     and sees every message in the order it came.
//
// What can block (directory, opening a trunk, saving) runs in workers that post
// one result. The loop never waits on itself or on a worker.
package agent
