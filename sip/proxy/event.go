package proxy

import "fmt"

// Side is an end of a call.
type Side uint8

// The sides.
const (
	Caller Side = iota + 1
	Callee
)

func (s Side) String() string {
	if s == Caller {
		return "caller"
	}
	return "callee"
}

// Destination is where a branch goes: a contact registered here, or a far kit.
type Destination struct {
	Contact string
	Kit     string
}

func (d Destination) String() string {
	if d.Kit != "" {
		return "kit " + d.Kit
	}
	return "contact " + d.Contact
}

// Event is what happens to a [Call].
type Event interface{ event() }

// The events.
type (
	// Invite starts the call: the request was admitted and authenticated.
	Invite struct {
		Dialog   bool     // it is an INVITE; other requests are forked without ringing
		Known    bool     // the number or name exists in this mission
		Contacts []string // local contacts in the order of preference
		Lookup   bool     // ask the directory too: never for what came by a trunk
	}
	// Found is the answer of the directory, this kit left out.
	Found struct {
		Kits        []string
		Unavailable bool // it could not answer
	}
	// Opened says that the trunk of a branch is there.
	Opened struct{ Branch int }
	// Failed says that a branch cannot go on: no trunk, no contact, no answer.
	Failed struct {
		Branch int
		Status int // as if this had been received
	}
	// Response is a response to the forwarded request.
	Response struct {
		Branch int
		Status int
	}
	// Cancel is a CANCEL by the caller.
	Cancel struct{}
	// Refuse fails the call for a reason of ours.
	Refuse struct{ Status int }
	// Request is a request inside a dialog of the call, ACK for 2xx included.
	Request struct {
		ID     uint64
		Branch int
		From   Side
		Method string
		Lost   bool // of a dialog of the branch that is not the one connected
	}
	// RequestDone is the final response to such a request.
	RequestDone struct {
		ID     uint64
		Status int
	}
	// Alive says that media flow.
	Alive struct{}
	// Timeout says that the deadline may have been reached.
	Timeout struct{}
)

func (Invite) event()      {}
func (Found) event()       {}
func (Opened) event()      {}
func (Failed) event()      {}
func (Response) event()    {}
func (Cancel) event()      {}
func (Refuse) event()      {}
func (Request) event()     {}
func (RequestDone) event() {}
func (Alive) event()       {}
func (Timeout) event()     {}

// Action is what a [Call] wants done.
type Action interface {
	fmt.Stringer
	action()
}

// The actions.
type (
	// Reply answers the request with a response made here.
	Reply struct{ Status int }
	// Relay passes the response of a branch that was reported last to the caller.
	Relay struct{ Branch, Status int }
	// Lookup asks the directory.
	Lookup struct{}
	// Open wants the trunk to a kit.
	Open struct {
		Branch int
		Kit    string
	}
	// Forward sends the request.
	Forward struct {
		Branch int
		To     Destination
	}
	// CancelBranch sends a CANCEL.
	CancelBranch struct{ Branch int }
	// Abandon stops the client transaction of a branch.
	Abandon struct{ Branch int }
	// Connect joins the media of the caller and a branch.
	Connect struct{ Branch int }
	// Release gives back what a branch held.
	Release struct{ Branch int }
	// Hangup ends a dialog that only the callee believes in: ACK and BYE.
	Hangup struct{ Branch int }
	// ForwardRequest passes a request of a dialog on.
	ForwardRequest struct {
		ID     uint64
		Branch int
		To     Side
	}
	// ReplyRequest answers a request of a dialog here.
	ReplyRequest struct {
		ID     uint64
		Status int
	}
	// Finish says that the call is over.
	Finish struct{}
)

func (Reply) action()          {}
func (Relay) action()          {}
func (Lookup) action()         {}
func (Open) action()           {}
func (Forward) action()        {}
func (CancelBranch) action()   {}
func (Abandon) action()        {}
func (Connect) action()        {}
func (Release) action()        {}
func (Hangup) action()         {}
func (ForwardRequest) action() {}
func (ReplyRequest) action()   {}
func (Finish) action()         {}

func (a Reply) String() string        { return fmt.Sprintf("reply %d", a.Status) }
func (a Relay) String() string        { return fmt.Sprintf("relay %d of branch %d", a.Status, a.Branch) }
func (a Lookup) String() string       { return "look up" }
func (a Open) String() string         { return fmt.Sprintf("open branch %d: kit %s", a.Branch, a.Kit) }
func (a Forward) String() string      { return fmt.Sprintf("forward branch %d: %s", a.Branch, a.To) }
func (a CancelBranch) String() string { return fmt.Sprintf("cancel branch %d", a.Branch) }
func (a Abandon) String() string      { return fmt.Sprintf("abandon branch %d", a.Branch) }
func (a Connect) String() string      { return fmt.Sprintf("connect branch %d", a.Branch) }
func (a Release) String() string      { return fmt.Sprintf("release branch %d", a.Branch) }
func (a Hangup) String() string       { return fmt.Sprintf("hang up branch %d", a.Branch) }
func (a ForwardRequest) String() string {
	return fmt.Sprintf("forward request %d of branch %d to %s", a.ID, a.Branch, a.To)
}
func (a ReplyRequest) String() string { return fmt.Sprintf("reply %d to request %d", a.Status, a.ID) }
func (a Finish) String() string       { return "finish" }
