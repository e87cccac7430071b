package node

import (
	"context"
	"errors"
	"fmt"

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
	yield    context.CancelFunc // outgoing: ends the caller's AppAttach
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
// connection comes to its handler instead, see HandleApp.
func (n *Node) AppAttach(ctx context.Context, peer wire.NodeID, app uint16) (AppConn, error) {
	if peer == n.ID() {
		return nil, errors.New("AppAttach to the node itself")
	}
	ctx, cancelCause := context.WithCancelCause(ctx)
	defer cancelCause(nil)
	key := appKey{peer, app}
	a := &appAttempt{outgoing: true, yield: func() { cancelCause(errYielded) }}
	// Leaving comes after entering even when nobody waits for that any more.
	defer n.post(context.WithoutCancel(ctx), func(l *loop) { l.apps.leave(key, a) })
	var entered error
	if err := n.ask(ctx, func(l *loop) { entered = l.apps.enter(key, a) }); err != nil {
		return nil, err
	}
	if entered != nil {
		return nil, fmt.Errorf("AppAttach: %w", entered)
	}
	conn, err := n.appAttach(ctx, peer, app, a)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errYielded) {
		return nil, cause
	}
	if IsRemote(err, wire.ErrorInProgress) {
		return nil, fmt.Errorf("%w: %w", ErrInProgress, err)
	}
	return conn, err
}

func (n *Node) appAttach(ctx context.Context, peer wire.NodeID, app uint16, a *appAttempt) (AppConn, error) {
	n.counters.AppAttaches.Add(1)
	try, err := n.cfg.Transport.Prepare(ctx)
	if err != nil {
		return nil, fmt.Errorf("AppAttach candidates: %w", err)
	}
	local := try.Local()
	local.Role = []byte("passive")
	body, err := wire.AppAttachReqAns{Application: app, IceParameters: local}.AppendBinary(nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("AppAttach request: %w", err), try.Close())
	}
	r, err := n.call(ctx, outgoing{dest: toNode(peer), code: wire.AppAttachReq, body: body})
	var in wire.AppAttachReqAns
	if err == nil {
		in, err = wire.ParseAppAttach(r.msg.Body)
	}
	if err == nil && in.Application != app {
		err = fmt.Errorf("answer for application %d", in.Application)
	}
	if err == nil {
		err = n.ask(ctx, func(*loop) { a.answered = true })
	}
	if err != nil {
		_ = try.Close()
		return nil, fmt.Errorf("AppAttach to %s: %w", peer, err)
	}
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	return n.connectApp(ctx, try, in.IceParameters, peer, true)
}

func (n *Node) connectApp(ctx context.Context, try Attempt, remote wire.IceParameters, peer wire.NodeID, offerer bool) (AppConn, error) {
	remote.Candidates = remote.Candidates[:min(len(remote.Candidates), maxCandidates)]
	conn, err := try.ConnectApp(ctx, remote, peer, offerer)
	if err != nil {
		return nil, fmt.Errorf("AppAttach connection to %s: %w", peer, err)
	}
	if got := conn.Peer().NodeID; got != peer {
		// "the responding Peer MUST present a certificate with a Node-ID matching the terminal entry in the
		// destination list. Otherwise, the connection MUST NOT be used and MUST be closed." (RFC 7904 §5.1)
		_ = conn.Close()
		return nil, fmt.Errorf("AppAttach connection to %s: reached %s", peer, got)
	}
	return conn, nil
}

// appAttachRequest is RFC 6940 §6.5.2.2: "If the Application ID is not supported, the peer MUST reply with an
// Error_Not_Found error."
func (l *loop) appAttachRequest(r *request) {
	in, err := wire.ParseAppAttach(r.Body)
	if err != nil {
		l.fail(r, wire.ErrorInvalidMessage, "AppAttach")
		return
	}
	handler := l.n.apps.get(in.Application)
	if handler == nil {
		l.fail(r, wire.ErrorNotFound, "application")
		return
	}
	peer := r.peer.NodeID
	if peer == l.id() {
		l.fail(r, wire.ErrorInvalidMessage, "AppAttach to itself")
		return
	}
	key := appKey{peer, in.Application}
	if own := l.apps.byKey[key]; own != nil {
		l.n.counters.Glare.Add(1)
		if !own.outgoing || own.answered || l.id().Compare(peer) > 0 {
			l.fail(r, wire.ErrorInProgress, "")
			return
		}
		l.apps.leave(key, own)
		own.yield()
	}
	a := &appAttempt{}
	if err := l.apps.enter(key, a); err != nil {
		l.fail(r, wire.ErrorInProgress, "overloaded")
		return
	}
	done := func(l *loop) { l.apps.leave(key, a) }
	l.background(func(ctx ctxT) func(*loop) {
		ctx, cancel := context.WithTimeout(ctx, requestLifetime+attachTimeout)
		defer cancel()
		try, err := l.n.cfg.Transport.Prepare(ctx)
		var body []byte
		if err == nil {
			local := try.Local()
			local.Role = []byte("active")
			body, err = wire.AppAttachReqAns{Application: in.Application, IceParameters: local}.AppendBinary(nil)
			if err != nil {
				_ = try.Close()
			}
		}
		if err != nil {
			return func(l *loop) {
				l.fail(r, wire.ErrorNotFound, "no candidates")
				done(l)
			}
		}
		if !l.n.post(ctx, func(l *loop) { l.answer(r, wire.AppAttachAns, body, nil) }) {
			_ = try.Close()
			return done
		}
		conn, err := l.n.connectApp(ctx, try, in.IceParameters, peer, false)
		if err != nil {
			l.n.log.Info("application connection failed", "peer", peer, "application", in.Application, "err", err)
			return done
		}
		// The table entry goes first: whoever is told of the connection may open the next one.
		l.n.post(ctx, done)
		handler(conn)
		return nil
	})
}
