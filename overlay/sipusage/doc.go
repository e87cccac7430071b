// Package sipusage is the SIP Usage of RELOAD (RFC 7904) for kits that serve handsets: it registers the
// addresses-of-record of this kit's handsets in the overlay, looks up which kits serve an
// address-of-record, and keeps one connection (trunk) to each other kit for SIP and media.
//
// It stands on package node and knows nothing of SIP messages: what a registration means to a call is for
// whoever looks it up, and what goes over a trunk, too.
//
// # Registrations
//
// An address-of-record (user@domain, without "sip:") is stored as a SIP-REGISTRATION of type
// sip_registration_route at the Resource-ID of that name, in a dictionary whose key is this kit's Node-ID.
// Value and request are signed with the certificate that the kit issued for this address-of-record, as
// USER-NODE-MATCH wants it. A registration is stored again when a third of its lifetime is left, and when
// the ring has changed (node.Settled), since the peer that is responsible now need not have got it.
//
// # Ownership
//
// One goroutine, in Run, owns the registrations and the table of trunks; the methods may be called from any
// goroutine while it runs. Storing and connecting happen in a bounded number of other goroutines.
package sipusage
