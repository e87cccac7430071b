package storage

import (
	"slices"
	"time"

	"fieldkit/overlay/wire"
)

// Target is a peer that ought to hold a resource, and the replica number to store it with.
type Target struct {
	Node    wire.NodeID
	Replica uint8 // 1 or 2; never 0, for that would be an original store (RFC 6940 §7.4.1.1)
}

// Push is one replica store to send. Hand it back to Confirm when it was answered.
type Push struct {
	To           wire.NodeID
	Request      wire.StoreRequest
	Certificates []wire.Certificate // for the security block
	values       []*value
}

// ForReplication lists the stores that bring every value to its targets: to the two successors of
// an owner (RFC 6940 §10.4, §10.7.3), and to a new owner what this peer is no longer responsible
// for (§6.4.2.3). targets says who ought to hold a resource, besides this peer. Values that a
// target is known to hold, or was sent less than Config.RetryAfter ago, are left out, so it can be
// called as often as one likes. It lists at most limit stores; more says that there are others. Each call goes on where
// the last one ended, so that no resource waits for ever behind others, and handing over everything looks at each once.
//
// One push holds values of one Kind of one resource.
func (s *Store) ForReplication(now time.Time, targets func(wire.ResourceID) []Target, limit int) (pushes []Push, more bool) {
	s.Expire(now)
	start, _ := slices.BinarySearch(s.order, s.cursor)
	for i := range s.order {
		res := s.order[(start+i)%len(s.order)]
		list := targets(res)
		s.prune(res, list)
		if pushes, more = s.replicate(now, res, list, limit, pushes); more {
			s.cursor = res
			return pushes, true
		}
	}
	return pushes, false
}

// prune takes back that anybody but the targets holds a resource. Whoever is not in its replica set may discard it at any time
// (RFC 6940 §10.7.3); when it is in the set again, it has to be brought the values anew. No targets say nothing.
func (s *Store) prune(res wire.ResourceID, targets []Target) {
	if len(targets) == 0 {
		return
	}
	for _, k := range s.resources[res].kinds {
		for _, v := range k.values {
			v.holders = slices.DeleteFunc(v.holders, func(h holder) bool {
				return !slices.ContainsFunc(targets, func(t Target) bool { return t.Node == h.node })
			})
		}
	}
}

// ReplicationOf is ForReplication for one resource, as after a StoreReq (RFC 6940 §10.4).
func (s *Store) ReplicationOf(now time.Time, res wire.ResourceID, targets []Target, limit int) (pushes []Push, more bool) {
	s.Expire(now)
	return s.replicate(now, res, targets, limit, nil)
}

func (s *Store) replicate(now time.Time, res wire.ResourceID, targets []Target, limit int, list []Push) (pushes []Push, more bool) {
	r := s.resources[res]
	if r == nil {
		return list, false
	}
	for _, t := range targets {
		if t.Node.IsZero() || t.Replica == 0 {
			continue
		}
		for _, k := range r.kinds {
			for _, p := range s.pushes(now, res, k, t) {
				if len(list) >= limit {
					return list, true
				}
				for _, v := range p.values {
					v.mark(holder{node: t.Node, until: now.Add(s.cfg.RetryAfter)})
				}
				list = append(list, p)
			}
		}
	}
	return list, false
}

// pushes packs the values of k that t lacks.
func (s *Store) pushes(now time.Time, res wire.ResourceID, k *kindData, t Target) (list []Push) {
	size := 0
	for _, v := range k.values {
		d := v.handed(now)
		if v.holds(t.Node, now) || d.Lifetime == 0 {
			continue
		}
		n := v.size() - valueOverhead + 48
		for _, c := range v.certs {
			n += len(c.data.Data)
		}
		if len(list) == 0 || size+n > s.cfg.MaxPush {
			size = 0
			list = append(list, Push{To: t.Node, Request: wire.StoreRequest{
				Resource: res, Replica: t.Replica,
				Kinds: []wire.StoreKindData{{Kind: k.id, Generation: k.generation}},
			}})
		}
		size += n
		p := &list[len(list)-1]
		p.values = append(p.values, v)
		p.Request.Kinds[0].Values = append(p.Request.Kinds[0].Values, d)
		p.Certificates = collect(p.Certificates, v)
	}
	return list
}

// Confirm says that a push was stored by its target (ok), or refused or lost. After an
// Error_Data_Too_Old or Error_Generation_Counter_Too_Low fetch what the target has, Adopt it, and
// then Confirm with ok false: ForReplication goes on from there.
func (s *Store) Confirm(now time.Time, p Push, ok bool) {
	for _, v := range p.values {
		if ok {
			v.mark(holder{node: p.To})
		} else {
			v.mark(holder{node: p.To, until: now.Add(s.cfg.RetryAfter / 4)})
		}
	}
	if ok {
		s.stats.Moved += uint64(len(p.values))
	}
}

// Forget takes back that node holds anything: it is gone and may come back empty.
func (s *Store) Forget(node wire.NodeID) {
	for _, res := range s.order {
		for _, k := range s.resources[res].kinds {
			for _, v := range k.values {
				v.holders = slices.DeleteFunc(v.holders, func(h holder) bool { return h.node == node })
			}
		}
	}
}

// Discard removes what this peer has no reason to keep: "When peer x detects that it is no longer in
// the replica set for a resource R …, it SHOULD delete all data associated with R from its local
// store" (RFC 6940 §10.7.3). keep says whether it is. A value that no other peer is known to
// hold stays in spite of that, until it is handed over or expires. It returns how many went.
func (s *Store) Discard(keep func(wire.ResourceID) bool) int {
	return s.deleteFunc(func(v *value) bool {
		return !keep(v.resource) && slices.ContainsFunc(v.holders, func(h holder) bool { return h.until.IsZero() })
	})
}

func (v *value) holds(node wire.NodeID, now time.Time) bool {
	return slices.ContainsFunc(v.holders, func(h holder) bool {
		return h.node == node && (h.until.IsZero() || now.Before(h.until))
	})
}

func (v *value) mark(h holder) {
	v.holders = slices.DeleteFunc(v.holders, func(o holder) bool { return o.node == h.node })
	if len(v.holders) >= maxHolders {
		v.holders = v.holders[1:]
	}
	v.holders = append(v.holders, h)
}
