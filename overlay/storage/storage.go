package storage

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Config says what may be stored.
type Config struct {
	Kinds    []ident.Kind // as the overlay configuration document has them
	IDLen    int          // bytes of a Node-ID and of a Resource-ID; 16
	MaxBytes int          // of everything together, about; 8 MiB
	// RetryAfter is how long a push to another peer counts as under way when no Confirm comes; 20 s.
	RetryAfter time.Duration
	// MaxPush bounds values and certificates of one Push, so that the StoreReq stays below
	// max-message-size; 3000 bytes. A single larger value goes alone.
	MaxPush int
}

// Signer is who signed something, as verified by the caller. The zero Signer signed nothing: the
// signature is not valid.
type Signer struct {
	Node         wire.NodeID
	User         string             // the certificate's rfc822Name
	Certificates []wire.Certificate // its chain, leaf first, retained with the value
}

// StoreContext is what the caller knows of a StoreReq beyond its body.
type StoreContext struct {
	Sender Signer     // of the StoreReq
	Values [][]Signer // of Kinds[i].Values[j]
	// Responsible: this peer is responsible for the resource. For original stores.
	Responsible bool
	// Plausible: this peer expects to be a replica, and no better node than the sender is known
	// (chord's Plausible). For replica stores.
	Plausible bool
	// Replicas are where an original store will be replicated; the answer lists them.
	Replicas []wire.NodeID
}

// Stats counts since New, save the first three, which are as of now.
type Stats struct {
	Resources, Values, Bytes int
	Stores, Replicas         uint64 // accepted
	Forbidden, TooOld        uint64 // refused
	TooLow, TooLarge         uint64
	Full                     uint64 // refused for MaxBytes, counted in TooLarge too
	OtherErrors              uint64
	Expired, Adopted, Moved  uint64 // values whose time was over, taken over, and given away
}

// Store holds the values. Make it with New.
type Store struct {
	cfg       Config
	kinds     map[wire.KindID]ident.Kind
	resources map[wire.ResourceID]*resource
	order     []wire.ResourceID // ascending: the keys of resources
	certs     map[string]*certificate
	bytes     int
	values    int
	next      time.Time // earliest expiry, or earlier; zero: none
	stats     Stats
}

type resource struct{ kinds []*kindData } // ascending by Kind-ID

type kindData struct {
	id         wire.KindID
	generation uint64
	values     []*value // ascending by index or key
}

// value is immutable but for its holders; an overwriting store makes a new one.
type value struct {
	data    wire.StoredData // Lifetime as received
	expires time.Time
	certs   []string // into Store.certs
	holders []holder
}

// holder is another peer that has the value, or has been sent it.
type holder struct {
	node  wire.NodeID
	until time.Time // zero: confirmed
}

type certificate struct {
	data wire.Certificate
	refs int
}

// Rough sizes of what Go needs around the bytes of a value and a certificate.
const (
	valueOverhead = 320
	certOverhead  = 96
)

// maxHolders is beyond the replica set; older marks are dropped, at the cost of a needless push.
const maxHolders = 8

// New makes an empty store.
func New(cfg Config) *Store {
	if cfg.IDLen <= 0 {
		cfg.IDLen = wire.MinNodeIDLen
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 8 << 20
	}
	if cfg.RetryAfter <= 0 {
		cfg.RetryAfter = 20 * time.Second
	}
	if cfg.MaxPush <= 0 {
		cfg.MaxPush = 3000
	}
	s := &Store{
		cfg: cfg, resources: map[wire.ResourceID]*resource{}, certs: map[string]*certificate{},
	}
	s.SetKinds(cfg.Kinds)
	return s
}

// SetKinds replaces the Kinds, when the overlay's configuration has changed. Data of Kinds that
// are gone stays until it expires but cannot be reached.
func (s *Store) SetKinds(kinds []ident.Kind) {
	s.kinds = make(map[wire.KindID]ident.Kind, len(kinds))
	for _, k := range kinds {
		s.kinds[k.ID] = k
	}
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	st := s.stats
	st.Resources, st.Values, st.Bytes = len(s.order), s.values, s.bytes
	return st
}

// Deadline is when Expire has something to do; zero if nothing is stored.
func (s *Store) Deadline() time.Time { return s.next }

// Expire removes the values whose lifetime is over and returns how many: "it is simply removed from
// the storing node" (RFC 6940 §7.4.1.3). The other methods do it by themselves.
func (s *Store) Expire(now time.Time) int {
	if s.next.IsZero() || now.Before(s.next) {
		return 0
	}
	s.next = time.Time{}
	n := s.deleteFunc(func(_ wire.ResourceID, v *value) bool {
		if !now.Before(v.expires) {
			return true
		}
		s.expect(v.expires)
		return false
	})
	s.stats.Expired += uint64(n)
	return n
}

func (s *Store) expect(t time.Time) {
	if s.next.IsZero() || t.Before(s.next) {
		s.next = t
	}
}

// deleteFunc removes the values for which del holds, and what is empty after that.
func (s *Store) deleteFunc(del func(wire.ResourceID, *value) bool) (n int) {
	s.order = slices.DeleteFunc(s.order, func(id wire.ResourceID) bool {
		r := s.resources[id]
		for _, k := range r.kinds {
			k.values = slices.DeleteFunc(k.values, func(v *value) bool {
				if !del(id, v) {
					return false
				}
				n++
				s.release(v)
				return true
			})
		}
		r.kinds = slices.DeleteFunc(r.kinds, func(k *kindData) bool { return len(k.values) == 0 })
		if len(r.kinds) == 0 {
			delete(s.resources, id)
			return true
		}
		return false
	})
	return n
}

func (v *value) size() int {
	d := &v.data
	return valueOverhead + len(d.Value.Key) + len(d.Value.Value) +
		len(d.Signature.Value) + len(d.Signature.Identity.Hash) + len(d.Signature.Identity.Raw)
}

// retain counts a value in and keeps its certificates: "a peer storing data is obligated to retain
// certificates for the data that it holds" (RFC 6940 §6.3.4).
func (s *Store) retain(v *value, certs []wire.Certificate) {
	s.values++
	s.bytes += v.size()
	for _, c := range certs {
		key := string(append([]byte{c.Type}, c.Data...))
		e := s.certs[key]
		if e == nil {
			e = &certificate{data: wire.Certificate{Type: c.Type, Data: bytes.Clone(c.Data)}}
			s.certs[key] = e
			s.bytes += certOverhead + 2*len(c.Data)
		}
		e.refs++
		v.certs = append(v.certs, key)
	}
	s.expect(v.expires)
}

func (s *Store) release(v *value) {
	s.values--
	s.bytes -= v.size()
	for _, key := range v.certs {
		e := s.certs[key]
		if e.refs--; e.refs == 0 {
			delete(s.certs, key)
			s.bytes -= certOverhead + 2*len(e.data.Data)
		}
	}
	v.certs = nil
}

func (s *Store) kind(res wire.ResourceID, id wire.KindID) *kindData {
	r := s.resources[res]
	if r == nil {
		return nil
	}
	if i, ok := r.find(id); ok {
		return r.kinds[i]
	}
	return nil
}

func (r *resource) find(id wire.KindID) (int, bool) {
	return slices.BinarySearchFunc(r.kinds, id, func(k *kindData, id wire.KindID) int { return cmp.Compare(k.id, id) })
}

func (s *Store) makeKind(res wire.ResourceID, id wire.KindID) *kindData {
	r := s.resources[res]
	if r == nil {
		r = &resource{}
		s.resources[res] = r
		i, _ := slices.BinarySearch(s.order, res)
		s.order = slices.Insert(s.order, i, res)
	}
	i, ok := r.find(id)
	if !ok {
		r.kinds = slices.Insert(r.kinds, i, &kindData{id: id})
	}
	return r.kinds[i]
}

// compareKey orders the values of one Kind: all equal for a single value.
func compareKey(a *value, b *wire.StoredDataValue) int {
	if c := cmp.Compare(a.data.Value.Index, b.Index); c != 0 {
		return c
	}
	return bytes.Compare(a.data.Value.Key, b.Key)
}

func findValue(values []*value, at *wire.StoredDataValue) (int, bool) {
	return slices.BinarySearchFunc(values, at, compareKey)
}

// left is the value as it goes out: with the lifetime that is left.
func (v *value) left(now time.Time) wire.StoredData {
	d := v.data
	rest := v.expires.Sub(now)
	d.Lifetime = uint32(min((rest+time.Second-1)/time.Second, time.Duration(d.Lifetime)))
	return d
}

// collect adds the certificates of v that are not in the list yet.
func (s *Store) collect(list []wire.Certificate, v *value) []wire.Certificate {
	for _, key := range v.certs {
		c := s.certs[key].data
		if !slices.ContainsFunc(list, func(o wire.Certificate) bool {
			return o.Type == c.Type && bytes.Equal(o.Data, c.Data)
		}) {
			list = append(list, c)
		}
	}
	return list
}
