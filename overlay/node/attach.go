package node

import (
	"context"
	"errors"
	"fmt"

	"fieldkit/overlay/wire"
)

// attach is one Attach under way, of either side (RFC 6940 §6.5.1). The zero peer is one whose Node-ID is
// learnt with the answer, because the request went to a Resource-ID.
type attach struct {
	peer     wire.NodeID
	outgoing bool
	answered bool // ICE and the handshake are under way
	ended    bool
	txn      uint64
	cancel   context.CancelFunc
	done     func(peer wire.NodeID, err error)
}

// attaches are all of them.
type attaches struct {
	byPeer map[wire.NodeID]*attach
	count  int
}

// attach opens a link to whoever dest leads to. peer is that node where it is known. done is called once,
// on the loop.
func (l *loop) attach(dest []wire.Destination, peer wire.NodeID, sendUpdate bool, done func(wire.NodeID, error)) {
	a := &attach{peer: peer, outgoing: true, done: done}
	if err := l.enterAttach(a); err != nil {
		l.soon(func() { done(peer, err) })
		return
	}
	l.n.counters.Attaches.Add(1)
	l.background(func(ctx ctxT) func(*loop) {
		ctx, cancel := context.WithTimeout(ctx, requestLifetime)
		defer cancel()
		try, err := l.n.cfg.Transport.Prepare(ctx)
		return func(l *loop) {
			if err != nil {
				l.endAttach(a, err)
				return
			}
			if a.ended || l.closing {
				l.discard(try)
				return
			}
			local := try.Local()
			local.Role = []byte("passive") // the Attach sender's (RFC 6940 §6.5.1.9)
			body, err := wire.AttachReqAns{IceParameters: local, SendUpdate: sendUpdate}.AppendBinary(nil)
			if err != nil {
				l.discard(try)
				l.endAttach(a, fmt.Errorf("attach request: %w", err))
				return
			}
			l.sendTracked(outgoing{dest: dest, code: wire.AttachReq, body: body}, &a.txn, func(r reply) { l.attachAnswered(a, try, r) })
		}
	})
}

// enterAttach takes an attach into the table, one per known peer.
func (l *loop) enterAttach(a *attach) error {
	if l.att.count >= maxAttaches {
		return ErrBusy
	}
	if !a.peer.IsZero() {
		if l.att.byPeer[a.peer] != nil {
			return ErrInProgress
		}
		if l.att.byPeer == nil {
			l.att.byPeer = make(map[wire.NodeID]*attach)
		}
		l.att.byPeer[a.peer] = a
	}
	l.att.count++
	return nil
}

// endAttach takes it out again; the second time it does nothing.
func (l *loop) endAttach(a *attach, err error) {
	if a.ended {
		return
	}
	a.ended = true
	l.att.count--
	if l.att.byPeer[a.peer] == a {
		delete(l.att.byPeer, a.peer)
	}
	if a.cancel != nil {
		a.cancel()
	}
	if err != nil {
		l.n.counters.AttachesFailed.Add(1)
		l.log.Debug("attach failed", "peer", a.peer, "outgoing", a.outgoing, "err", err)
	}
	if a.done != nil {
		a.done(a.peer, err)
	}
}

func (l *loop) attachAnswered(a *attach, try Attempt, r reply) {
	var remote wire.AttachReqAns
	err := r.err
	if err == nil {
		remote, err = wire.ParseAttach(r.msg.Body)
	}
	if err == nil && a.peer.IsZero() {
		a.peer = r.peer.NodeID
		switch {
		case a.peer == l.id():
			err = errors.New("attach led to this node itself")
		case l.att.byPeer[a.peer] != nil:
			err = ErrInProgress
		default:
			if l.att.byPeer == nil {
				l.att.byPeer = make(map[wire.NodeID]*attach)
			}
			l.att.byPeer[a.peer] = a
		}
	}
	if err != nil || a.ended {
		l.discard(try)
		l.endAttach(a, err)
		return
	}
	l.connect(a, try, remote.IceParameters, false)
}

// connect runs ICE and the handshake. "The offerer takes the controlling role" and is the (D)TLS server
// (RFC 6940 §6.5.1.9, §6.5.1.13). sendUpdate is the flag of the peer's request.
func (l *loop) connect(a *attach, try Attempt, remote wire.IceParameters, sendUpdate bool) {
	if l.closing {
		l.discard(try)
		l.endAttach(a, ErrClosed)
		return
	}
	a.answered = true
	remote.Candidates = remote.Candidates[:min(len(remote.Candidates), maxCandidates)]
	ctx, cancel := context.WithTimeout(l.ctx, attachTimeout)
	a.cancel = cancel
	peer, outgoing := a.peer, a.outgoing
	l.background(func(ctxT) func(*loop) {
		conn, err := try.Connect(ctx, remote, peer, outgoing)
		if err == nil && conn.Peer().NodeID != peer {
			_ = conn.Close()
			err = fmt.Errorf("attach to %s reached %s", peer, conn.Peer().NodeID)
		}
		return func(l *loop) {
			if err == nil {
				l.addLink(conn, true, outgoing, sendUpdate)
			}
			l.endAttach(a, err)
		}
	})
}

// attachRequest is RFC 6940 §6.5.1.2.
func (l *loop) attachRequest(r *request) {
	in, err := wire.ParseAttach(r.Body)
	if err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "Attach")
		return
	}
	peer := r.peer.NodeID
	if peer == l.id() {
		l.fail(r, wire.ErrorInvalidMessage, "Attach to itself")
		return
	}
	if own := l.att.byPeer[peer]; own != nil {
		if !own.outgoing || own.answered || l.id().Compare(peer) > 0 {
			// "If the peer's own Node-ID is larger … it MUST generate an Error_In_Progress error to this
			// Attach request, and then proceed to wait for and complete the Attach and the corresponding
			// ICE check it has originated."
			l.n.counters.Glare.Add(1)
			l.fail(r, wire.ErrorInProgress, "")
			return
		}
		// "If the peer's own Node-ID is smaller … it MUST cancel retransmission of its own incomplete
		// Attach request."
		l.n.counters.Glare.Add(1)
		l.cancelRequest(own.txn)
		l.endAttach(own, ErrInProgress)
	}
	a := &attach{peer: peer}
	if err := l.enterAttach(a); err != nil {
		// "If the peer is overloaded or detects some other kind of error, it MAY generate an error"
		l.fail(r, wire.ErrorInProgress, "overloaded")
		return
	}
	l.background(func(ctx ctxT) func(*loop) {
		ctx, cancel := context.WithTimeout(ctx, requestLifetime)
		defer cancel()
		try, err := l.n.cfg.Transport.Prepare(ctx)
		return func(l *loop) {
			var body []byte
			if err == nil {
				local := try.Local()
				local.Role = []byte("active")
				if body, err = (wire.AttachReqAns{IceParameters: local}).AppendBinary(nil); err != nil || l.closing {
					l.discard(try)
				}
			}
			if err != nil || l.closing {
				l.fail(r, wire.ErrorNotFound, "no candidates")
				l.endAttach(a, err)
				return
			}
			l.answer(r, wire.AttachAns, body, nil)
			l.connect(a, try, in.IceParameters, in.SendUpdate)
		}
	})
}

// sendTracked is send that stores the transaction ID in *id, for cancelRequest.
func (l *loop) sendTracked(o outgoing, id *uint64, done func(reply)) {
	m := l.n.newMessage(&o)
	*id = m.TransactionID
	l.sendMessage(m, o, done)
}

// cancelRequest forgets a request; its end is not called. An answer that still comes is unmatched.
func (l *loop) cancelRequest(id uint64) {
	if t := l.txns[id]; t != nil {
		l.finish(t, reply{err: ErrInProgress})
	}
}
