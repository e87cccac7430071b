package peer

// Counters count since New.
type Counters struct {
	Received, Sent, Forwarded                       uint64 // messages and fragments
	Requests, Answers, ErrorAnswers, Timeouts       uint64 // transactions of this node; answers of this node
	Malformed, WrongOverlay, WrongVersion, TooLarge uint64
	TTLExceeded, Unroutable, UnknownOption          uint64
	BadSignature, WrongResponder, Unmatched         uint64
	PathFaults                                      uint64 // diagnostic messages that were answered instead of forwarded
	RolledBack                                      uint64 // fetched values older than what was fetched before
	ClientsRefused                                  uint64
	Compressed                                      uint64 // Via Lists
	Refused, Duplicates, Unencodable, NotDirect     uint64
	VerifyDropped, JobsDropped                      uint64
	EventsDropped, SendFailed, TransactionsFull     uint64
	LinksMade, LinksLost, LinksRefused, LinksSilent uint64
	Keepalives, Checks                              uint64 // Pings for a sign of life; those the link layer was asked for
	Attaches, AttachesFailed, Glare                 uint64
	Dials, DialsFailed, AppAttaches                 uint64
	Replicated, ReplicaRefused, HandedOver, Refetch uint64
	Restarts                                        uint64 // of members, noticed by the uptime in their Updates
	TransfersDropped, FragmentsDropped              uint64
	ConfigUpdates, ConfigRefuse                     uint64 // sent; refused
}
