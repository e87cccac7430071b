// Package registrar is the location service of a kit: the bindings of its
// handsets as RFC 3261 §10.3 has them, and the digest authentication (RFC 3261
// §22, RFC 7616 with MD5) by which a handset proves who it is.
//
// It is a pure core: it opens no socket, reads no clock and no file, and starts
// no goroutine. [Registrar] and [Digest] each belong to one goroutine. Time is
// an argument, the secret of the nonces is given, and what follows from a
// change (publish, persist) is returned as events.
//
// It does not parse SIP: the caller hands it the header fields it needs.
package registrar
