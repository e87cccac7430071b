package kit

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fieldkit/board/netif"
	"fieldkit/board/store"
	"fieldkit/firmware/config"
	"fieldkit/firmware/health"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/task"
	"fieldkit/sip/proxy"
	"fieldkit/sip/registrar"
)

func TestMain(m *testing.M) {
	childKit()
	childManaged()
	goleak.VerifyTestMain(m)
}

// still is a kit of which no part runs, with a mission and a state directory.
func still(t *testing.T) *Kit {
	t.Helper()
	k := &Kit{cfg: config.Default(), log: slog.New(slog.DiscardHandler), health: health.New("kit", nil), number: 101, name: "Kit 101"}
	k.cfg.StateDir = t.TempDir()
	k.interfaces.Store(&[]netif.Interface{})
	m, err := mission.New("alpha", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	k.mission.Store(m)
	a, err := m.Authority()
	if err != nil {
		t.Fatal(err)
	}
	if k.id, err = a.NewIdentity(); err != nil {
		t.Fatal(err)
	}
	if k.store, err = store.Open(k.cfg.StateDir, store.Config{}); err != nil {
		t.Fatal(err)
	}
	return k
}

// check is one entry of the health tree as the status page has it: "state: cause", "" if there is none.
func check(k *Kit, name string) string {
	for _, c := range checks(k.health.Snapshot()) {
		if c.Name == name {
			return strings.TrimSuffix(c.State+": "+c.Cause, ": ")
		}
	}
	return ""
}

func TestHowPartsRunIsInTheHealthTree(t *testing.T) {
	k := still(t)
	broken := errors.New("no address")
	for _, c := range []struct {
		status task.Status
		want   string
	}{
		{task.Status{State: task.Starting}, "warn: starting"},
		{task.Status{State: task.Running}, "ok"},
		{task.Status{State: task.Waiting, Err: broken}, "fault: no address"},
		{task.Status{State: task.Starting, Err: broken}, "fault: starting again after: no address"},
		{task.Status{State: task.Running, Err: broken}, "ok"}, // of the run before
		{task.Status{State: task.Failed, Err: broken}, "fault: no address"},
	} {
		c.status.Name = "telephony"
		k.partChanged(c.status)
		if got := check(k, "parts/telephony"); got != c.want {
			t.Errorf("%v, %v: %q, want %q", c.status.State, c.status.Err, got, c.want)
		}
	}
}

// The worst is read first, and what only holds others is no check.
func TestChecksAreTheLeavesWorstFirst(t *testing.T) {
	tree := health.New("kit", nil)
	tree.OK("parts/page")
	tree.OK("mission")
	tree.Warn("strangers", "1 refused")
	tree.Fault("parts/telephony", "no address")
	tree.Warn("accounts", "unreadable")
	var got []string
	for _, c := range checks(tree.Snapshot()) {
		got = append(got, c.State+" "+c.Name+" "+c.Cause)
	}
	want := "fault parts/telephony no address;warn accounts unreadable;warn strangers 1 refused;ok mission ;ok parts/page "
	if strings.Join(got, ";") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, ";"), want)
	}
}

func TestBindingsSurviveARestart(t *testing.T) {
	k := still(t)
	if s := k.savedBindings(); len(s.Accounts) != 0 || check(k, "bindings") != "" {
		t.Errorf("a new kit has bindings %+v and says %q", s, check(k, "bindings"))
	}
	saved := registrar.Snapshot{Accounts: []registrar.SnapshotAccount{{
		ID: "10101", Number: "10101", Name: "anna",
		Bindings: []registrar.Binding{{Contact: "sip:10101@10.73.1.1:5060", CallID: "a", CSeq: 7}},
	}}}
	k.saveBindings(saved)
	got := k.savedBindings()
	if len(got.Accounts) != 1 || len(got.Accounts[0].Bindings) != 1 || got.Accounts[0].Number != "10101" {
		t.Fatalf("saved %+v, got %+v", saved, got)
	}
	if b := got.Accounts[0].Bindings[0]; b.Contact != saved.Accounts[0].Bindings[0].Contact || b.CallID != "a" || b.CSeq != 7 {
		t.Errorf("saved %+v, got %+v", saved.Accounts[0].Bindings[0], b)
	}
	if got := check(k, "bindings"); got != "ok" {
		t.Errorf("health says %q", got)
	}
}

// A file that power loss left in pieces costs the bindings, not the kit.
func TestDamagedBindingsAreReported(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(*testing.T, *Kit)
	}{
		{"both copies", func(t *testing.T, k *Kit) {
			k.saveBindings(registrar.Snapshot{})
			k.saveBindings(registrar.Snapshot{})
			files, err := filepath.Glob(filepath.Join(k.cfg.StateDir, bindingsItem+"*"))
			if err != nil || len(files) == 0 {
				t.Fatalf("%v, %v", files, err)
			}
			for _, f := range files {
				if err := os.WriteFile(f, []byte("garbage"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"what is in it", func(t *testing.T, k *Kit) {
			if err := k.store.Save(bindingsItem, []byte(`{"accounts":7}`)); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := still(t)
			c.damage(t, k)
			if s := k.savedBindings(); len(s.Accounts) != 0 {
				t.Errorf("got %+v", s)
			}
			if got := check(k, "bindings"); !strings.HasPrefix(got, "warn: handsets have to register again") {
				t.Errorf("health says %q", got)
			}
			k.saveBindings(registrar.Snapshot{})
			if got := check(k, "bindings"); got != "ok" {
				t.Errorf("after the next save health says %q", got)
			}
		})
	}
}

func TestBindingsThatCannotBeSavedAreAFault(t *testing.T) {
	k := still(t)
	if err := os.RemoveAll(k.cfg.StateDir); err != nil {
		t.Fatal(err)
	}
	k.saveBindings(registrar.Snapshot{})
	if got := check(k, "bindings"); !strings.HasPrefix(got, "fault: not saved") {
		t.Errorf("health says %q", got)
	}
}

func TestStorageTimeSurvivesARestart(t *testing.T) {
	k := still(t)
	s := storageTimes{k.store}
	if ms, err := s.LoadStorageTime(); ms != 0 || err != nil {
		t.Errorf("a new kit has %d, %v", ms, err)
	}
	const last = 1<<53 + 1 // more than a float64 carries
	if err := s.SaveStorageTime(last); err != nil {
		t.Fatal(err)
	}
	if ms, err := s.LoadStorageTime(); ms != last || err != nil {
		t.Errorf("got %d, %v, want %d", ms, err, uint64(last))
	}
	if err := k.store.Save(storageTimeItem, []byte("yesterday")); err != nil {
		t.Fatal(err)
	}
	if ms, err := s.LoadStorageTime(); err == nil {
		t.Errorf("got %d of a file that says \"yesterday\"", ms)
	}
}

func TestWhoIsNotFoundIsLookedForAgain(t *testing.T) {
	found := []proxy.Target{{Kit: "02"}}
	broken := errors.New("overlay broken")
	for _, c := range []struct {
		name  string
		after int // lookups, until there is an answer
		err   error
		took  time.Duration
		times int
	}{
		{"at once", 0, nil, 0, 1},
		{"published a moment later", 3, nil, 3 * lookAgain, 4},
		{"an error is no absence", 0, broken, 0, 1},
		{"an error later", 2, broken, 2 * lookAgain, 3},
		{"never", 1 << 20, proxy.ErrNotFound, lookFor, int(lookFor/lookAgain) + 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, times := time.Now(), 0
				r, err := patiently(t.Context(), lookFor, func() ([]proxy.Target, error) {
					if times++; times <= c.after {
						return nil, proxy.ErrNotFound
					}
					if c.err != nil {
						return nil, c.err
					}
					return found, nil
				})
				if !errors.Is(err, c.err) || c.err == nil && len(r) != 1 {
					t.Errorf("got %v, %v", r, err)
				}
				if took := time.Since(began); took != c.took || times != c.times {
					t.Errorf("%d lookups in %v, want %d in %v", times, took, c.times, c.took)
				}
			})
		})
	}
}

// Who hangs up waits no longer.
func TestLookingAgainEndsWithTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), lookAgain/2)
		defer cancel()
		began := time.Now()
		_, err := patiently(ctx, lookFor, func() ([]proxy.Target, error) { return nil, proxy.ErrNotFound })
		if took := time.Since(began); !errors.Is(err, proxy.ErrNotFound) || took != lookAgain/2 {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestAccountsAreKnownByNumberAndName(t *testing.T) {
	k := still(t)
	h, err := k.mission.Load().AddHandset("Anna", 101)
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]bool{h.Number: true, "anna": true, "ANNA": true, "boris": false, "": false, h.Number + "0": false} {
		if got := k.hasAccount(user + "@" + k.mission.Load().Overlay); got != want {
			t.Errorf("%q is known: %v", user, got)
		}
	}
}

// The overlay holds what a certificate can name. The rest is nowhere else: that is no error to be tried again, and who
// dials it is told so at once, whether or not there is an overlay.
func TestNamesThatTheOverlayCannotHold(t *testing.T) {
	k := still(t)
	d := directory{k}
	for aor, held := range map[string]bool{"10101@m": true, "anna@m": true, "anna-2.b@m": true, "anna berg@m": false, "zoë@m": false, `an"na@m`: false, "100%@m": false, "a;b@m": false, "@m": false} {
		want, looked := error(nil), proxy.ErrNotFound
		if held {
			want, looked = errNotRunning, errNotRunning
		}
		if err := d.Publish(t.Context(), aor, time.Minute); !errors.Is(err, want) {
			t.Errorf("publication of %s: %v, want %v", aor, err, want)
		}
		if _, err := d.Lookup(t.Context(), aor); !errors.Is(err, looked) {
			t.Errorf("lookup of %s: %v, want %v", aor, err, looked)
		}
	}
}

func TestMissionFileIsTakenUp(t *testing.T) {
	k := still(t)
	operators := k.mission.Load()
	k.mission.Store(operators.WithoutRootKey())
	file := filepath.Join(t.TempDir(), "alpha.mission")
	if _, err := operators.AddHandset("anna", 101); err != nil {
		t.Fatal(err)
	}
	if err := operators.Save(file); err != nil {
		t.Fatal(err)
	}
	if k.hasAccount("anna@x") {
		t.Fatal("the kit has the account already")
	}
	if err := k.takeAccounts(file); err != nil {
		t.Fatal(err)
	}
	if !k.hasAccount("anna@x") {
		t.Error("the account was not taken up")
	}
	if k.mission.Load().HasRootKey() {
		t.Error("the kit holds the mission's root key")
	}
	other, err := mission.New("alpha", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Save(file); err != nil {
		t.Fatal(err)
	}
	if err := k.takeAccounts(file); err == nil || !strings.Contains(err.Error(), "restarted") || !k.hasAccount("anna@x") {
		t.Errorf("another mission's file of the same name was taken: %v", err)
	}
}

func TestWhichFileHasTheAccounts(t *testing.T) {
	k := still(t)
	own := filepath.Join(k.cfg.StateDir, mission.MissionItem)
	k.cfg.Mission = filepath.Join(t.TempDir(), "kit.mission")
	if got := k.accountsFile(); got != own {
		t.Errorf("without the operator's file it is %s", got)
	}
	if err := os.WriteFile(k.cfg.Mission, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := k.accountsFile(); got != k.cfg.Mission {
		t.Errorf("with the operator's file it is %s", got)
	}
	k.mission.Load().Founded = true
	if got := k.accountsFile(); got != own {
		t.Errorf("of a mission that the kit founded it is %s", got)
	}
}
