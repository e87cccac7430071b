package kit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/firmware/task"
	"fieldkit/overlay/ident"
)

// revocations are n missions, each with one more kit revoked than the one before.
func revocations(t *testing.T, m *mission.Mission, n int) (list []*mission.Mission) {
	t.Helper()
	a, err := m.Authority()
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		lost, err := a.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		if m, err = m.Revoke(lost.NodeID()); err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// Documents and files come from goroutines of their own, in any order: what is in force afterwards is the newest, in
// memory and on the card, so that no kit that was revoked comes back.
func TestChangesOfTheMissionDoNotUndoEachOther(t *testing.T) {
	for range 8 {
		k := still(t)
		operators := k.mission.Load()
		k.mission.Store(operators.WithoutRootKey())
		newer := revocations(t, operators, 12)
		older := filepath.Join(t.TempDir(), "alpha.mission")
		if _, err := operators.AddHandset("anna", 101); err != nil {
			t.Fatal(err)
		}
		if err := operators.Save(older); err != nil {
			t.Fatal(err)
		}
		start := make(chan struct{})
		var all sync.WaitGroup
		for _, m := range newer {
			all.Go(func() {
				<-start
				k.newDocument(m.Document())
			})
			all.Go(func() {
				<-start
				if err := k.takeAccounts(older); err != nil {
					t.Error(err)
				}
			})
		}
		close(start)
		all.Wait()
		want := newer[len(newer)-1].Document()
		if got := k.mission.Load().Document(); !got.Same(want) {
			t.Errorf("the document in force has sequence %d, want %d", got.Sequence, want.Sequence)
		}
		kept, err := mission.Load(filepath.Join(k.cfg.StateDir, mission.MissionItem))
		if err != nil {
			t.Fatal(err)
		}
		if got := kept.Document(); ident.CompareSequence(got.Sequence, want.Sequence) != 0 {
			t.Errorf("the document on the card has sequence %d, want %d", got.Sequence, want.Sequence)
		}
		if !k.hasAccount("anna@x") {
			t.Error("the account of the file was lost")
		}
		if got := check(k, "configuration"); got != "ok" {
			t.Errorf("configuration: %q, though a document that came late is nothing to mend", got)
		}
	}
}

// A file that comes while the kit runs is found, and one that was read while it was being copied is read again, though its
// time is the same when it is whole.
func TestMissionFileThatFailedIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := still(t)
		operators := k.mission.Load()
		k.mission.Store(operators.WithoutRootKey())
		k.cfg.Mission = filepath.Join(t.TempDir(), "kit.mission")
		if _, err := operators.AddHandset("anna", 101); err != nil {
			t.Fatal(err)
		}
		whole, err := operators.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-time.Hour)
		write := func(b []byte) {
			t.Helper()
			if err := errors.Join(os.WriteFile(k.cfg.Mission, b, 0o600), os.Chtimes(k.cfg.Mission, at, at)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- k.watchAccounts(ctx, func() {}) }()
		synctest.Wait() // there is no file yet
		write(whole[:len(whole)/2])
		time.Sleep(accountsPoll + time.Second)
		if got := check(k, "accounts"); !strings.HasPrefix(got, "warn: ") {
			t.Errorf("half a file: %q", got)
		}
		write(whole)
		time.Sleep(accountsPoll)
		if got := check(k, "accounts"); got != "ok" || !k.hasAccount("anna@x") {
			t.Errorf("the whole file: %q", got)
		}
		// Whoever takes the file off the card, because it has the root key, loses no account.
		if err := os.Remove(k.cfg.Mission); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * accountsPoll)
		own, err := mission.Load(k.ownFile())
		if err != nil {
			t.Fatal(err)
		}
		if len(own.Handsets) != 1 || own.HasRootKey() || !k.hasAccount("anna@x") || check(k, "accounts") != "ok" {
			t.Errorf("without the file: accounts %v, kept %d, root key %v, %q", k.mission.Load().Handsets, len(own.Handsets), own.HasRootKey(), check(k, "accounts"))
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// What panics in one of several functions ends them all with an error that the task group can show, not the process.
func TestPanicInOneOfBothIsAnError(t *testing.T) {
	others := errors.New("asked to end")
	err := both(t.Context(),
		func(context.Context) error { panic("a bug") },
		func(ctx context.Context) error { <-ctx.Done(); return others },
	)
	var p *task.PanicError
	if !errors.As(err, &p) || p.Value != "a bug" || len(p.Stack) == 0 || !errors.Is(err, others) {
		t.Errorf("got %v", err)
	}
}
