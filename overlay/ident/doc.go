// Package ident is who is who in an overlay instance: Node-IDs and their arithmetic, certificates and the
// rules by which they are believed, signatures over messages, stored data and configuration documents
// (RFC 6940 §6.3.4, §7.1, §11.1, §11.3; RFC 5280). What a configuration document says is overlay/config's.
//
// A mission has one Authority (the root). Under it every kit holds one certificate, which is an intermediate:
// with it the kit issues one certificate per handset it serves, for its own key and so its own Node-ID, with the
// handset's address-of-record as the user name. Trust believes exactly that shape, and two more only where the document
// asks for them: Node-IDs that an enrolment server assigned, and self-signed certificates (docs/adr/0017, 0018).
//
// The package opens no socket and no file and never asks for the time: now is an argument. It draws randomness
// for keys, serial numbers and signatures. Identity, Signer, Trust and Document may be used from any goroutine;
// what they hand out (Peer, Signer, certificates) is shared and must not be changed.
package ident
