// Package wire is the codec of RELOAD (RFC 6940): the forwarding header with its lists, the message
// contents, the security block, the body of every method, the frames of an overlay link, fragmentation
// with reassembly, the values of TURN-SERVICE and of SIP-REGISTRATION (RFC 7904), the diagnostics of
// RFC 7851, the self-tuning data of RFC 7363 and the routing option of RFC 7263 and RFC 7264. The value
// of a CERTIFICATE_BY_NODE or CERTIFICATE_BY_USER is a certificate in DER and has no structure of its own.
//
// It decides nothing: it does not check signatures, overlays, time to live, responsibility or access
// control, and it does no input or output. What is read is checked only for being well formed.
//
// Every parser is total: it never panics, reads nothing outside its argument, refuses every truncated
// prefix and every trailing byte with a SyntaxError that says where and why, and bounds what it allocates by
// the size of what it was given. The encoding is canonical: whatever a parser accepts is written back
// byte for byte, including options, extensions, certificates, codes and address types that this code
// does not know, so that a signature over what was received can be checked over what is re-encoded.
//
// Parsed structures alias the bytes they were read from: those must not be changed while the
// structure is in use. AppendBinary methods append to their argument and allocate only when it has
// too little capacity; when they fail they return it as it was.
//
// Nothing here is shared: any goroutine may call any function. A value, and a Reassembler, belong to
// one goroutine at a time.
package wire
