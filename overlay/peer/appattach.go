package peer

import (
	"errors"
	"fmt"
	"time"

	"fieldkit/overlay/wire"
)

// appKey is one application on one peer: of the two sides' attempts one prevails, as with Attach.
type appKey struct {
	peer wire.NodeID
	app  uint16
}

// appAttempt is one AppAttach under way.
type appAttempt struct {
	outgoing bool
	answered bool
	yield    func() // outgoing: gives it up for the other side's
}

type appAttaches struct{ byKey map[appKey]*appAttempt }

func (s *appAttaches) enter(k appKey, a *appAttempt) error {
	switch {
	case s.byKey[k] != nil:
		return ErrInProgress
	case len(s.byKey) >= maxAppAttaches:
		return ErrBusy
	case s.byKey == nil:
		s.byKey = make(map[appKey]*appAttempt)
	}
	s.byKey[k] = a
	return nil
}

func (s *appAttaches) leave(k appKey, a *appAttempt) {
	if s.byKey[k] == a {
		delete(s.byKey, k)
	}
}

// errYielded ends an AppAttach whose peer prevails.
var errYielded = fmt.Errorf("%w: the other side's Node-ID is larger", ErrInProgress)

// AppAttach opens a connection for an application to a node (RFC 6940 §6.5.2). When both sides try at the
// same time, the rule of §6.5.1.2 decides, and the one whose attempt was given up gets ErrInProgress: the
// connection comes to Env.AcceptApp instead.
func (p *Peer) AppAttach(now time.Time, peer wire.NodeID, app uint16, done func(AppConn, error)) *Call {
	return p.call(now, func(c *Call) {
		key := appKey{peer, app}
		a := &appAttempt{outgoing: true}
		err := errors.New("AppAttach to the node itself")
		if peer != p.cfg.ID {
			err = p.apps.enter(key, a)
		}
		if err != nil {
			c.end(func() { done(nil, fmt.Errorf("AppAttach: %w", err)) })
			return
		}
		c.cleanup = func() { p.apps.leave(key, a) }
		a.yield = func() { c.abort(func() { done(nil, errYielded) }) }
		p.count.AppAttaches++
		p.appAttach(c, key, a, func(conn AppConn, err error) {
			if IsRemote(err, wire.ErrorInProgress) {
				err = fmt.Errorf("%w: %w", ErrInProgress, err)
			}
			c.end(func() { done(conn, err) })
		})
	})
}

func (p *Peer) appAttach(c *Call, key appKey, a *appAttempt, done func(AppConn, error)) {
	c.stop = p.prepare(func(try Attempt, err error) {
		if err != nil {
			done(nil, fmt.Errorf("AppAttach candidates: %w", err))
			return
		}
		local := try.Local()
		local.Role = []byte("passive")
		body, err := wire.AppAttachReqAns{Application: key.app, IceParameters: local}.AppendBinary(nil)
		if c.over || err != nil {
			p.cfg.Env.Discard(try)
			done(nil, fmt.Errorf("AppAttach request: %w", err))
			return
		}
		t := p.send(Outgoing{Dest: toNode(key.peer), Code: wire.AppAttachReq, Body: body}, func(r Reply) {
			var in wire.AppAttachReqAns
			err := r.Err
			if err == nil {
				in, err = wire.ParseAppAttach(r.Message.Body)
			}
			if err == nil && in.Application != key.app {
				err = fmt.Errorf("answer for application %d", in.Application)
			}
			if err != nil {
				p.cfg.Env.Discard(try)
				done(nil, fmt.Errorf("AppAttach to %s: %w", key.peer, err))
				return
			}
			a.answered = true
			c.stop = p.connectApp(try, in.IceParameters, key.peer, true, func(conn AppConn, err error) {
				if c.over && conn != nil {
					p.cfg.Env.Discard(conn)
				}
				done(conn, err)
			})
		})
		c.stop = func() {
			p.drop(t)
			p.cfg.Env.Discard(try)
		}
	})
}

// connectApp runs ICE and the handshake of an application's connection.
func (p *Peer) connectApp(try Attempt, remote wire.IceParameters, peer wire.NodeID, offerer bool, done func(AppConn, error)) (cancel func()) {
	remote.Candidates = remote.Candidates[:min(len(remote.Candidates), maxCandidates)]
	var timer *alarm
	cancel = p.cfg.Env.ConnectApp(try, remote, peer, offerer, func(now time.Time, conn AppConn, err error) {
		began := p.enter(now)
		p.alarms.stop(timer)
		switch {
		case err != nil:
			conn, err = nil, fmt.Errorf("AppAttach connection to %s: %w", peer, err)
		case !holds(conn.Peer(), peer):
			// "the responding Peer MUST present a certificate with a Node-ID matching the terminal entry in the
			// destination list. Otherwise, the connection MUST NOT be used and MUST be closed." (RFC 7904 §5.1)
			p.cfg.Env.Discard(conn)
			conn, err = nil, fmt.Errorf("AppAttach connection to %s: reached %s", peer, conn.Peer().NodeID)
		}
		done(conn, err)
		p.leave(began)
	})
	timer = p.after(attachTimeout, cancel)
	return cancel
}

// appAttachRequest is RFC 6940 §6.5.2.2: "If the Application ID is not supported, the peer MUST reply with an
// Error_Not_Found error."
func (p *Peer) appAttachRequest(r *request) {
	in, err := wire.ParseAppAttach(r.Body)
	if err != nil {
		p.fail(r, wire.ErrorInvalidMessage, "AppAttach")
		return
	}
	if !p.cfg.Env.HandlesApp(in.Application) {
		p.fail(r, wire.ErrorNotFound, "application")
		return
	}
	peer := r.peer.NodeID
	if peer == p.cfg.ID {
		p.fail(r, wire.ErrorInvalidMessage, "AppAttach to itself")
		return
	}
	key := appKey{peer, in.Application}
	if own := p.apps.byKey[key]; own != nil {
		p.count.Glare++
		if !own.outgoing || own.answered || p.cfg.ID.Compare(peer) > 0 {
			p.fail(r, wire.ErrorInProgress, "")
			return
		}
		own.yield()
	}
	a := &appAttempt{}
	if err := p.apps.enter(key, a); err != nil {
		p.fail(r, wire.ErrorInProgress, "overloaded")
		return
	}
	p.prepare(func(try Attempt, err error) {
		var body []byte
		if err == nil {
			local := try.Local()
			local.Role = []byte("active")
			body, err = wire.AppAttachReqAns{Application: in.Application, IceParameters: local}.AppendBinary(nil)
			if err != nil || p.closing {
				p.cfg.Env.Discard(try)
			}
		}
		if err != nil || p.closing {
			p.fail(r, wire.ErrorNotFound, "no candidates")
			p.apps.leave(key, a)
			return
		}
		p.answer(r, wire.AppAttachAns, body, nil)
		p.connectApp(try, in.IceParameters, peer, false, func(conn AppConn, err error) {
			p.apps.leave(key, a)
			if err != nil {
				p.log.Info("application connection failed", "peer", peer, "application", in.Application, "err", err)
				return
			}
			p.cfg.Env.AcceptApp(in.Application, conn)
		})
	})
}
