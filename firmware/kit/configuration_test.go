package kit

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldkit/board/store"
	"fieldkit/firmware/config"
	"fieldkit/firmware/health"
	"fieldkit/firmware/mission"
	"fieldkit/overlay/discovery"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Two stewards revoked different kits, from the same document (docs/adr/0019): each kit ends with the same one, whichever
// comes first, and says that there were two until somebody signs the next.
func TestTwoStewards(t *testing.T) {
	for _, first := range []int{0, 1} {
		k := still(t)
		operators := k.mission.Load()
		k.mission.Store(operators.WithoutRootKey())
		two := []*mission.Mission{revocations(t, operators, 1)[0], revocations(t, operators, 1)[0]}
		winner := two[0]
		if ident.Supersedes(two[0].Document(), two[1].Document()) {
			winner = two[1]
		}
		k.newDocument(two[first].Document())
		if got := check(k, "stewards"); got != "" {
			t.Errorf("after one document: %q", got)
		}
		k.newDocument(two[1-first].Document())
		if got := k.mission.Load().Document(); !got.Same(winner.Document()) {
			t.Errorf("first %d: the kit goes by the document that is superseded", first)
		}
		if got := check(k, "stewards"); !strings.HasPrefix(got, "warn: there are two configurations of sequence 2") {
			t.Errorf("stewards: %q", got)
		}
		kept, err := mission.Load(k.ownFile())
		if err != nil || !kept.Document().Same(winner.Document()) {
			t.Errorf("not kept: %v", err)
		}
		merged, err := two[0].Merge(two[1].Document())
		if err != nil {
			t.Fatal(err)
		}
		k.newDocument(merged.Document())
		if d := k.mission.Load().Document(); !d.Same(merged.Document()) || len(d.BadNodes) != 2 {
			t.Errorf("sequence %d, revoked %d", d.Sequence, len(d.BadNodes))
		}
		if got := check(k, "stewards"); got != "" {
			t.Errorf("after the merge: %q", got)
		}
	}
}

// Who announces another document of the same sequence is offered this kit's, and nobody else.
func TestRivals(t *testing.T) {
	k := still(t)
	rival := nodeID(t, "02")
	for _, c := range []struct {
		id   wire.NodeID
		edit func(*discovery.Text)
	}{
		{rival, func(x *discovery.Text) { x.DocumentHash = "0011223344556677" }},
		{nodeID(t, "03"), func(*discovery.Text) {}},
		{nodeID(t, "04"), func(x *discovery.Text) { x.DocumentHash, x.Sequence = "0011223344556677", 9 }},
		{nodeID(t, "05"), func(x *discovery.Text) { x.DocumentHash, x.Overlay = "0011223344556677", "00000000" }},
		{nodeID(t, "06"), func(x *discovery.Text) { x.DocumentHash = "" }},
	} {
		e := announcedBy(k, c.id, "eth0", "169.254.60.2:6084", 102)
		c.edit(&e.Peer.Text)
		k.discovered(e)
	}
	if got := k.rivals(k.mission.Load().Document()); len(got) != 1 || got[0] != rival {
		t.Errorf("%v", got)
	}
}

// RFC 6940 §11.1: bootstrap-node is "the address of one of the bootstrap nodes"; this kit may be one of them.
func TestBootstrapNodes(t *testing.T) {
	k := still(t)
	k.cfg.Link.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	k.cfg.Link.Neighbours = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.9:6084")}
	d := *k.mission.Load().Document()
	d.Rest.BootstrapNodes = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6084"), netip.MustParseAddrPort("192.0.2.1:7000"), netip.MustParseAddrPort("192.0.2.2:6084")}
	got := k.bootstrapNodes(&d)
	want := []string{"192.0.2.9:6084", "192.0.2.1:7000", "192.0.2.2:6084"}
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for i := range want {
		if got[i].String() != want[i] {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// Who revoked the wrong kit, or wiped a lost one and gave it the file again, sees at that kit why it stays alone.
func TestARevokedKitSaysSo(t *testing.T) {
	k := still(t)
	k.checkMembership()
	if got := check(k, "mission"); got != "ok" {
		t.Errorf("a member: %q", got)
	}
	m := k.mission.Load()
	other, err := ident.RandomNodeID(k.id.NodeID().Len())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		id   wire.NodeID
		want string
	}{{other, "ok"}, {k.id.NodeID(), "fault: this kit was revoked: no other kit links with it"}} {
		if m, err = m.Revoke(c.id); err != nil {
			t.Fatal(err)
		}
		k.newDocument(m.Document())
		if got := check(k, "mission"); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	k.health = health.New("kit", nil)
	k.checkMembership() // as after a restart
	if got := check(k, "mission"); !strings.HasPrefix(got, "fault") {
		t.Errorf("after a restart: %q", got)
	}
}

// successor is a signed document that follows m's, as edit changes it.
func successor(t *testing.T, m *mission.Mission, steps int, edit func(*ident.Document)) *ident.Document {
	t.Helper()
	a, err := m.Authority()
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Signer()
	if err != nil {
		t.Fatal(err)
	}
	d := *m.Document()
	for range steps {
		d.Sequence = ident.NextSequence(d.Sequence)
	}
	edit(&d)
	signed, err := d.Sign(s)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

const unknownExtension = "urn:example:later"

func needsMore(d *ident.Document) { d.Rest.MandatoryExtensions = []string{unknownExtension} }

// RFC 6940 §11.1: "If a node is not capable of supporting the new requirements, it MUST exit the overlay." It does, says
// which element it is that it cannot support, and comes back with a document that it can.
func TestKitLeavesAnOverlayThatAsksForMore(t *testing.T) {
	k := still(t)
	k.cfg.Link.Port, k.cfg.Link.Addresses = 0, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	k.overlay.renew = make(chan struct{}, 1)
	// Without ICE there is no relay, whose port is always the same.
	operators, err := mission.New("alpha", mission.Options{Links: mission.Directly})
	if err != nil {
		t.Fatal(err)
	}
	a, err := operators.Authority()
	if err != nil {
		t.Fatal(err)
	}
	if k.id, err = a.NewIdentity(); err != nil {
		t.Fatal(err)
	}
	k.mission.Store(operators.WithoutRootKey())
	ctx, cancel := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan struct{}, 8)
	go func() { ended <- k.overlay.run(k)(ctx, func() { ready <- struct{}{} }) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	wait := func(what string) {
		t.Helper()
		select {
		case <-ready:
		case <-time.After(20 * time.Second):
			t.Fatalf("not ready: %s", what)
		}
	}
	wait("a member")
	if k.overlay.node.Load() == nil {
		t.Fatal("no member")
	}
	more := successor(t, operators, 1, needsMore)
	k.newDocument(more)
	wait("outside")
	if k.overlay.node.Load() != nil || k.overlay.links.Load() != nil {
		t.Error("the kit takes part in an overlay whose rules it cannot keep")
	}
	if got := check(k, "configuration"); !strings.HasPrefix(got, "fault: ") || !strings.Contains(got, `mandatory-extension "`+unknownExtension+`"`) {
		t.Errorf("configuration: %q", got)
	}
	if k.mission.Load().Document().Sequence != operators.Document().Sequence {
		t.Error("it goes by what it cannot support")
	}
	// One that is not newer than that does not let it back in, one that is does.
	k.newDocument(successor(t, operators, 1, func(*ident.Document) {}))
	k.newDocument(successor(t, operators, 2, func(*ident.Document) {}))
	wait("a member again")
	if k.overlay.node.Load() == nil {
		t.Error("the kit did not come back")
	}
	if got := check(k, "configuration"); got != "ok" {
		t.Errorf("configuration: %q", got)
	}
	if _, err := k.store.Load(unsupportedItem); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("still kept: %v", err)
	}
}

// Who has no configuration-signer's key throws nobody out.
func TestKitIgnoresDemandsThatNobodySigned(t *testing.T) {
	k := still(t)
	other, err := mission.New("alpha", mission.Options{Overlay: k.mission.Load().Overlay})
	if err != nil {
		t.Fatal(err)
	}
	k.newDocument(successor(t, other, 1, needsMore))
	if k.overlay.left.Load() != nil {
		t.Error("a stranger's document made the kit leave")
	}
	if got := check(k, "configuration"); !strings.HasPrefix(got, "warn: ") {
		t.Errorf("configuration: %q", got)
	}
}

// A restart lets nobody back in. What the kit left for is asked again, as its program may be another one by then.
func TestKitStaysOutsideAfterARestart(t *testing.T) {
	operators, err := mission.New("alpha", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.StateDir, cfg.Mission = t.TempDir(), filepath.Join(t.TempDir(), "kit.mission")
	if err := operators.Save(cfg.Mission); err != nil {
		t.Fatal(err)
	}
	start := func() *Kit {
		t.Helper()
		k, err := New(cfg, Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	k := start()
	k.newDocument(successor(t, operators, 1, needsMore))
	if k = start(); k.overlay.left.Load() == nil || !strings.HasPrefix(check(k, "configuration"), "fault: ") {
		t.Errorf("configuration: %q", check(k, "configuration"))
	}
	// As if this program could support it.
	if err := k.store.Save(unsupportedItem, successor(t, operators, 1, func(*ident.Document) {}).Raw()); err != nil {
		t.Fatal(err)
	}
	if k = start(); k.overlay.left.Load() != nil || k.mission.Load().Document().Sequence != 2 || check(k, "configuration") != "ok" {
		t.Errorf("sequence %d, configuration: %q", k.mission.Load().Document().Sequence, check(k, "configuration"))
	}
	if _, err := k.store.Load(unsupportedItem); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("still kept: %v", err)
	}
}

// Anybody on the link can announce anything: that alone is told as what somebody announces, and never takes the place of
// what was signed.
func TestAnnouncedRivalIsNoFinding(t *testing.T) {
	k := still(t)
	rival := nodeID(t, "02")
	e := announcedBy(k, rival, "eth0", "169.254.60.2:6084", 102)
	e.Peer.DocumentHash = "0011223344556677"
	k.discovered(e)
	own := k.mission.Load().Document()
	announced := "warn: announced by " + rival.String() + ", and not shown to this kit: another configuration of sequence 1"
	if k.tellRivals(k.rivals(own), own.Sequence); !strings.HasPrefix(check(k, "stewards"), announced) {
		t.Errorf("stewards: %q, want %q", check(k, "stewards"), announced)
	}
	k.twoStewards(own.Sequence)
	if k.tellRivals(k.rivals(own), own.Sequence); !strings.HasPrefix(check(k, "stewards"), "warn: there are two configurations") {
		t.Errorf("stewards: %q, though a signed one was seen", check(k, "stewards"))
	}
	next := revocations(t, k.mission.Load(), 1)[0]
	k.newDocument(next.Document())
	if got := check(k, "stewards"); got != "" {
		t.Errorf("with the next sequence: %q", got)
	}
	if k.tellRivals([]wire.NodeID{rival}, 1); !strings.HasPrefix(check(k, "stewards"), announced) {
		t.Errorf("stewards: %q, want %q", check(k, "stewards"), announced)
	}
}

// A kit that was given another mission since has left nothing.
func TestKitForgetsWhatAnotherMissionAskedFor(t *testing.T) {
	k := still(t)
	other, err := mission.New("beta", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.store.Save(unsupportedItem, successor(t, other, 1, needsMore).Raw()); err != nil {
		t.Fatal(err)
	}
	k.stayOutside()
	if _, err := k.store.Load(unsupportedItem); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("still kept: %v", err)
	}
	if k.overlay.left.Load() != nil || check(k, "configuration") != "" || check(k, "stewards") != "" {
		t.Errorf("configuration: %q, stewards: %q", check(k, "configuration"), check(k, "stewards"))
	}
}
