package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// result is how an operation of the peer ended.
type result[T any] struct {
	value T
	err   error
}

// operation begins something on the peer and waits for its end. late gets a value that nobody waits for any more.
func operation[T any](ctx context.Context, n *Node, begin func(now time.Time, done func(T, error)) *peer.Call, late func(T)) (T, error) {
	end := make(chan result[T], 1)
	var zero T
	var call *peer.Call
	if !n.post(ctx, func(now time.Time) {
		call = begin(now, func(v T, err error) { end <- result[T]{v, err} })
	}) {
		return zero, n.ended(ctx)
	}
	unwanted := func() {
		select {
		case r := <-end:
			if r.err == nil && late != nil {
				late(r.value)
			}
		default:
		}
	}
	select {
	case r := <-end:
		return r.value, r.err
	case <-n.done:
		unwanted()
	case <-ctx.Done():
		// Nobody waits any more: nothing is resent.
		n.post(context.WithoutCancel(ctx), func(time.Time) {
			call.Cancel()
			unwanted()
		})
	}
	return zero, n.ended(ctx)
}

// Store stores values of one Kind at a resource, signed by signer: each value, and the request, which both
// must satisfy the Kind's access control (RFC 6940 §7.4.1.1). lifetime is in whole seconds. When the
// responsible peer has something younger, because this kit's clock is behind, the storage time is learnt
// from it and the Store made again (RFC 6940 §7).
func (n *Node) Store(ctx context.Context, res wire.ResourceID, kind wire.KindID, lifetime time.Duration, signer *ident.Signer, values ...Value) (Stored, error) {
	return operation(ctx, n, func(now time.Time, done func(Stored, error)) *peer.Call {
		return n.peer.Store(now, res, kind, lifetime, signer, values, done)
	}, nil)
}

// Fetch fetches what is stored of one Kind at a resource: all of it, or some keys of a dictionary.
// Nothing stored is no error.
func (n *Node) Fetch(ctx context.Context, res wire.ResourceID, kind wire.KindID, keys ...[]byte) (FetchedKind, error) {
	return operation(ctx, n, func(now time.Time, done func(FetchedKind, error)) *peer.Call {
		return n.peer.Fetch(now, res, kind, keys, done)
	}, nil)
}

// Stat is Fetch without the values (RFC 6940 §7.4.3). Nothing in the answer is signed but the answer.
func (n *Node) Stat(ctx context.Context, res wire.ResourceID, kind wire.KindID, keys ...[]byte) (wire.StatKindResponse, error) {
	return operation(ctx, n, func(now time.Time, done func(wire.StatKindResponse, error)) *peer.Call {
		return n.peer.Stat(now, res, kind, keys, done)
	}, nil)
}

// Find asks the peer responsible for res for the next resource at or after it, for each Kind
// (RFC 6940 §7.4.4).
func (n *Node) Find(ctx context.Context, res wire.ResourceID, kinds ...wire.KindID) ([]wire.FindKindData, error) {
	return operation(ctx, n, func(now time.Time, done func([]wire.FindKindData, error)) *peer.Call {
		return n.peer.Find(now, res, kinds, done)
	}, nil)
}

// Ping asks for a sign of life from whoever dest, a Destination List, leads to (RFC 6940 §6.5.3).
func (n *Node) Ping(ctx context.Context, dest ...wire.Destination) (Pong, error) {
	return operation(ctx, n, func(now time.Time, done func(Pong, error)) *peer.Call {
		return n.peer.Ping(now, dest, done)
	}, nil)
}

// Probe asks a peer about itself (RFC 6940 §6.4.2.5).
func (n *Node) Probe(ctx context.Context, dest wire.Destination, types ...wire.ProbeInfoType) ([]wire.ProbeInformation, error) {
	return operation(ctx, n, func(now time.Time, done func([]wire.ProbeInformation, error)) *peer.Call {
		return n.peer.Probe(now, dest, types, done)
	}, nil)
}

// RouteQuery asks id to whom it would route a message for dest (RFC 6940 §6.4.2.4).
func (n *Node) RouteQuery(ctx context.Context, id wire.NodeID, dest wire.Destination) (wire.NodeID, error) {
	return operation(ctx, n, func(now time.Time, done func(wire.NodeID, error)) *peer.Call {
		return n.peer.RouteQuery(now, id, dest, done)
	}, nil)
}

// MayAsk are the dMFlags (RFC 7851 §5.3) of everything that the document lets this node ask others for.
func (n *Node) MayAsk() uint64 { return peer.MayAsk(n.cfg.Document, n.ID()) }

// PathTrack follows the way of a message to dest (RFC 7851 §4.3), hop by hop: each is asked where it would send the
// message on to, and for the diagnostics in flags, see MayAsk. The hops that answered are returned also with an error;
// the last is the responsible one if there is none. A hop that refuses what is asked ends it with Error_Forbidden.
func (n *Node) PathTrack(ctx context.Context, dest wire.Destination, flags uint64) ([]PathHop, error) {
	return operation(ctx, n, func(now time.Time, done func([]PathHop, error)) *peer.Call {
		return n.peer.PathTrack(now, dest, flags, done)
	}, nil)
}

// PingDiagnostics is Ping that asks for the diagnostics in flags, too (RFC 7851 §4.2). A node that does not know of
// diagnostics answers without.
func (n *Node) PingDiagnostics(ctx context.Context, flags uint64, dest ...wire.Destination) (PathHop, error) {
	return operation(ctx, n, func(now time.Time, done func(PathHop, error)) *peer.Call {
		return n.peer.PingDiagnostics(now, dest, flags, done)
	}, nil)
}

// AppAttach opens a connection for an application to a node (RFC 6940 §6.5.2). When both sides try at the
// same time, the rule of §6.5.1.2 decides, and the one whose attempt was given up gets ErrInProgress: the
// connection comes to its handler instead, see HandleApp.
func (n *Node) AppAttach(ctx context.Context, id wire.NodeID, app uint16) (AppConn, error) {
	conn, err := operation(ctx, n, func(now time.Time, done func(peer.AppConn, error)) *peer.Call {
		return n.peer.AppAttach(now, id, app, done)
	}, func(c peer.AppConn) { _ = c.Close() })
	if err != nil {
		return nil, err
	}
	c, ok := conn.(AppConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("AppAttach: connection of type %T", conn), conn.Close())
	}
	return c, nil
}
