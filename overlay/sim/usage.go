package sim

import (
	"encoding/binary"
	"fmt"
	"time"

	"fieldkit/overlay/peer"
	"fieldkit/overlay/wire"
)

// What overlay/sipusage does with a kit's registrations, of handsets that register for the registrar's ten minutes.
const (
	registrationLife = 10 * time.Minute
	refreshAfter     = registrationLife * 2 / 3
	refreshSpread    = registrationLife / 30
	refreshAtMost    = refreshAfter + refreshSpread + time.Minute // until what was stored last is stored again
	storeRetryMin    = 2 * time.Second
	storeRetryMax    = time.Minute
	storeSpread      = 3 * time.Second
	storeSpreadEach  = 50 * time.Millisecond
)

// record is one registration of one handset, by the kit that serves it.
type record struct {
	kit     *Kit
	aor     string
	res     wire.ResourceID
	version uint32
	written instant // when this version was first acknowledged; 0: not yet
	until   instant // when what is stored expires
	tries   int
	timer   uint64 // grows with each appointment: only the last counts
	storing *peer.Call
}

// usage is what stands for overlay/sipusage in a kit: it stores the registrations, keeps them from expiring, and
// stores them again when the neighbours have changed and settled (peer.Settled).
type usage struct {
	records []*record
	settled uint64
}

// value is what is stored: a registration as RFC 7904 §3.1 has it, the version in its contact preferences.
func (r *record) value(version uint32) []byte {
	b, err := wire.SIPRegistration{
		Type:         wire.SIPRegistrationRoute,
		ContactPrefs: binary.BigEndian.AppendUint32([]byte("(sip.version="), version),
		Destinations: []wire.Destination{wire.ToNode(r.kit.self.NodeID)},
	}.AppendBinary(nil)
	if err != nil { // its parts are of fixed sizes
		panic(err)
	}
	return b
}

// register gives a kit one more registration to keep stored.
func (k *Kit) register(aor string) *record {
	r := &record{kit: k, aor: aor, res: wire.ResourceIDFor([]byte(aor), wire.MinNodeIDLen), version: 1}
	k.usage.records = append(k.usage.records, r)
	k.w.records = append(k.w.records, r)
	k.w.byAOR[aor] = append(k.w.byAOR[aor], r)
	r.storeAt(k.w.k.now.add(k.w.spread(storeSpread)))
	return r
}

// handset is the n-th address of record of the simulated mission.
func handset(n int) string { return fmt.Sprintf("%05d@%s", 10_000+n, overlayName) }

// change makes a new version, as when a handset registers anew.
func (r *record) change() {
	r.version++
	r.written = 0
	if r.storing != nil {
		r.storing.Cancel()
		r.storing = nil
	}
	r.storeAt(r.kit.w.k.now)
}

// begin is the start of the kit: what it had registered is stored again.
func (u *usage) begin(k *Kit) {
	u.settled = 0
	for _, r := range u.records {
		r.storing, r.tries = nil, 0
		r.storeAt(k.w.k.now.add(k.w.spread(storeSpread)))
	}
}

// look is asked after every event of the kit.
func (u *usage) look(k *Kit) {
	s := k.peer.Settled()
	if s == u.settled {
		return
	}
	u.settled = s
	spread := storeSpread + time.Duration(len(u.records))*storeSpreadEach
	for _, r := range u.records {
		r.storeAt(k.w.k.now.add(k.w.spread(spread)))
	}
}

// storeAt makes an appointment in place of the last one.
func (r *record) storeAt(t instant) {
	k := r.kit
	r.timer++
	timer, life := r.timer, k.life
	k.w.k.at(t, func() {
		if k.alive && k.life == life && r.timer == timer && r.storing == nil {
			r.store()
		}
	})
}

func (r *record) store() {
	k, w := r.kit, r.kit.w
	signer, err := k.ident.signerFor(r.aor)
	if err != nil {
		w.fail("signer of %s: %v", r.aor, err)
		return
	}
	v, version, life, timer := r.value(r.version), r.version, k.life, r.timer
	r.storing = k.peer.Store(w.now(), r.res, wire.KindSIPRegistration, registrationLife, signer,
		[]peer.Value{{Key: k.self.NodeID.Bytes(), Data: v}}, func(_ peer.Stored, err error) {
			if k.life != life {
				return
			}
			r.storing = nil
			if err != nil {
				w.count.StoresFailed++
				wait := min(storeRetryMin<<min(r.tries, 8), storeRetryMax)
				r.tries++
				r.storeAt(w.k.now.add(wait + w.spread(wait/2)))
				return
			}
			w.count.Stores++
			r.tries = 0
			r.until = w.k.now.add(registrationLife)
			if version == r.version && r.written == 0 {
				r.written = max(w.k.now, 1)
			}
			if r.timer != timer || version != r.version { // asked for again meanwhile
				r.storeAt(w.k.now)
				return
			}
			r.storeAt(w.k.now.add(refreshAfter + w.spread(refreshSpread)))
		})
	k.after()
}
