// Package certusage is the Certificate Store Usage (RFC 6940 §8) of one kit: it keeps the kit's certificates stored in the
// overlay, and looks up those of others. The kit's own certificate is stored at the hash of its Node-ID, as
// CERTIFICATE_BY_NODE, and at the hash of its user name, as CERTIFICATE_BY_USER; the certificate of each handset, at the hash of
// the handset's user name (docs/adr/0020).
//
// It does not decide whom to believe: that is ident.Trust, which every certificate looked up has passed. Messages carry the
// certificates they need all the same ("implementers MUST include all referenced certificates", RFC 6940 §6.3.4); this store is
// for whoever wants to know the key of a person or a kit before there is a message of theirs, and in overlays of self-signed
// certificates it is the only place that says who claims a name.
//
// All state belongs to the goroutine of Run; every other method may be called from any goroutine. Storing and looking up are
// requests to the overlay and take up to the maximum request lifetime.
package certusage
