// Package phone is a SIP telephone without a speaker: it registers with digest,
// places and takes calls, sends a tone as G.711 audio with RTCP, and measures
// what it hears. The lab's phones and `fieldkit phone` are made of it.
//
// It knows nothing of kits: a server address, an account and a domain are all
// it is told, as with any phone. It shares no code with sip/..., so that what
// it says about a kit is an independent witness. It is no soft phone for
// people (no sound device, one codec family, no transfer) and does not encrypt.
//
// # Goroutines
//
// Run owns the transports and the registration. Each call has one goroutine for
// its dialog and four for its media (RTP and RTCP, each way), which end with
// it. All methods may be called from any goroutine.
package phone
