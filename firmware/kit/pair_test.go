package kit

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldkit/board"
	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/config"
	"fieldkit/firmware/erase"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/pair"
)

// someState puts an identity into the state directory of cfg, and returns its Node-ID.
func someState(t *testing.T, dir string) string {
	t.Helper()
	id, _, _, err := mission.LoadOrCreateIdentity(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return id.NodeID().String()
}

// On a card PID 1 erases, before it reads anything at the next boot: the daemon decides and asks for that.
func TestErasingOnACard(t *testing.T) {
	k := still(t)
	someState(t, k.cfg.StateDir)
	ours, theirs := net.Pipe()
	defer theirs.Close()
	go func() {
		b, _ := json.Marshal(initlink.Reply{Boot: &initlink.Boot{}})
		_, _ = theirs.Write(b)
	}()
	var err error
	if k.boot, err = initlink.New(ours, func() time.Duration { return 0 }); err != nil {
		t.Fatal(err)
	}
	defer k.boot.Close()
	ctx, end := context.WithCancelCause(t.Context())
	k.pairing.end = end
	done := make(chan struct{})
	go func() { defer close(done); k.eraseAll() }()
	b := make([]byte, initlink.MaxPacket)
	n, err := theirs.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	<-done
	var r initlink.Request
	if err := json.Unmarshal(b[:n], &r); err != nil || r.Reboot != initlink.Normal {
		t.Errorf("init is told %s, %v", b[:n], err)
	}
	if !erase.Marked(k.cfg.StateDir) || ctx.Err() != nil {
		t.Errorf("marked %v, ended %v", erase.Marked(k.cfg.StateDir), context.Cause(ctx))
	}
	if _, err := os.Stat(filepath.Join(k.cfg.StateDir, mission.KeyItem)); err != nil {
		t.Errorf("erased while the parts of the kit still run: %v", err)
	}
	// An init that does not answer any more does not keep it from being erased.
	theirs.Close()
	k.eraseAll()
	if !errors.Is(context.Cause(ctx), errErasing) {
		t.Errorf("ended by %v", context.Cause(ctx))
	}
}

func TestErasingWithoutInit(t *testing.T) {
	k := still(t)
	someState(t, k.cfg.StateDir)
	ctx, end := context.WithCancelCause(t.Context())
	k.pairing.end = end
	k.eraseAll()
	if err := k.ended(nil, context.Cause(ctx)); !errors.Is(err, ErrRestart) {
		t.Errorf("ended with %v", err)
	}
	files, err := os.ReadDir(k.cfg.StateDir)
	if err != nil || len(files) != 0 {
		t.Errorf("left %v, %v", files, err)
	}
	// What cannot be decided is told, and nothing else happens.
	k = still(t)
	k.cfg.StateDir = filepath.Join(k.cfg.StateDir, "absent")
	k.pairing.end = func(error) { t.Error("the kit ends") }
	k.eraseAll()
	if got := check(k, "erasing"); !strings.HasPrefix(got, "fault: ") {
		t.Errorf("health says %q", got)
	}
}

// Power was cut between the mark and the end of the erasing: the kit that starts next is a new one.
func TestErasingIsFinishedAtTheNextStart(t *testing.T) {
	cfg := config.Default()
	cfg.StateDir, cfg.Mission = t.TempDir(), filepath.Join(t.TempDir(), "none")
	before := someState(t, cfg.StateDir)
	if err := errors.Join(erase.Mark(cfg.StateDir), os.Remove(filepath.Join(cfg.StateDir, mission.CertificateItem))); err != nil {
		t.Fatal(err)
	}
	k, err := New(cfg, Options{Log: still(t).log, Simulated: board.NewSimulated()})
	if err != nil {
		t.Fatal(err)
	}
	if got := k.id.NodeID().String(); got == before || erase.Marked(cfg.StateDir) {
		t.Errorf("Node-ID %s, was %s; marked %v", got, before, erase.Marked(cfg.StateDir))
	}
}

// A part that did not end still has sockets and files that a kit in the same process would want.
func TestRestartNeedsAnEndOfAllParts(t *testing.T) {
	k := still(t)
	stuck := errors.New("stuck")
	for _, c := range []struct{ err, cause, want error }{
		{nil, context.Canceled, nil},
		{stuck, nil, stuck},
		{nil, ErrRestart, ErrRestart},
		{stuck, ErrRestart, stuck},
	} {
		if got := k.ended(c.err, c.cause); !errors.Is(got, c.want) || c.want == nil && got != nil || errors.Is(c.want, stuck) && errors.Is(got, ErrRestart) {
			t.Errorf("%v because of %v: %v", c.err, c.cause, got)
		}
	}
}

// Each end of a pairing says what to do, and the lights have a number for it.
func TestWhyAPairingFailedIsTold(t *testing.T) {
	k := still(t)
	for why, want := range map[pair.Why]string{
		pair.Nobody:   "hold the buttons",
		pair.Crowd:    "more than two",
		pair.Foreign:  "erase one",
		pair.Keyless:  `press "Kit 7"`,
		pair.Together: "one mission already",
		pair.Broken:   "try again",
	} {
		k.tellPairing(pair.Status{Stage: pair.Ended, Why: why, Self: pair.Facts{Founder: "Kit 7"}})
		if got := check(k, "pairing"); !strings.HasPrefix(got, "warn: not paired: ") || !strings.Contains(got, want) {
			t.Errorf("%v: %q", why, got)
		}
		if int(why) < 1 || int(why) > board.MaxSignal {
			t.Errorf("%v has no number of blinks", why)
		}
	}
	k.tellPairing(pair.Status{Stage: pair.Ended, Why: pair.Keyless, Self: pair.Facts{Alone: true}, Peer: pair.Facts{Name: "Kit 8", Founder: "Kit 7"}})
	if got := check(k, "pairing"); !strings.Contains(got, `with "Kit 8"`) || !strings.Contains(got, `this one and "Kit 7"`) {
		t.Errorf("%q", got)
	}
	k.tellPairing(pair.Status{Stage: pair.Ended, Why: pair.Paired})
	if got := check(k, "pairing"); got != "ok" {
		t.Errorf("%q", got)
	}
}
