package storage

import (
	"bytes"
	"cmp"
	"crypto/sha256"
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
	// Self is this peer, whose own values are always admitted up to MaxBytes; zero: nobody's are.
	Self wire.NodeID
	// Kept are the Kinds for which room is kept when others fill the store; nil is SIP-REGISTRATION.
	Kept []wire.KindID
	// MaxSigner and MaxSender bound, in bytes, what one other member has signed of the stored values, and what it brought
	// by replica stores; an eighth and half of MaxBytes.
	MaxSigner, MaxSender int
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
	Forbidden, TooOld        uint64 // refused; TooOld as original stores
	Superseded               uint64 // replicas refused because something newer was there
	TooLow, TooLarge         uint64
	Full                     uint64 // refused for MaxBytes, counted in TooLarge too
	OverShare                uint64 // refused for the share of a signer or sender, counted in TooLarge too
	OtherErrors              uint64
	Expired, Adopted, Moved  uint64 // values whose time was over, taken over, and given away
}

// Store holds the values. Make it with New.
type Store struct {
	cfg       Config
	kinds     map[wire.KindID]ident.Kind
	resources map[wire.ResourceID]*resource
	order     []wire.ResourceID // ascending: the keys of resources
	certs     map[certID]*certificate
	shares    map[wire.NodeID]share
	found     map[wire.KindID][]wire.ResourceID // ascending: where values of a Kind exist
	due       expiries
	bytes     int
	values    int
	retired   uint64          // the largest counter of what is gone
	cursor    wire.ResourceID // where ForReplication goes on
	stats     Stats
}

type resource struct{ kinds []*kindData } // ascending by Kind-ID

type kindData struct {
	id         wire.KindID
	generation uint64
	existing   int      // of the values, those that exist
	values     []*value // ascending by index or key
}

// value is immutable but for its holders; an overwriting store makes a new one.
type value struct {
	resource wire.ResourceID
	kind     wire.KindID
	in       *kindData       // once it is stored
	data     wire.StoredData // Lifetime as received
	expires  time.Time
	due      int         // its place in Store.due
	signer   wire.NodeID // who signed it
	sender   wire.NodeID // who brought it as a replica; zero: an original store
	charge   int         // of the shares of both
	certs    []*certificate
	holders  []holder
}

// holder is another peer that has the value, or has been sent it.
type holder struct {
	node  wire.NodeID
	until time.Time // zero: confirmed
}

// certID is the digest of a certificate and its type.
type certID [sha256.Size]byte

type certificate struct {
	id   certID
	data wire.Certificate
	refs int
}

// Rough sizes of what Go needs around the bytes of a value and a certificate.
const (
	valueOverhead = 480
	certOverhead  = 192
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
	if cfg.MaxSigner <= 0 {
		cfg.MaxSigner = cfg.MaxBytes / defaultSignerShares
	}
	if cfg.MaxSender <= 0 {
		cfg.MaxSender = cfg.MaxBytes / defaultSenderShares
	}
	if cfg.Kept == nil {
		cfg.Kept = []wire.KindID{wire.KindSIPRegistration}
	}
	if cfg.RetryAfter <= 0 {
		cfg.RetryAfter = 20 * time.Second
	}
	if cfg.MaxPush <= 0 {
		cfg.MaxPush = 3000
	}
	s := &Store{
		cfg: cfg, resources: map[wire.ResourceID]*resource{}, certs: map[certID]*certificate{}, shares: map[wire.NodeID]share{},
		found: map[wire.KindID][]wire.ResourceID{},
	}
	s.SetKinds(cfg.Kinds)
	return s
}

// SetKinds replaces the Kinds, when the overlay's configuration has changed. Data of Kinds that are gone stays until it
// expires but cannot be reached; that of Kinds whose data model changed is removed.
func (s *Store) SetKinds(kinds []ident.Kind) {
	s.kinds = make(map[wire.KindID]ident.Kind, len(kinds))
	for _, k := range kinds {
		s.kinds[k.ID] = k
	}
	s.deleteFunc(func(v *value) bool {
		k, ok := s.kinds[v.kind]
		return ok && k.Model != v.data.Value.Model
	})
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	st := s.stats
	st.Resources, st.Values, st.Bytes = len(s.order), s.values, s.bytes
	return st
}

func (v *value) size() int {
	d := &v.data
	return valueOverhead + len(d.Value.Key) + len(d.Value.Value) +
		len(d.Signature.Value) + len(d.Signature.Identity.Hash) + len(d.Signature.Identity.Raw)
}

// retain counts a value in and keeps its certificates: "a peer storing data is obligated to retain
// certificates for the data that it holds" (RFC 6940 §6.3.4).
func (s *Store) retain(k *kindData, v *value, certs []wire.Certificate) {
	v.in = k
	if v.data.Value.Exists {
		if k.existing++; k.existing == 1 {
			list := s.found[k.id]
			i, _ := slices.BinarySearch(list, v.resource)
			s.found[k.id] = slices.Insert(list, i, v.resource)
		}
	}
	s.values++
	s.bytes += v.size()
	s.account(v, 1)
	for _, c := range certs {
		id := idOf(c)
		e := s.certs[id]
		if e == nil {
			e = &certificate{id: id, data: wire.Certificate{Type: c.Type, Data: bytes.Clone(c.Data)}}
			s.certs[id] = e
			s.bytes += sizeOf(c)
		}
		e.refs++
		v.certs = append(v.certs, e)
	}
	s.expect(v)
}

// release counts a value out. Where values of its Kind are found is then set right by the caller.
func (s *Store) release(v *value) {
	if v.data.Value.Exists {
		v.in.existing--
	}
	s.unexpect(v)
	s.values--
	s.bytes -= v.size()
	s.account(v, -1)
	for _, e := range v.certs {
		if e.refs--; e.refs == 0 {
			delete(s.certs, e.id)
			s.bytes -= sizeOf(e.data)
		}
	}
	v.certs = nil
}

func idOf(c wire.Certificate) (id certID) {
	h := sha256.New()
	h.Write([]byte{c.Type})
	h.Write(c.Data)
	h.Sum(id[:0])
	return id
}

func sizeOf(c wire.Certificate) int { return certOverhead + len(c.Data) }

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
		r.kinds = slices.Insert(r.kinds, i, &kindData{id: id, generation: s.retired})
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

// left is the value as it goes out in answers: with the lifetime that is left, rounded up, so that nothing that exists
// looks expired.
func (v *value) left(now time.Time) wire.StoredData {
	d := v.data
	rest := v.expires.Sub(now)
	d.Lifetime = uint32(min((rest+time.Second-1)/time.Second, time.Duration(d.Lifetime)))
	return d
}

// handed is the value as it goes to another peer: "it MUST adjust the lifetime value downward to reflect the amount of time
// the value was stored at the peer" (RFC 6940 §7.4.1.1). Rounded up, a value that goes to and fro would live for ever.
func (v *value) handed(now time.Time) wire.StoredData {
	d := v.data
	d.Lifetime = uint32(max(0, min(v.expires.Sub(now)/time.Second, time.Duration(d.Lifetime))))
	return d
}

// collect adds the certificates of v that are not in the list yet.
func collect(list []wire.Certificate, v *value) []wire.Certificate {
	for _, e := range v.certs {
		c := e.data
		if !slices.ContainsFunc(list, func(o wire.Certificate) bool {
			return o.Type == c.Type && bytes.Equal(o.Data, c.Data)
		}) {
			list = append(list, c)
		}
	}
	return list
}
