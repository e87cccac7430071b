package sim

import (
	"bytes"
	"fmt"
	"slices"

	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// forgery is one thing that a kit with a valid certificate tries to have stored.
type forgery struct {
	what  string
	alter func(liar *Kit, victim *record, v *wire.StoredData) error
}

// forgeries are made of a genuine value of the victim, v.
var forgeries = []forgery{
	{"a value changed after it was signed", func(_ *Kit, _ *record, v *wire.StoredData) error {
		v.Value.Value = bytes.Clone(v.Value.Value)
		v.Value.Value[len(v.Value.Value)-1] ^= 1
		v.StorageTime++
		return nil
	}},
	{"a value made younger after it was signed", func(_ *Kit, _ *record, v *wire.StoredData) error {
		v.StorageTime += 1000
		return nil
	}},
	{"the victim's value signed by another", func(liar *Kit, victim *record, v *wire.StoredData) error {
		v.StorageTime++
		return liar.ident.crypto.SignStored(victim.res, wire.KindSIPRegistration, v, nil)
	}},
	{"a value under the name of the victim's handset", func(liar *Kit, victim *record, v *wire.StoredData) error {
		v.StorageTime++
		v.Value.Key = liar.self.NodeID.Bytes()
		return liar.ident.crypto.SignStored(victim.res, wire.KindSIPRegistration, v, nil)
	}},
	{"the victim's value removed", func(liar *Kit, victim *record, v *wire.StoredData) error {
		v.StorageTime++
		v.Value.DataValue = wire.DataValue{}
		return liar.ident.crypto.SignStored(victim.res, wire.KindSIPRegistration, v, nil)
	}},
}

// neverForged is the rule that no forged or foreign value is accepted: a kit of the mission tries, at the owner and
// at the replicas, as an original store and as a replica.
func (x *run) neverForged() {
	alive := x.living()
	if len(alive) < 2 {
		return
	}
	r := newRing(alive)
	liar := alive[x.rng.IntN(len(alive))]
	victims := slices.DeleteFunc(slices.Clone(x.records), func(r *record) bool {
		return r.kit == liar || !r.kit.alive || r.written == 0 || len(x.byAOR[r.aor]) > 1
	})
	open, tried, accepted := 0, 0, 0
	for _, victim := range sample(x.World, victims, 5) {
		owner := r.holders(victim.res)[0]
		owner.genuine(victim, func(v wire.StoredData, certs []wire.Certificate) {
			for _, f := range forgeries {
				for replica := range uint8(3) {
					forged := v
					if err := f.alter(liar, victim, &forged); err != nil {
						x.fail("%s: %v", f.what, err)
						continue
					}
					dests := []wire.Destination{wire.ToResource(victim.res)}
					for _, h := range r.holders(victim.res) {
						dests = append(dests, wire.ToNode(h.self.NodeID))
					}
					for _, d := range dests {
						open++
						tried++
						liar.store(d, replica, victim.res, forged, certs, func(err error) {
							open--
							if err == nil {
								accepted++
								x.fail("accepted as replica %d at %s: %s", replica, owner.self.NodeID, f.what)
							}
						})
					}
				}
			}
		})
		x.Run(20e9)
	}
	x.wait(&open)
	x.figure("forged values offered", float64(tried), "")
	x.figure("forged values accepted", float64(accepted), "")
	for _, rec := range sample(x.World, victims, 50) {
		x.checkCopies(r, []*record{rec})
	}
}

// store sends one StoreReq as it is.
func (k *Kit) store(d wire.Destination, replica uint8, res wire.ResourceID, v wire.StoredData, certs []wire.Certificate, done func(error)) {
	q := wire.StoreRequest{Resource: res, Replica: replica, Kinds: []wire.StoreKindData{{Kind: wire.KindSIPRegistration, Generation: uint64(min(replica, 1)), Values: []wire.StoredData{v}}}}
	body, err := q.AppendBinary(nil)
	if err != nil {
		done(fmt.Errorf("store request: %w", err))
		return
	}
	k.peer.Request(k.w.now(), peer.Outgoing{Dest: []wire.Destination{d}, Code: wire.StoreReq, Body: body, Certificates: certs}, func(r peer.Reply) { done(r.Err) })
	k.after()
}

// genuine fetches a kit's own copy of a record, with the certificates that show it.
func (k *Kit) genuine(r *record, done func(wire.StoredData, []wire.Certificate)) {
	k.holds(r.res, func(values []wire.StoredData, certs []wire.Certificate) {
		for _, v := range values {
			if bytes.Equal(v.Value.Key, r.kit.self.NodeID.Bytes()) && v.Value.Exists {
				done(v, certs)
				return
			}
		}
	})
}
