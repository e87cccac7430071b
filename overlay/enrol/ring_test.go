package enrol

import (
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/node"
	"fieldkit/overlay/node/nodetest"
	"fieldkit/overlay/wire"
)

// Kits that came by their Node-IDs in every way that a document can permit are one ring and believe what the others
// store: enrolled at a server, issued by the root for the hash of the key, and self-signed.
func TestRingOfAllKindsOfIdentity(t *testing.T) {
	w := newWorld(t)
	w.sign(func(d *config.Document) { d.SelfSigned, d.Rest.Digest = true, config.SHA1 })
	m := &nodetest.Mission{Authority: w.root, Document: w.doc}
	names := []string{"enrolled", "issued", "self-signed"}
	kits := make([]*nodetest.Kit, len(names))
	for i := range kits {
		kits[i] = must(m.NewKit(i + 1))
	}
	kits[0].Identity = must(w.enrol("kit-7", nil))
	kits[2].Identity = must(ident.SelfSigned(w.doc, must(ident.NewKey()), "", 1))

	synctest.Test(t, func(t *testing.T) {
		net := nodetest.New(7, nodetest.Conditions{Delay: time.Millisecond})
		defer func() {
			for _, k := range kits {
				if err := k.Stop(); err != nil {
					t.Error(err)
				}
			}
			time.Sleep(time.Minute)
			net.Close()
		}()
		for i, k := range kits {
			if err := m.Start(net, k, func(c *node.Config) { c.Seed = uint64(i) }); err != nil {
				t.Fatal(err)
			}
		}
		net.Meet(kits...)
		if took, err := nodetest.WaitRing(time.Minute, kits...); err != nil {
			t.Fatalf("no ring after %v: %v", took, err)
		}
		for i, k := range kits {
			aor := "1000" + string(rune('1'+i)) + "@" + overlay
			phone := must(k.Identity.SignerFor(aor))
			res := k.Node.ResourceID(aor)
			if _, err := k.Node.Store(t.Context(), res, wire.KindSIPRegistration, time.Hour, phone, node.Value{Key: k.ID().Bytes(), Data: []byte(names[i])}); err != nil {
				t.Errorf("%s stores: %v", names[i], err)
				continue
			}
			for j, other := range kits {
				f, err := other.Node.Fetch(t.Context(), res, wire.KindSIPRegistration)
				if err != nil || len(f.Values) != 1 || f.Discarded != 0 || f.Values[0].Signer.User != aor || f.Values[0].Signer.NodeID != k.ID() {
					t.Errorf("%s fetches of %s: %+v, %v", names[j], names[i], f, err)
				}
			}
		}
	})
}
