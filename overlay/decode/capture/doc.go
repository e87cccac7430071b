// Package capture takes RELOAD frames and messages out of a packet capture: pcap or pcapng, from Ethernet, Linux cooked, raw
// IP and loopback interfaces, over IPv4 and IPv6. Frames travel in DTLS 1.2 over UDP and in TLS 1.2 over TCP (RFC 6940 §6.6);
// with the key log of one end (CLIENT_RANDOM lines) they are decrypted. Frames and messages in plain UDP and TCP are found,
// too, which is how test tools write them. What TURN carries over UDP between a client and its server is read as sent
// between client and peer.
//
// It reads from where it is told and decides nothing about what it finds. Not followed are: TURN over TCP, IP fragments,
// DTLS connection IDs, and TLS 1.3, which RELOAD does not use.
//
// A capture is taken for hostile and read as a stream: connections, reassembly and queues are bounded, and at a limit the
// one that was silent for the longest is forgotten.
//
// A Reader belongs to one goroutine.
package capture
