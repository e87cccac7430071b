package link

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v2"
	pionstun "github.com/pion/stun"

	"fieldkit/overlay/stun"
)

// Binding requests and their answers (RFC 5389 §6).
const (
	stunBindingRequest = 0x0001
	stunBindingSuccess = 0x0101
	stunTransaction    = 8 // where the transaction ID is

	maxOutstandingChecks = 16
	requestSpacing       = time.Second
)

// stunWatch sees the Binding requests that one side of an Attach sends and tells which answers prove that the far end
// lives: those to a request of ours, from where it went, with the far end's MESSAGE-INTEGRITY. A recorded answer
// answers no request of now, and a recorded request proves nothing, so neither counts.
type stunWatch struct {
	password []byte // the far end's
	heard    func()
	now      func() time.Time

	mu   sync.Mutex // a leaf: written by who sends, read by who receives
	sent [maxOutstandingChecks]struct {
		id [12]byte
		to netip.AddrPort
	}
	next int
	last time.Time
}

// libraryRequest tells whether a message of the library is to be sent. It checks back whenever it is checked, also when
// it has just checked for itself: one round trip in a second says as much as two.
func (w *stunWatch) libraryRequest(b []byte, to netip.AddrPort) bool {
	if stun.Type(b) != stunBindingRequest {
		return true
	}
	w.mu.Lock()
	last := w.last
	w.mu.Unlock()
	if d := w.now().Sub(last); d >= 0 && d < requestSpacing {
		return false
	}
	w.request(b, to)
	return true
}

// request notes a Binding request that is being sent.
func (w *stunWatch) request(b []byte, to netip.AddrPort) {
	now := w.now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = now
	e := &w.sent[w.next%len(w.sent)]
	w.next++
	e.id, e.to = [12]byte(b[stunTransaction:]), to
}

// answer is called with STUN messages that badSTUN let pass.
func (w *stunWatch) answer(b []byte, from netip.AddrPort) {
	if stun.Type(b) != stunBindingSuccess || !w.outstanding([12]byte(b[stunTransaction:]), from) {
		return
	}
	m := &pionstun.Message{Raw: append([]byte(nil), b...)}
	if m.Decode() != nil || pionstun.MessageIntegrity(w.password).Check(m) != nil {
		return
	}
	w.heard()
}

// outstanding takes a request out of the table, so that its answer counts once. A forged answer takes it out, too: it
// then says nothing, and the next request will.
func (w *stunWatch) outstanding(id [12]byte, from netip.AddrPort) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.sent {
		if e := &w.sent[i]; e.to == from && e.id == id {
			e.to = netip.AddrPort{}
			return true
		}
	}
	return false
}

// checker makes Binding requests on the pair that ICE selected (RFC 5245 §7.1.2).
type checker struct {
	agent       *ice.Agent
	network     *agentNet
	username    pionstun.Username
	password    string
	controlling bool
	tieBreaker  uint64
}

// newChecker is made when ICE is done. Its requests carry a tie-breaker of their own: roles are settled (RFC 6940
// §6.5.1.9), so none is ever broken.
func newChecker(a *Attempt, remoteUfrag, remotePassword string, controlling bool) (*checker, error) {
	var tie [8]byte
	if _, err := rand.Read(tie[:]); err != nil {
		return nil, fmt.Errorf("tie-breaker: %w", err)
	}
	return &checker{
		agent: a.agent, network: a.network, username: pionstun.NewUsername(remoteUfrag + ":" + string(a.local.Ufrag)),
		password: remotePassword, controlling: controlling, tieBreaker: binary.BigEndian.Uint64(tie[:]),
	}, nil
}

func (c *checker) check() bool {
	pair, err := c.agent.GetSelectedCandidatePair()
	if err != nil || pair == nil {
		return false
	}
	remote, err := candidateAddrPort(pair.Remote)
	s := c.network.socketOf(pair.Local)
	if err != nil || s == nil { // relayed: its keepalives have to do
		return false
	}
	role := pionstun.Setter(ice.AttrControlled(c.tieBreaker))
	if c.controlling {
		role = ice.AttrControlling(c.tieBreaker)
	}
	m, err := pionstun.Build(pionstun.BindingRequest, pionstun.TransactionID, c.username, role,
		ice.PriorityAttr(pair.Local.Priority()), pionstun.NewShortTermIntegrity(c.password), pionstun.Fingerprint)
	if err != nil {
		return false
	}
	return s.ask(m.Raw, remote) == nil
}

// pulse is when the far end of a link last proved to live, in nanoseconds since the transport was made: how long ago that
// is does not change when the wall clock is set.
type pulse struct{ at atomic.Int64 }

func (p *pulse) beat(since time.Duration) { p.at.Store(int64(since)) }

// Heard is when the far end last proved on this link that it lives: by a record that only it can have made and that
// came for the first time, or, where there is ICE, by the answer to a connectivity check of ours. What anybody can send
// or send again does not count.
func (c *carrier) Heard() time.Time { return c.t.born.Add(time.Duration(c.pulse.at.Load())) }

// Check asks the far end for a sign of life now: a Binding request on the pair that ICE selected, 112 bytes of UDP and 64
// for the answer, after which Heard is later. It never blocks, and false says that the link has no such thing: links
// without ICE and relayed ones, or one that has ended. Only what is sent on them tells then.
func (c *carrier) Check() bool {
	if c.check == nil || c.life.Err() != nil {
		return false
	}
	return c.check()
}
