package mission

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldkit/board/store"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

var errPower = errors.New("power cut")

// items is a state directory whose power can be cut before any write; a write itself is atomic, which is
// board/store's part and tested there.
type items struct {
	files  map[string][]byte
	writes int
	cut    int // at this write; -1 is never
	log    []string
}

func newItems() *items { return &items{files: map[string][]byte{}, cut: -1} }

func (s *items) Load(name string) ([]byte, error) {
	b, ok := s.files[name]
	if !ok {
		return nil, store.ErrNotFound
	}
	return bytes.Clone(b), nil
}

func (s *items) Save(name string, data []byte) error {
	if s.cut >= 0 && s.writes >= s.cut {
		return errPower
	}
	s.writes++
	s.files[name] = bytes.Clone(data)
	s.log = append(s.log, name)
	return nil
}

func (s *items) Overwrite(name string, data []byte) error {
	err := s.Save(name, data)
	if err == nil {
		s.log[len(s.log)-1] += " overwritten"
	}
	return err
}

// check is what must hold whenever a kit came up.
func check(t *testing.T, s *items, id *ident.Identity, m *Mission) {
	t.Helper()
	if m.Founded {
		founder := *m
		founder.Root.Key = string(s.files[FounderItem])
		if _, err := founder.Authority(); err != nil {
			t.Errorf("the kit founded a mission that nobody else can ever be in: %v", err)
		}
	}
	if m.HasRootKey() || bytes.Contains(s.files[MissionItem], []byte("PRIVATE KEY")) {
		t.Error("the root key is still there")
	}
	p, err := m.Trust().VerifyChain(id.Signer().Certificates(), time.Time{})
	if err != nil || p.NodeID != id.NodeID() {
		t.Errorf("the kit's certificate in its own mission: %v", err)
	}
	if !bytes.Equal(s.files[CertificateItem], id.CertificatePEM()) {
		t.Error("other certificates are kept")
	}
}

// cutEverywhere starts a kit with the power cut before each of its writes, and then again with power, in a state
// that prepare makes anew each time.
func cutEverywhere(t *testing.T, prepare func() *items, given func(after bool) *Mission, want func(t *testing.T, id *ident.Identity, m *Mission)) {
	t.Helper()
	for cut := 0; ; cut++ {
		s := prepare()
		s.writes, s.cut = 0, cut
		_, _, err := firstStart(s, given(false))
		done := err == nil
		if !done && !errors.Is(err, errPower) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		s.cut = -1
		id, m, err := firstStart(s, given(true))
		if err != nil {
			t.Fatalf("start after a cut at write %d: %v", cut, err)
		}
		check(t, s, id, m)
		want(t, id, m)
		s.log = nil
		again, _, err := firstStart(s, given(true))
		if err != nil || again.NodeID() != id.NodeID() || len(s.log) != 0 {
			t.Errorf("cut at %d, restart: %v, wrote %v", cut, err, s.log)
		}
		if done {
			if cut < 1 {
				t.Error("nothing was written")
			}
			return
		}
	}
}

func TestFirstStart(t *testing.T) {
	m := must(New("alpha", Options{}))
	must(m.AddHandset("Ann", 100))
	cutEverywhere(t, newItems, func(bool) *Mission { return m }, func(t *testing.T, _ *ident.Identity, got *Mission) {
		if !got.Same(m) || got.Founded || len(got.Handsets) != 1 {
			t.Errorf("%+v", got)
		}
	})
	if !m.HasRootKey() {
		t.Error("the operator's mission lost its root key")
	}
}

func TestFirstStartAlone(t *testing.T) {
	cutEverywhere(t, newItems, func(bool) *Mission { return nil }, func(t *testing.T, _ *ident.Identity, got *Mission) {
		if !got.Founded {
			t.Errorf("%+v", got)
		}
	})
}

// A card whose state holds the mission with the root key loses it once the certificate is there.
func TestFirstStartFromState(t *testing.T) {
	m := must(New("alpha", Options{}))
	prepare := func() *items {
		s := newItems()
		s.files[MissionItem] = must(m.Marshal())
		return s
	}
	cutEverywhere(t, prepare, func(bool) *Mission { return nil }, func(t *testing.T, _ *ident.Identity, got *Mission) {
		if !got.Same(m) {
			t.Errorf("%+v", got)
		}
	})
	s := prepare()
	if _, _, err := firstStart(s, nil); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.log, ", "); got != "identity.key, identity.crt, mission.toml overwritten" {
		t.Errorf("wrote %s", got)
	}
}

// A kit changes over to another mission: whether power is cut before or after, and whether the file is still there
// then or not, it comes up in one of the two, with the same Node-ID.
func TestChangeOver(t *testing.T) {
	a, b := must(New("alpha", Options{})), must(New("beta", Options{}))
	var node wire.NodeID
	prepare := func() *items {
		s := newItems()
		id, _, err := firstStart(s, a)
		if err != nil {
			t.Fatal(err)
		}
		node = id.NodeID()
		return s
	}
	cutEverywhere(t, prepare, func(bool) *Mission { return b }, func(t *testing.T, id *ident.Identity, got *Mission) {
		if id.NodeID() != node || !got.Same(b) {
			t.Errorf("%v in %q", id.NodeID(), got.Name)
		}
	})
	cutEverywhere(t, prepare, func(after bool) *Mission {
		if after {
			return nil // the operator took the stick out
		}
		return b
	}, func(t *testing.T, id *ident.Identity, got *Mission) {
		if id.NodeID() != node || !got.Same(a) && !got.Same(b) {
			t.Errorf("%v in %q", id.NodeID(), got.Name)
		}
	})
	s := prepare()
	if _, _, err := firstStart(s, b.WithoutRootKey()); !errors.Is(err, ErrNoRootKey) {
		t.Errorf("a mission that cannot let the kit in: %v", err)
	}
	if id, got, err := firstStart(s, nil); err != nil || id.NodeID() != node || !got.Same(a) {
		t.Errorf("afterwards without it: %v", err)
	}
}

func TestNewerFileOfTheSameMission(t *testing.T) {
	m := must(New("alpha", Options{}))
	s := newItems()
	first, _, err := firstStart(s, m)
	if err != nil {
		t.Fatal(err)
	}
	newer := m.WithoutRootKey() // no key needed: the kit is in
	newer.document, newer.trust = m.document, m.trust
	must(newer.AddHandset("Ann", 100))
	cert := s.files[CertificateItem]
	id, got, err := firstStart(s, newer)
	if err != nil || id.NodeID() != first.NodeID() || len(got.Handsets) != 1 || !bytes.Equal(cert, s.files[CertificateItem]) {
		t.Errorf("%v, %+v", err, got)
	}
	_, got, err = firstStart(s, nil)
	if err != nil || len(got.Handsets) != 1 {
		t.Errorf("after the file is gone: %v", err)
	}
}

func TestDamagedState(t *testing.T) {
	m := must(New("alpha", Options{}))
	whole := newItems()
	id, _, err := firstStart(whole, m)
	if err != nil {
		t.Fatal(err)
	}
	with := func(name string, b []byte) *items {
		s := newItems()
		maps.Copy(s.files, whole.files)
		if b == nil {
			delete(s.files, name)
		} else {
			s.files[name] = b
		}
		return s
	}
	other := must(must(New("alpha", Options{Overlay: m.Overlay})).Authority())
	foreign := must(other.Issue(id.Key())).CertificatePEM()
	for name, b := range map[string][]byte{"missing": nil, "garbage": []byte("garbage"), "of another mission": foreign} {
		if got, _, err := firstStart(with(CertificateItem, b), m); err != nil || got.NodeID() != id.NodeID() {
			t.Errorf("certificate %s, root key at hand: %v", name, err)
		}
		if _, _, err := firstStart(with(CertificateItem, b), nil); !errors.Is(err, ErrNoRootKey) {
			t.Errorf("certificate %s, no root key: %v", name, err)
		}
	}
	if _, _, err := firstStart(with(KeyItem, []byte("garbage")), m); err == nil || strings.Contains(err.Error(), "garbage") {
		t.Errorf("key garbage: %v", err)
	}
	if got, _, err := firstStart(with(KeyItem, nil), m); err != nil || got.NodeID() == id.NodeID() {
		t.Errorf("key missing, root key at hand: %v", err)
	}
	if _, _, err := firstStart(with(MissionItem, []byte("garbage")), nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("mission garbage: %v", err)
	}
}

// The same on a real file system.
func TestLoadOrCreateIdentity(t *testing.T) {
	dir := t.TempDir()
	state, file := filepath.Join(dir, "state"), filepath.Join(dir, "a.mission")
	alone, m, founded, err := LoadOrCreateIdentity(state, file)
	if err != nil || !founded || !m.Founded {
		t.Fatalf("without a mission: %v, founded %v", err, founded)
	}
	alpha := must(New("alpha", Options{}))
	if err := alpha.Create(file); err != nil {
		t.Fatal(err)
	}
	before := must(os.ReadFile(file))
	for range 2 {
		id, m, founded, err := LoadOrCreateIdentity(state, file)
		if err != nil || founded || !m.Same(alpha) || id.NodeID() != alone.NodeID() {
			t.Fatalf("with the mission: %v, founded %v, %v", err, founded, id.NodeID())
		}
	}
	if !bytes.Equal(must(os.ReadFile(file)), before) {
		t.Error("the operator's file was written")
	}
	for _, f := range must(os.ReadDir(state)) {
		info := must(f.Info())
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
		b := must(os.ReadFile(filepath.Join(state, f.Name())))
		if strings.HasPrefix(f.Name(), MissionItem) && bytes.Contains(b, []byte("PRIVATE KEY")) {
			t.Errorf("%s has the root key", f.Name())
		}
	}
	// The kit's own copy can be named as the mission, and an account added to it.
	copied := filepath.Join(state, MissionItem)
	m = must(Load(copied))
	must(m.AddHandset("Ann", 100))
	if err := m.Save(copied); err != nil {
		t.Fatal(err)
	}
	id, m, _, err := LoadOrCreateIdentity(state, copied)
	if err != nil || len(m.Handsets) != 1 || id.NodeID() != alone.NodeID() {
		t.Errorf("from its own copy: %v", err)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := LoadOrCreateIdentity(state, file); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), file) {
		t.Errorf("bad mission file: %v", err)
	}
}
