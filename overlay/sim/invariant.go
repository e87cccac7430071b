package sim

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// neighbours is how many successors and predecessors a peer has (RFC 6940 §10.7).
const neighbours = 3

// ring is what the order of Node-IDs says about who is whose neighbour: the truth to hold peers against.
type ring struct {
	kits []*Kit // ascending by Node-ID
	ids  []wire.NodeID
	last int // where the last check failed: to be looked at first
}

func newRing(kits []*Kit) *ring {
	r := &ring{kits: slices.Clone(kits)}
	slices.SortFunc(r.kits, func(a, b *Kit) int { return a.self.NodeID.Compare(b.self.NodeID) })
	for _, k := range r.kits {
		r.ids = append(r.ids, k.self.NodeID)
	}
	return r
}

// neighbours are the nearest first, step 1 for successors and −1 for predecessors.
func (r *ring) neighbours(i, step int) []wire.NodeID {
	n := len(r.ids)
	out := make([]wire.NodeID, 0, neighbours)
	for j := 1; j <= min(neighbours, n-1); j++ {
		out = append(out, r.ids[((i+j*step)%n+n)%n])
	}
	return out
}

// check holds each kit's Neighbor Table against the order of Node-IDs: the successors of every peer are the next
// three, its predecessors the three before.
func (r *ring) check() error {
	for j := range r.kits {
		i := (r.last + j) % len(r.kits)
		if err := r.checkKit(i); err != nil {
			r.last = i
			return err
		}
	}
	return nil
}

func (r *ring) checkKit(i int) error {
	k := r.kits[i]
	if !k.alive {
		return fmt.Errorf("kit %d is not running", k.n)
	}
	pred, succ := k.neighbours()
	if want := r.neighbours(i, 1); !slices.Equal(prefix(succ), want) {
		return fmt.Errorf("kit %d (%s): successors %s, want %s", k.n, short(k.self.NodeID), shorts(succ), shorts(want))
	}
	if want := r.neighbours(i, -1); !slices.Equal(prefix(pred), want) {
		return fmt.Errorf("kit %d (%s): predecessors %s, want %s", k.n, short(k.self.NodeID), shorts(pred), shorts(want))
	}
	return nil
}

// neighbours are those that the kit itself goes by.
func (k *Kit) neighbours() (pred, succ []wire.NodeID) {
	s := k.peer.Snapshot()
	return s.Predecessors, s.Successors
}

// prefix is what of a list counts: self-tuning may keep more neighbours than three.
func prefix(ids []wire.NodeID) []wire.NodeID { return ids[:min(len(ids), neighbours)] }

// wrong counts the kits whose neighbours are not right.
func (r *ring) wrong() (n int) {
	for i := range r.kits {
		if r.checkKit(i) != nil {
			n++
		}
	}
	return n
}

// owner is the number of the kit that is responsible for a place: the first at or after it (RFC 6940 §10.1).
func (r *ring) owner(res wire.ResourceID) int {
	i, _ := slices.BinarySearchFunc(r.ids, []byte(res), func(id wire.NodeID, b []byte) int { return bytes.Compare(id.Bytes(), b) })
	return i % len(r.ids)
}

// holders are who ought to have a resource: its owner and both replicas (RFC 6940 §10.4).
func (r *ring) holders(res wire.ResourceID) []*Kit {
	i := r.owner(res)
	var out []*Kit
	for j := range min(3, len(r.kits)) {
		out = append(out, r.kits[(i+j)%len(r.kits)])
	}
	return out
}

func short(id wire.NodeID) string { return id.String()[:8] }

func shorts(ids []wire.NodeID) (out []string) {
	for _, id := range ids {
		out = append(out, short(id))
	}
	return out
}

// holds asks a kit itself for what it holds at a resource, and the certificates of that. Nothing of it goes over the
// network.
func (k *Kit) holds(res wire.ResourceID, done func([]wire.StoredData, []wire.Certificate)) {
	q := wire.FetchRequest{Resource: res, Specifiers: []wire.DataSpecifier{{Kind: wire.KindSIPRegistration, Model: wire.Dictionary}}}
	body, err := q.AppendBinary(nil)
	if err != nil {
		k.w.fail("fetch request: %v", err)
		return
	}
	k.peer.Request(k.w.now(), peer.Outgoing{Dest: []wire.Destination{wire.ToNode(k.self.NodeID)}, Code: wire.FetchReq, Body: body}, func(r peer.Reply) {
		if r.Err != nil {
			done(nil, nil)
			return
		}
		a, err := wire.ParseFetchAnswer(r.Message.Body, k.w.doc.ModelOf)
		if err != nil || len(a.Kinds) == 0 {
			done(nil, nil)
			return
		}
		done(a.Kinds[0].Values, r.Message.Security.Certificates)
	})
	k.after()
}

// stored is holds without the certificates.
func (k *Kit) stored(res wire.ResourceID, done func([]wire.StoredData)) {
	k.holds(res, func(values []wire.StoredData, _ []wire.Certificate) { done(values) })
}

// has reports whether a record's present version is among values.
func (r *record) has(values []wire.StoredData) bool {
	for _, v := range values {
		if v.Value.Exists && bytes.Equal(v.Value.Key, r.kit.self.NodeID.Bytes()) && bytes.Equal(v.Value.Value, r.value(r.version)) {
			return true
		}
	}
	return false
}

// authentic holds a value that some kit stores or answers against what the kit named by its key has ever written:
// "no forged or foreign value accepted".
func (r *record) authentic(v *wire.StoredData) bool {
	if !v.Value.Exists {
		return true
	}
	w := r.kit.w
	for _, o := range w.byAOR[r.aor] {
		if !bytes.Equal(v.Value.Key, o.kit.self.NodeID.Bytes()) {
			continue
		}
		for version := uint32(1); version <= o.version; version++ {
			if bytes.Equal(v.Value.Value, o.value(version)) {
				return true
			}
		}
	}
	return false
}

// checkCopies finds the records that are not at their owner and both replicas, and values that nobody wrote.
// It lets time pass until every kit has answered.
func (w *World) checkCopies(r *ring, records []*record) (missing []*record) {
	open := 0
	found := make(map[*record]int, len(records))
	for _, rec := range records {
		for _, k := range r.holders(rec.res) {
			open++
			k.stored(rec.res, func(values []wire.StoredData) {
				open--
				if rec.has(values) {
					found[rec]++
				}
				for i := range values {
					if !rec.authentic(&values[i]) {
						w.fail("kit %d stores a value of %s that nobody wrote", k.n, rec.aor)
					}
				}
			})
		}
	}
	w.wait(&open)
	for _, rec := range records {
		if found[rec] < len(r.holders(rec.res)) {
			missing = append(missing, rec)
		}
	}
	return missing
}

// answerWithin is when every question has its answer: the maximum request lifetime (RFC 6940 §6.2.1) and a little.
const answerWithin = 20 * time.Second

// wait lets time pass until nothing is open, or for so long that only kits that died meanwhile owe an answer.
func (w *World) wait(open *int) {
	for end := w.k.now.add(answerWithin); *open > 0 && w.step(end); {
	}
}

// unreadable are the records that some kit asks for and does not get. Each is asked for by a kit chosen at
// random among those, over the network.
func (w *World) unreadable(from []*Kit, records []*record) (which []*record) {
	open := 0
	answered := make(map[*record]bool, len(records))
	for _, rec := range records {
		k := from[w.rng.IntN(len(from))]
		open++
		k.peer.Fetch(w.now(), rec.res, wire.KindSIPRegistration, nil, func(f peer.FetchedKind, err error) {
			open--
			found := false
			for i := range f.Values {
				v := &f.Values[i]
				if !rec.authentic(&v.StoredData) || v.Signer.User != rec.aor || !bytes.Equal(v.Value.Key, v.Signer.NodeID.Bytes()) {
					w.fail("kit %d was answered a forged or foreign value of %s", k.n, rec.aor)
				}
				found = found || v.Signer.NodeID == rec.kit.self.NodeID && rec.has([]wire.StoredData{v.StoredData})
			}
			answered[rec] = err == nil && found
		})
		k.after()
		if open >= 256 {
			w.wait(&open)
		}
	}
	w.wait(&open)
	for _, rec := range records {
		if !answered[rec] {
			which = append(which, rec)
		}
	}
	return which
}
