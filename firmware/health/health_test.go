package health

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// clock is a time that the test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func newTree() (*Tree, *clock) {
	c := &clock{time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	return New("kit", c.now), c
}

// find returns the node at a path of a snapshot.
func find(t *testing.T, n Node, path string) Node {
	t.Helper()
	for name := range strings.SplitSeq(path, "/") {
		found := false
		for _, c := range n.Checks {
			if c.Name == name {
				n, found = c, true
			}
		}
		if !found {
			t.Fatalf("no check %q", path)
		}
	}
	return n
}

func TestWorstOfChildrenAndSince(t *testing.T) {
	tr, c := newTree()
	tr.OK("overlay/ring")
	tr.OK("overlay/discovery/eth0")
	c.advance(time.Minute)
	warned := c.t
	tr.Warn("overlay/discovery/eth0", "no carrier")
	c.advance(time.Minute)
	faulted := c.t
	tr.Fault("overlay/ring", "no successor")
	c.advance(time.Minute)
	tr.Fault("overlay/ring", "still no successor")

	s := tr.Snapshot()
	for _, tc := range []struct {
		path  string
		state State
		cause string
		since time.Time
	}{
		{"overlay", Fault, "", faulted},
		{"overlay/ring", Fault, "still no successor", faulted}, // a new cause is no new state
		{"overlay/discovery", Warn, "", warned},
		{"overlay/discovery/eth0", Warn, "no carrier", warned},
	} {
		n := find(t, s, tc.path)
		if n.State != tc.state || n.Cause != tc.cause || !n.Since.Equal(tc.since) {
			t.Errorf("%s: %+v, want %v %q since %v", tc.path, n, tc.state, tc.cause, tc.since)
		}
	}
	if tr.State() != Fault || s.State != Fault || s.Seconds != 60 {
		t.Errorf("root: %v for %v s", s.State, s.Seconds)
	}

	tr.OK("overlay/ring")
	if got := tr.State(); got != Warn {
		t.Errorf("after the repair the tree is %v, want the remaining warning", got)
	}
	tr.Remove("overlay/discovery")
	if got := tr.State(); got != OK {
		t.Errorf("after removal of the last problem the tree is %v", got)
	}
}

func TestProblemsWorstThenOldest(t *testing.T) {
	tr, c := newTree()
	tr.Warn("b", "warned first")
	c.advance(time.Second)
	tr.Warn("a", "warned later")
	c.advance(time.Second)
	tr.Fault("z/y", "broken")
	tr.OK("fine")
	var got []string
	for _, p := range tr.Problems() {
		got = append(got, fmt.Sprint(p.Path, " ", p.State, " ", p.Seconds))
	}
	want := "z/y fault 0, b warn 2, a warn 1"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
}

// A problem of a node is as old as the node's own state, even when something
// below made the node bad earlier.
func TestProblemAgeIsItsOwn(t *testing.T) {
	tr, c := newTree()
	tr.Fault("a/b", "child")
	c.advance(time.Minute)
	tr.Warn("a", "parent")
	for _, p := range tr.Problems() {
		if p.Path == "a" && p.Seconds != 0 {
			t.Errorf("parent's warning is %v s old, want 0", p.Seconds)
		}
	}
}

func TestBounds(t *testing.T) {
	tr, _ := newTree()
	for i := range MaxChecks {
		if err := tr.Set(fmt.Sprint("n", i), Warn, "x"); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := tr.Set("one-more", Fault, "x"); !errors.Is(err, ErrFull) {
		t.Errorf("check beyond the limit: %v", err)
	}
	if err := tr.Set("n0/below", Fault, "x"); !errors.Is(err, ErrFull) {
		t.Errorf("child beyond the limit: %v", err)
	}
	if err := tr.Set("n0", OK, ""); err != nil {
		t.Errorf("known check of a full tree: %v", err)
	}
	tr.Remove("n1")
	if err := tr.Set("one-more", OK, ""); err != nil {
		t.Errorf("no room after a removal: %v", err)
	}
	for _, p := range []string{"", "/", "a//b", "a/b/c/d/e/f/g", strings.Repeat("x", MaxName+1), "\xff"} {
		if err := tr.Set(p, OK, ""); !errors.Is(err, ErrPath) {
			t.Errorf("path %q: %v", p, err)
		}
	}
	if err := tr.Set("n0", Fault+1, ""); err == nil {
		t.Error("state beyond fault accepted")
	}
	if got := tr.Refused(); got != 9 {
		t.Errorf("%d refusals counted, want 9", got)
	}
	long := strings.Repeat("ü", MaxCause)
	tr.Warn("n0", "x"+long)
	if c := find(t, tr.Snapshot(), "n0").Cause; len(c) > MaxCause || !strings.HasSuffix(c, "ü") {
		t.Errorf("cause of %d bytes kept, or cut inside a character", len(c))
	}
}

func TestSubscribersNeverHoldTheTree(t *testing.T) {
	tr, _ := newTree()
	ch, cancel := tr.Subscribe()
	for i := range 100 {
		tr.Warn("x", fmt.Sprint(i)) // nobody reads
	}
	<-ch
	select {
	case <-ch:
		t.Error("changes did not fold into one")
	default:
	}
	tr.Warn("x", "99")
	select {
	case <-ch:
		t.Error("notified though nothing changed")
	default:
	}
	cancel()
	tr.OK("x")
	select {
	case <-ch:
		t.Error("notified after the end of the subscription")
	default:
	}
}

func TestJSON(t *testing.T) {
	tr, _ := newTree()
	tr.Fault("sip", "port 5060 taken")
	b, err := json.Marshal(tr.Snapshot())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"kit","state":"fault","since":"2026-01-01T00:00:00Z","seconds":0,` +
		`"checks":[{"name":"sip","state":"fault","cause":"port 5060 taken","since":"2026-01-01T00:00:00Z","seconds":0}]}`
	if string(b) != want {
		t.Errorf("got %s", b)
	}
	var n Node
	if err := json.Unmarshal(b, &n); err != nil || n.Checks[0].State != Fault {
		t.Errorf("read back: %+v, %v", n, err)
	}
	var s State
	if err := s.UnmarshalText([]byte("fine")); err == nil {
		t.Error("unknown state read")
	}
}

// The tree against an obviously correct slow version: a map of what was set.
func TestAgainstMap(t *testing.T) {
	tr, c := newTree()
	set := map[string]State{}
	rng := rand.New(rand.NewPCG(1, 2))
	paths := []string{"a", "a/b", "a/b/c", "a/d", "e", "e/f", "g/h/i"}
	for range 5000 {
		c.advance(time.Second)
		p := paths[rng.IntN(len(paths))]
		if rng.IntN(10) == 0 {
			tr.Remove(p)
			for q := range set {
				if q == p || strings.HasPrefix(q, p+"/") {
					delete(set, q)
				}
			}
		} else {
			s := State(rng.IntN(3))
			_ = tr.Set(p, s, "x")
			set[p] = s
		}
		worst, problems := OK, 0
		for _, s := range set {
			worst = max(worst, s)
			if s != OK {
				problems++
			}
		}
		if tr.State() != worst || len(tr.Problems()) != problems {
			t.Fatalf("tree %v with %d problems, want %v with %d", tr.State(), len(tr.Problems()), worst, problems)
		}
	}
}
