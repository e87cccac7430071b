package registrar

import (
	"slices"
	"time"
)

// Snapshot is all that must survive a restart: no passwords, they are the
// mission's.
type Snapshot struct {
	Accounts []SnapshotAccount `json:"accounts"`
}

// SnapshotAccount are the bindings of one account.
type SnapshotAccount struct {
	ID       string    `json:"id"`
	Number   string    `json:"number,omitempty"`
	Name     string    `json:"name,omitempty"`
	Bindings []Binding `json:"bindings"`
}

// Snapshot returns a copy of every account with bindings, ordered by id.
func (r *Registrar) Snapshot() Snapshot {
	var s Snapshot
	r.each(func(a *account) {
		if len(a.bindings) == 0 {
			return
		}
		s.Accounts = append(s.Accounts, SnapshotAccount{
			ID: a.id, Number: a.Number, Name: a.Name, Bindings: slices.Clone(a.bindings),
		})
	})
	return s
}

// Restore takes the bindings of a snapshot for the accounts that still exist.
// Bindings that ended and those behind a connection (which did not survive) are
// left out, as are ones a registration has replaced meanwhile. An expiry further
// away than [MaxExpires] is shortened: the clock may have been wrong (no clock
// of a kit is trusted).
func (r *Registrar) Restore(now time.Time, s Snapshot) []Event {
	var events []Event
	byID := make(map[string]*account)
	r.each(func(a *account) { byID[a.id] = a })
	for _, sa := range s.Accounts {
		a := byID[sa.ID]
		if a == nil {
			continue
		}
		changed := false
		for _, b := range sa.Bindings {
			if b.Flow.Conn != 0 || !now.Before(b.Expires) || b.Contact == "" || len(a.bindings) >= MaxContacts {
				continue
			}
			if slices.ContainsFunc(a.bindings, func(o Binding) bool { return o.Key == b.Key }) {
				continue
			}
			if limit := now.Add(MaxExpires); b.Expires.After(limit) {
				b.Expires = limit
			}
			a.bindings = append(a.bindings, b)
			changed = true
		}
		events = append(events, r.settle(now, a, changed)...)
	}
	return events
}
