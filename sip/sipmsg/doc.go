// Package sipmsg is the strict layer between the network and sipgo: it takes a
// datagram or the next message of a stream apart, refuses what RFC 3261 does not
// allow with the response the RFC names, and only then builds sipgo's message.
// sipgo's own parser accepts messages without From, To, Call-ID or CSeq, which
// then crash its transaction layer; and it rewrites header fields that a proxy
// has to pass on as they came. Here every field that is not needed parsed stays
// verbatim.
//
// It also has the small helpers that need the RFC's comparison rules: parameters
// without regard to case, user parts unescaped, URIs normalised.
//
// All functions are pure and safe for concurrent use; none panics on any input.
package sipmsg
