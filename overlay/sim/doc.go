// Package sim runs whole RELOAD peers, package peer as in a kit, in virtual time: 2 of them or 10,000, in one
// goroutine, from one seed, so that equal runs are equal to the byte of every frame. It measures what cannot be
// measured with boards (hops, joins, traffic and memory at a thousand kits) and holds rings, against churn, loss,
// death, splits and merges, to the rules that must always hold:
//
//   - the Neighbor Table of every peer is what the sorted Node-IDs say;
//   - every key is at its owner and both replicas;
//   - no key that could be read before cannot be read after;
//   - no forged or foreign value is accepted;
//   - nothing grows beyond its limit.
//
// # What is simulated
//
// The codec, the peer, the topology plug-in and the store are the code of a kit. A stand-in are: links (time, loss,
// retransmission, failure and bytes of overlay/link, to which tests hold the model), discovery (who sees whom, and
// when), the usage that stores registrations (the times of overlay/sipusage), and, unless asked for, signatures (a
// keyed hash of the same size). Not simulated are bandwidth, the queue in front of a kit's loop, other traffic,
// ICE beyond host candidates and application connections: docs/adr/0013-simulation.md.
//
// # Use
//
// Run runs a scenario by name and returns a Report. A World belongs to one goroutine; any number of worlds may run
// side by side.
package sim
