package peer

import (
	"errors"
	"fmt"
	"time"

	"fieldkit/overlay/wire"
)

// attach is one Attach under way, of either side (RFC 6940 §6.5.1). The zero peer is one whose Node-ID is
// learnt with the answer, because the request went to a Resource-ID.
type attach struct {
	peer     wire.NodeID
	outgoing bool
	answered bool // ICE and the handshake are under way
	ended    bool
	txn      *transaction
	cancel   func()
	done     func(peer wire.NodeID, err error)
}

// attaches are all of them.
type attaches struct {
	byPeer map[wire.NodeID]*attach
	count  int
}

// prepare gathers candidates within a request's lifetime.
func (p *Peer) prepare(done func(Attempt, error)) (cancel func()) {
	var timer *alarm
	cancel = p.cfg.Env.Prepare(func(now time.Time, try Attempt, err error) {
		began := p.enter(now)
		p.alarms.stop(timer)
		done(try, err)
		p.leave(began)
	})
	timer = p.after(requestLifetime, cancel)
	return cancel
}

// attach opens a link to whoever dest leads to. peer is that node where it is known. done is called once.
func (p *Peer) attach(dest []wire.Destination, peer wire.NodeID, sendUpdate bool, done func(wire.NodeID, error)) {
	a := &attach{peer: peer, outgoing: true, done: done}
	if err := p.enterAttach(a); err != nil {
		p.soon(func() { done(peer, err) })
		return
	}
	p.count.Attaches++
	a.cancel = p.prepare(func(try Attempt, err error) {
		if err != nil {
			p.endAttach(a, err)
			return
		}
		if a.ended || p.closing {
			p.cfg.Env.Discard(try)
			return
		}
		local := try.Local()
		local.Role = []byte("passive") // the Attach sender's (RFC 6940 §6.5.1.9)
		body, err := wire.AttachReqAns{IceParameters: local, SendUpdate: sendUpdate}.AppendBinary(nil)
		if err != nil {
			p.cfg.Env.Discard(try)
			p.endAttach(a, fmt.Errorf("attach request: %w", err))
			return
		}
		a.cancel = nil
		a.txn = p.send(Outgoing{Dest: dest, Code: wire.AttachReq, Body: body}, func(r Reply) { p.attachAnswered(a, try, r) })
	})
}

// enterAttach takes an attach into the table, one per known peer.
func (p *Peer) enterAttach(a *attach) error {
	if p.att.count >= maxAttaches {
		return ErrBusy
	}
	if !a.peer.IsZero() {
		if p.att.byPeer[a.peer] != nil {
			return ErrInProgress
		}
		p.enterPeer(a)
	}
	p.att.count++
	return nil
}

func (p *Peer) enterPeer(a *attach) {
	if p.att.byPeer == nil {
		p.att.byPeer = make(map[wire.NodeID]*attach)
	}
	p.att.byPeer[a.peer] = a
}

// endAttach takes it out again; the second time it does nothing.
func (p *Peer) endAttach(a *attach, err error) {
	if a.ended {
		return
	}
	a.ended = true
	p.att.count--
	if p.att.byPeer[a.peer] == a {
		delete(p.att.byPeer, a.peer)
	}
	if a.cancel != nil {
		a.cancel()
	}
	if err != nil {
		p.count.AttachesFailed++
		p.log.Debug("attach failed", "peer", a.peer, "outgoing", a.outgoing, "err", err)
	}
	if a.done != nil {
		a.done(a.peer, err)
	}
}

func (p *Peer) attachAnswered(a *attach, try Attempt, r Reply) {
	var remote wire.AttachReqAns
	err := r.Err
	if err == nil {
		remote, err = wire.ParseAttach(r.Message.Body)
	}
	if err == nil && a.peer.IsZero() {
		a.peer = r.Peer.NodeID
		switch {
		case a.peer == p.cfg.ID:
			err = errors.New("attach led to this node itself")
		case p.att.byPeer[a.peer] != nil:
			err = ErrInProgress
		default:
			p.enterPeer(a)
		}
	}
	if err != nil || a.ended {
		p.cfg.Env.Discard(try)
		p.endAttach(a, err)
		return
	}
	p.connect(a, try, remote.IceParameters, false)
}

// connect runs ICE and the handshake. "The offerer takes the controlling role" and is the (D)TLS server
// (RFC 6940 §6.5.1.9, §6.5.1.13). sendUpdate is the flag of the peer's request.
func (p *Peer) connect(a *attach, try Attempt, remote wire.IceParameters, sendUpdate bool) {
	if p.closing {
		p.cfg.Env.Discard(try)
		p.endAttach(a, ErrClosed)
		return
	}
	a.answered = true
	remote.Candidates = remote.Candidates[:min(len(remote.Candidates), maxCandidates)]
	var timer *alarm
	a.cancel = p.cfg.Env.Connect(try, remote, a.peer, a.outgoing, func(now time.Time, l Link, err error) {
		began := p.enter(now)
		p.alarms.stop(timer)
		a.cancel = nil
		if err == nil {
			if !holds(l.Peer(), a.peer) {
				_ = l.Close()
				err = fmt.Errorf("attach to %s reached %s", a.peer, l.Peer().NodeID)
			} else {
				p.addLink(l, a.peer, true, a.outgoing, sendUpdate)
			}
		}
		p.endAttach(a, err)
		p.leave(began)
	})
	timer = p.after(attachTimeout, a.cancel)
}

// attachRequest is RFC 6940 §6.5.1.2.
func (p *Peer) attachRequest(r *request) {
	in, err := wire.ParseAttach(r.Body)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "Attach")
		return
	}
	peer := r.peer.NodeID
	if peer == p.cfg.ID {
		p.fail(r, wire.ErrorInvalidMessage, "Attach to itself")
		return
	}
	if own := p.att.byPeer[peer]; own != nil {
		if !own.outgoing || own.answered || p.cfg.ID.Compare(peer) > 0 {
			// "If the peer's own Node-ID is larger … it MUST generate an Error_In_Progress error to this
			// Attach request, and then proceed to wait for and complete the Attach and the corresponding
			// ICE check it has originated."
			p.count.Glare++
			p.fail(r, wire.ErrorInProgress, "")
			return
		}
		// "If the peer's own Node-ID is smaller … it MUST cancel retransmission of its own incomplete
		// Attach request."
		p.count.Glare++
		if own.txn != nil {
			p.finish(own.txn, Reply{Err: ErrInProgress})
		}
		p.endAttach(own, ErrInProgress)
	}
	a := &attach{peer: peer}
	if err := p.enterAttach(a); err != nil {
		// "If the peer is overloaded or detects some other kind of error, it MAY generate an error"
		p.fail(r, wire.ErrorInProgress, "overloaded")
		return
	}
	a.cancel = p.prepare(func(try Attempt, err error) {
		a.cancel = nil
		var body []byte
		if err == nil {
			local := try.Local()
			local.Role = []byte("active")
			if body, err = (wire.AttachReqAns{IceParameters: local}).AppendBinary(nil); err != nil || p.closing {
				p.cfg.Env.Discard(try)
			}
		}
		if err != nil || p.closing {
			p.fail(r, wire.ErrorNotFound, "no candidates")
			p.endAttach(a, err)
			return
		}
		p.answer(r, wire.AttachAns, body, nil)
		p.connect(a, try, in.IceParameters, in.SendUpdate)
	})
}
