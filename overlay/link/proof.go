package link

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/link/sr"
	"fieldkit/overlay/wire"
)

// A link keyed by the overlay's shared secret says that the far end is a member, not which one, and Join and Leave
// depend on that (RFC 6940 §6.4.2.1). So both ends send first of all a Ping, signed like any message, whose padding only
// this handshake could have given (docs/adr/0015).
const (
	// RFC 5705 §4: labels that begin so need no registration.
	clientProof = "EXPERIMENTAL fieldkit link proof of the client"
	serverProof = "EXPERIMENTAL fieldkit link proof of the server"
	proofLen    = 32

	maxEarly = 8 // messages of a far end that was done before us

	pskIdentity = "reload"
)

// establish runs the handshake and, where the overlay has a shared secret, the proofs.
func (t *Transport) establish(ctx context.Context, h handshake) (*session, error) {
	s, err := t.shake(ctx, h)
	if err != nil || t.cfg.SharedSecret == nil {
		return s, err
	}
	if err := t.prove(ctx, s, h.peer); err != nil {
		t.stats.handshakesFailed.Add(1)
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrProof, err), s.records.Close())
	}
	return s, nil
}

// proofOf is the padding of one end's proof on this session. It differs by end, so that none can be sent back, and by
// handshake: with ECDHE and the extended master secret (RFC 7627) no member can make two handshakes that agree.
func (s *session) proofOf(client bool) ([]byte, error) {
	label := serverProof
	if client {
		label = clientProof
	}
	return s.secrets.Export(label, nil, proofLen)
}

// proofMessage is this end's proof.
func (t *Transport) proofMessage(s *session) ([]byte, error) {
	padding, err := s.proofOf(s.client)
	if err != nil {
		return nil, err
	}
	body, err := wire.PingRequest{Padding: padding}.AppendBinary(nil)
	if err != nil {
		return nil, err
	}
	return t.message(wire.Header{Dest: []wire.Destination{wire.ToNode(wire.WildcardNodeID(t.cfg.Trust.NodeIDLength()))}}, wire.PingReq, body)
}

// message signs a message of the link's own.
func (t *Transport) message(h wire.Header, code wire.MessageCode, body []byte) ([]byte, error) {
	h.Overlay, h.Version, h.TTL, h.Fragment = wire.OverlayHash(t.cfg.Trust.Overlay()), wire.Version, 1, wire.Unfragmented
	if h.TransactionID == 0 {
		var id [8]byte
		if _, err := rand.Read(id[:]); err != nil {
			return nil, fmt.Errorf("transaction ID: %w", err)
		}
		h.TransactionID = binary.BigEndian.Uint64(id[:])
	}
	m := &wire.Message{Header: h, Code: code, Body: body}
	if err := ident.Sign(m, t.cfg.Identity.Signer()); err != nil {
		return nil, err
	}
	return m.AppendBinary(nil)
}

// checkProof holds the far end's first message against this handshake and says who signed it.
func (t *Transport) checkProof(s *session, b []byte, want wire.NodeID) (*ident.Peer, error) {
	m, err := wire.Parse(b)
	if err != nil {
		return nil, err
	}
	if m.Code != wire.PingReq || m.Overlay != wire.OverlayHash(t.cfg.Trust.Overlay()) {
		return nil, errors.New("another message than a Ping of this overlay")
	}
	ping, err := wire.ParsePingRequest(m.Body)
	if err != nil {
		return nil, err
	}
	padding, err := s.proofOf(!s.client)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(padding, ping.Padding) {
		return nil, errors.New("a Ping for another link")
	}
	peer, err := t.cfg.Trust.VerifyMessage(m, t.cfg.Now())
	if err != nil {
		return nil, err
	}
	return t.expect(peer, want)
}

// prove exchanges the proofs under Simple Reliability. It returns when the far end's was checked and ours is
// acknowledged; the machine goes on with the link.
func (t *Transport) prove(ctx context.Context, s *session, want wire.NodeID) error {
	own, err := t.proofMessage(s)
	if err != nil {
		return err
	}
	conn := s.records.(dtlsRecords).Conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	m := sr.New(t.srConfig(0))
	out := m.Step(t.cfg.Now(), sr.Input{Kind: sr.Send, Data: own}, nil)
	out = m.Step(t.cfg.Now(), sr.Input{}, out)
	buf := make([]byte, s.records.MaxRecord())
	for {
		if err := t.proofStep(s, out, want); err != nil {
			return err
		}
		at, waiting := m.Deadline()
		if !waiting && s.peer != nil {
			if !stop() { // too late: reads are being ended
				return ctx.Err()
			}
			s.proof = m
			return conn.SetReadDeadline(time.Time{})
		}
		if !waiting {
			at = time.Time{} // ctx ends the wait
		}
		if err := conn.SetReadDeadline(at); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := conn.Read(buf)
		in := sr.Input{}
		switch {
		case err == nil:
			in = sr.Input{Kind: sr.Frame, Data: append([]byte(nil), buf[:n]...)}
		case ctx.Err() != nil:
			return ctx.Err()
		case !timedOut(err):
			return err
		}
		out = m.Step(t.cfg.Now(), in, out[:0])
	}
}

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

func (t *Transport) proofStep(s *session, out []sr.Output, want wire.NodeID) (err error) {
	for _, o := range out {
		switch o.Kind {
		case sr.Transmit:
			_, err = s.records.Write(o.Data)
		case sr.Deliver:
			switch {
			case s.peer == nil:
				s.peer, err = t.checkProof(s, o.Data, want)
				s.shown = o.Data
			case bytes.Equal(o.Data, s.shown):
			case len(s.early) >= maxEarly:
				err = ErrQueueFull
			default:
				s.early = append(s.early, o.Data)
			}
		case sr.Fail:
			err = o.Err
		case sr.Refuse:
			err = o.Err
		case sr.Suspected, sr.Restored: // nothing is routed here yet
		}
		if err != nil {
			return err
		}
	}
	return nil
}
