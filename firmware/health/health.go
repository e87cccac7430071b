// Package health keeps what is wrong with a kit: a tree of checks, each ok, in
// warning or in fault, with a cause in words and the time it entered that
// state. An inner node is as bad as the worst below it. The tree drives the
// LEDs, the status page and the decision whether an update stays.
//
// It decides nothing and knows no part of the kit: whoever runs a part sets
// its check. A Tree may be used by any number of goroutines; no call blocks.
package health

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Bounds of a Tree.
const (
	MaxChecks = 512 // nodes, inner ones included
	MaxDepth  = 6   // elements of a path
	MaxName   = 64  // bytes of one element of a path
	MaxCause  = 256 // bytes of a cause; longer ones are cut
)

// Errors of Set.
var (
	ErrFull = errors.New("health tree full")
	ErrPath = errors.New("health check path not usable")
)

// State says how a check stands. Worse is larger.
type State int

// The states of a check.
const (
	OK    State = iota
	Warn        // works, somebody should know
	Fault       // does not work
)

var stateNames = [...]string{"ok", "warn", "fault"}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("state %d", int(s))
	}
	return stateNames[s]
}

// MarshalText makes a State readable in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *State) UnmarshalText(b []byte) error {
	i := slices.Index(stateNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("health state %q unknown", b)
	}
	*s = State(i)
	return nil
}

// Node is one check in a Snapshot, with the checks below it.
type Node struct {
	Name    string    `json:"name"`
	State   State     `json:"state"` // the worst of its own and of those below
	Cause   string    `json:"cause,omitempty"`
	Since   time.Time `json:"since"`   // when it entered State, by a clock nobody trusts
	Seconds float64   `json:"seconds"` // how long ago that was, by the monotonic clock
	Checks  []Node    `json:"checks,omitempty"`
}

// Problem is one check that is not ok by its own cause.
type Problem struct {
	Path    string    `json:"path"`
	State   State     `json:"state"`
	Cause   string    `json:"cause"`
	Since   time.Time `json:"since"`
	Seconds float64   `json:"seconds"`
}

// node is a check of the tree. own is what was set, state the worst including
// what is below.
type node struct {
	name       string
	parent     *node
	children   map[string]*node
	own, state State
	cause      string
	ownSince   time.Time // when own was entered
	since      time.Time // when state was entered
}

// Tree holds the checks. Make it with New.
type Tree struct {
	now func() time.Time

	mu      sync.Mutex
	root    *node
	size    int
	refused uint64
	subs    map[chan struct{}]struct{}
}

// New makes a Tree whose root is called name. now is the clock; nil is
// time.Now.
func New(name string, now func() time.Time) *Tree {
	if now == nil {
		now = time.Now
	}
	t := now()
	return &Tree{
		now:  now,
		root: &node{name: name, ownSince: t, since: t},
		subs: map[chan struct{}]struct{}{},
	}
}

// Set says how the check at path (elements parted by "/") stands and why. The
// check is made if it is new. The time a check entered its state stays when
// only the cause changes. ErrPath and ErrFull leave the tree as it was; refused
// checks are counted.
func (t *Tree) Set(path string, s State, cause string) error {
	names, err := split(path)
	if err == nil && (s < OK || s > Fault) {
		err = fmt.Errorf("%s: %w", s, ErrPath)
	}
	cause = cut(cause)
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		err = t.room(names)
	}
	if err != nil {
		t.refused++
		return err
	}
	now := t.now()
	n := t.root
	for _, name := range names {
		c := n.children[name]
		if c == nil {
			c = &node{name: name, parent: n, ownSince: now, since: now}
			if n.children == nil {
				n.children = map[string]*node{}
			}
			n.children[name] = c
			t.size++
		}
		n = c
	}
	changed := n.own != s || n.cause != cause
	if n.own != s {
		n.own, n.ownSince = s, now
	}
	n.cause = cause
	t.raise(n, now)
	if changed {
		t.notify()
	}
	return nil
}

// room says whether the nodes of a path fit.
func (t *Tree) room(names []string) error {
	n, missing := t.root, 0
	for _, name := range names {
		if n = childOf(n, name); n == nil {
			missing++
		}
	}
	if missing > 0 && t.size+missing > MaxChecks {
		return ErrFull
	}
	return nil
}

func childOf(n *node, name string) *node {
	if n == nil {
		return nil
	}
	return n.children[name]
}

// OK sets the check at path to ok. Errors of Set are counted only, which is
// what callers with constant paths want.
func (t *Tree) OK(path string) { _ = t.Set(path, OK, "") }

// Warn sets the check at path to warning.
func (t *Tree) Warn(path, cause string) { _ = t.Set(path, Warn, cause) }

// Fault sets the check at path to fault.
func (t *Tree) Fault(path, cause string) { _ = t.Set(path, Fault, cause) }

// Remove forgets the check at path and all below it: what it watched is gone.
func (t *Tree) Remove(path string) {
	names, err := split(path)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.root
	for _, name := range names {
		if n = childOf(n, name); n == nil {
			return
		}
	}
	delete(n.parent.children, n.name)
	t.size -= count(n)
	t.raise(n.parent, t.now())
	t.notify()
}

func count(n *node) int {
	c := 1
	for _, ch := range n.children {
		c += count(ch)
	}
	return c
}

// raise works out the state of n and of all above it.
func (t *Tree) raise(n *node, now time.Time) {
	for ; n != nil; n = n.parent {
		worst := n.own
		for _, c := range n.children {
			worst = max(worst, c.state)
		}
		if worst == n.state {
			return
		}
		n.state, n.since = worst, now
	}
}

// State is that of the whole tree.
func (t *Tree) State() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.root.state
}

// Refused is the number of calls of Set that did not fit the bounds.
func (t *Tree) Refused() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused
}

// Snapshot copies the tree, children sorted by name.
func (t *Tree) Snapshot() Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return copyOf(t.root, t.now())
}

func copyOf(n *node, now time.Time) Node {
	out := Node{Name: n.name, State: n.state, Since: n.since, Seconds: now.Sub(n.since).Seconds()}
	if n.own == n.state || n.own != OK {
		out.Cause = n.cause
	}
	for _, c := range n.children {
		out.Checks = append(out.Checks, copyOf(c, now))
	}
	slices.SortFunc(out.Checks, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Problems lists the checks that are not ok by their own cause: the worst
// first, among equals the oldest first.
func (t *Tree) Problems() []Problem {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Problem
	now := t.now()
	var walk func(n *node, path string)
	walk = func(n *node, path string) {
		if n.own != OK {
			out = append(out, Problem{
				Path: path, State: n.own, Cause: n.cause,
				Since: n.ownSince, Seconds: now.Sub(n.ownSince).Seconds(),
			})
		}
		for _, c := range n.children {
			p := c.name
			if path != "" {
				p = path + "/" + c.name
			}
			walk(c, p)
		}
	}
	walk(t.root, "")
	slices.SortFunc(out, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(b.State, a.State), a.Since.Compare(b.Since), cmp.Compare(a.Path, b.Path))
	})
	return out
}

// Subscribe returns a channel that gets a value after the tree changed, and a
// function that ends the subscription. Changes that come faster than they are
// taken fold into one: read the Snapshot, not the channel.
func (t *Tree) Subscribe() (changes <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.subs[ch] = struct{}{}
	return ch, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subs, ch)
	}
}

func (t *Tree) notify() {
	for ch := range t.subs {
		select {
		case ch <- struct{}{}:
		default: // a change is pending there already
		}
	}
}

// split parts a path and checks it against the bounds.
func split(path string) ([]string, error) {
	names := strings.Split(path, "/")
	if len(names) > MaxDepth {
		return nil, fmt.Errorf("%d elements: %w", len(names), ErrPath)
	}
	for _, n := range names {
		if n == "" || len(n) > MaxName || !utf8.ValidString(n) {
			return nil, fmt.Errorf("element %.*q: %w", MaxName, n, ErrPath)
		}
	}
	return names, nil
}

// cut bounds a cause and leaves valid UTF-8, since causes may carry text of
// strangers and end in JSON.
func cut(s string) string {
	if len(s) > MaxCause {
		s = s[:MaxCause]
	}
	return strings.ToValidUTF8(s, "")
}
