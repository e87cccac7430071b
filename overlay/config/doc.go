// Package config is the overlay configuration document (RFC 6940 §11.1): it reads every element of the base
// specification and of the extensions that a kit knows (RFC 7263, 7363, 7851, 7904), with the defaults filled in, writes
// documents that keep the RFC's grammar, and has the rules by which one document follows another.
//
// It is pure: no sockets, files, clocks, keys. Who may sign is ident's to say; the two meet in Verifier and Signer.
// Parsing is total and bounded, whoever wrote the bytes. A Document that nobody changes may be read by all goroutines.
package config
