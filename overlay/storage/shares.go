package storage

import (
	"fieldkit/overlay/wire"
)

// share is what one member has of Config.MaxBytes.
type share struct {
	signed int // values it signed
	sent   int // replica stores it sent, whoever signed them
}

// Levels of Config.MaxBytes, in sixteenths, up to which a StoreReq may fill the store (docs/adr/0021). What is above one
// level is kept for the next: this peer's own values can always be stored, and registrations in spite of a flood of
// anything else.
const (
	levelReplicas       = 8
	levelOthers         = 12
	levelKeptReplicas   = 12 // of the Kinds in Config.Kept
	levelKept           = 15
	levelOwn            = 16
	levels              = 16
	defaultSignerShares = 8 // MaxBytes over the share of one signer
	defaultSenderShares = 2 // MaxBytes over the share of one sender of replica stores
)

// charge is what a value takes of its signer's share: its own bytes, and the certificate that is its signer's alone.
// The rest of the chain is shared with that signer's other values.
func charge(v *value, certs []wire.Certificate) int {
	n := v.size()
	if len(certs) > 0 {
		n += sizeOf(certs[0])
	}
	return n
}

// growth is what a StoreReq adds for one member.
type growth struct {
	node         wire.NodeID
	signed, sent int
}

type growths []growth

func (g *growths) of(node wire.NodeID) *growth {
	for i := range *g {
		if (*g)[i].node == node {
			return &(*g)[i]
		}
	}
	*g = append(*g, growth{node: node})
	return &(*g)[len(*g)-1]
}

// admit decides whether there is room for what the stages would add: in all, and in the share of each signer and of the
// sender. What takes no more room than what it replaces is always admitted.
func (s *Store) admit(req *wire.StoreRequest, ctx StoreContext, stages []*staged) error {
	var g growths
	total, level := 0, levelOwn
	sender := ctx.Sender.Node
	for _, st := range stages {
		for j, v := range st.fresh {
			total += v.size()
			for _, c := range st.certs[j] {
				if s.certs[idOf(c)] == nil {
					total += sizeOf(c)
				}
			}
			g.of(v.signer).signed += v.charge
			if !v.sender.IsZero() {
				g.of(sender).sent += v.charge
			}
			if v.signer != s.cfg.Self || s.cfg.Self.IsZero() {
				level = min(level, s.level(st.kind.ID, req.Replica > 0))
			}
		}
		for _, v := range st.gone {
			total -= v.size()
			g.of(v.signer).signed -= v.charge
			if !v.sender.IsZero() {
				g.of(v.sender).sent -= v.charge
			}
		}
	}
	if total > 0 && s.bytes+total > s.cfg.MaxBytes/levels*level {
		s.stats.Full++
		return refuse(wire.ErrorDataTooLarge, "storage full")
	}
	for _, m := range g {
		if m.node == s.cfg.Self && !s.cfg.Self.IsZero() {
			continue
		}
		has := s.shares[m.node]
		if m.signed > 0 && has.signed+m.signed > s.cfg.MaxSigner || m.sent > 0 && has.sent+m.sent > s.cfg.MaxSender {
			s.stats.OverShare++
			return refuse(wire.ErrorDataTooLarge, "share of one member")
		}
	}
	return nil
}

func (s *Store) level(kind wire.KindID, replica bool) int {
	kept := false
	for _, k := range s.cfg.Kept {
		kept = kept || k == kind
	}
	switch {
	case kept && replica:
		return levelKeptReplicas
	case kept:
		return levelKept
	case replica:
		return levelReplicas
	}
	return levelOthers
}

// account adds n values' worth of charge, or takes it back.
func (s *Store) account(v *value, sign int) {
	h := s.shares[v.signer]
	h.signed += sign * v.charge
	s.setShare(v.signer, h)
	if v.sender.IsZero() {
		return
	}
	h = s.shares[v.sender]
	h.sent += sign * v.charge
	s.setShare(v.sender, h)
}

func (s *Store) setShare(node wire.NodeID, h share) {
	if h == (share{}) {
		delete(s.shares, node)
		return
	}
	s.shares[node] = h
}
