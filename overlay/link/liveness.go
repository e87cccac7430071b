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
	"github.com/pion/stun"
)

// Binding requests and their answers (RFC 5389 §6).
const (
	stunBindingRequest = 0x0001
	stunBindingSuccess = 0x0101
	stunTransaction    = 8 // where the transaction ID is
	stunHeaderLen      = 20

	maxOutstandingChecks = 16
)

// stunWatch sees the Binding requests that one side of an Attach sends and tells which answers prove that the far end
// lives: those to a request of ours, from where it went, with the far end's MESSAGE-INTEGRITY. A recorded answer
// answers no request of now, and a recorded request proves nothing, so neither counts.
type stunWatch struct {
	password []byte // the far end's
	heard    func()

	mu   sync.Mutex // a leaf: written by who sends, read by who receives
	sent [maxOutstandingChecks]struct {
		id [12]byte
		to netip.AddrPort
	}
	next int
}

func (w *stunWatch) request(b []byte, to netip.AddrPort) {
	if len(b) < stunHeaderLen || binary.BigEndian.Uint16(b) != stunBindingRequest {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e := &w.sent[w.next%len(w.sent)]
	w.next++
	e.id, e.to = [12]byte(b[stunTransaction:]), to
}

// answer is called with STUN messages that badSTUN let pass.
func (w *stunWatch) answer(b []byte, from netip.AddrPort) {
	if binary.BigEndian.Uint16(b) != stunBindingSuccess || !w.outstanding([12]byte(b[stunTransaction:]), from) {
		return
	}
	m := &stun.Message{Raw: append([]byte(nil), b...)}
	if m.Decode() != nil || stun.MessageIntegrity(w.password).Check(m) != nil {
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
	username    stun.Username
	password    string
	controlling bool
	tieBreaker  uint64
	priority    uint32
}

// newChecker is made when ICE is done. Its requests carry a tie-breaker of their own: roles are settled (RFC 6940
// §6.5.1.9), so none is ever broken.
func newChecker(a *Attempt, remoteUfrag, remotePassword string, controlling bool) (*checker, error) {
	var tie [8]byte
	if _, err := rand.Read(tie[:]); err != nil {
		return nil, fmt.Errorf("tie-breaker: %w", err)
	}
	return &checker{
		agent: a.agent, network: a.network, username: stun.NewUsername(remoteUfrag + ":" + string(a.local.Ufrag)),
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
	role := stun.Setter(ice.AttrControlled(c.tieBreaker))
	if c.controlling {
		role = ice.AttrControlling(c.tieBreaker)
	}
	m, err := stun.Build(stun.BindingRequest, stun.TransactionID, c.username, role,
		ice.PriorityAttr(pair.Local.Priority()), stun.NewShortTermIntegrity(c.password), stun.Fingerprint)
	if err != nil {
		return false
	}
	_, err = s.writeTo(m.Raw, remote)
	return err == nil
}

// pulse is when the far end of a link last proved to live.
type pulse struct{ at atomic.Int64 }

func (p *pulse) beat(now time.Time) { p.at.Store(now.UnixNano()) }

// Heard is when the far end last proved on this link that it lives: by a record that only it can have made and that
// came for the first time, or, where there is ICE, by the answer to a connectivity check of ours. What anybody can send
// or send again does not count.
func (c *carrier) Heard() time.Time { return time.Unix(0, c.pulse.at.Load()) }

// Check asks the far end for a sign of life now: a Binding request on the pair that ICE selected, 112 bytes of UDP and 64
// for the answer, after which Heard is later. It never blocks, and false says that the link has no such thing: links
// without ICE and relayed ones, or one that has ended. Only what is sent on them tells then.
func (c *carrier) Check() bool {
	if c.check == nil || c.life.Err() != nil {
		return false
	}
	return c.check()
}
