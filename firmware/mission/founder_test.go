package mission

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"fieldkit/overlay/enrol"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// inDirectory reports whether any file there has the bytes.
func inDirectory(t *testing.T, dir string, what []byte) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, what) {
			return true
		}
	}
	return false
}

// A kit that founded its mission can let others in, as often as it starts, and no copy of the mission carries the key along.
func TestFounderKeepsItsRootKey(t *testing.T) {
	dir := t.TempDir()
	_, m, founded, err := LoadOrCreateIdentity(dir, "")
	if err != nil || !founded {
		t.Fatal(founded, err)
	}
	for range 2 {
		a, err := Founder(dir, m)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bytes.TrimSpace(a.CertificatePEM()), bytes.TrimSpace([]byte(m.Root.Certificate))) {
			t.Error("the root of another mission")
		}
		if m.HasRootKey() {
			t.Error("the mission has the root key in it")
		}
		if _, again, _, err := LoadOrCreateIdentity(dir, ""); err != nil || !again.Same(m) {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, MissionItem))
	if err != nil || bytes.Contains(b, []byte("PRIVATE KEY")) {
		t.Errorf("%v, or a key in the mission item", err)
	}
	// "If the Configuration Document contains an enrollment-server element, credentials are REQUIRED" (RFC 6940 §11.3).
	if s := m.Document().Rest.EnrollmentServers; len(s) != 1 || s[0] != "https://"+m.Overlay+":6090/enrol" {
		t.Errorf("enrolment servers %v", s)
	}
	if _, err := Founder(t.TempDir(), m); !errors.Is(err, ErrNoRootKey) {
		t.Errorf("a kit that founded nothing: %v", err)
	}
}

// A founder that goes over to another mission, by its file or because it was let in, has no power over the first any more.
func TestFounderForgets(t *testing.T) {
	other := must(New("other", Options{Enrol: []string{"https://192.0.2.1/enrol"}}))
	for name, goOver := range map[string]func(t *testing.T, dir string){
		"file": func(t *testing.T, dir string) {
			path := filepath.Join(t.TempDir(), "other.mission")
			if err := other.Save(path); err != nil {
				t.Fatal(err)
			}
			if _, m, founded, err := LoadOrCreateIdentity(dir, path); err != nil || founded || !m.Same(other) {
				t.Fatal(founded, err)
			}
		},
		"let in": func(t *testing.T, dir string) {
			key := must(StateKey(dir))
			id := must(must(other.Authority()).Issue(key))
			if err := Keep(dir, other, id); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			_, m, _, err := LoadOrCreateIdentity(dir, "")
			if err != nil {
				t.Fatal(err)
			}
			root := must(must(Founder(dir, m)).KeyPEM())
			if err := enrol.Add(FounderBook(dir), enrol.Account{Name: "kit", Kit: true}, "password"); err != nil {
				t.Fatal(err)
			}
			// What is secret of it, as it would stand in a file.
			secret := bytes.Split(root, []byte("\n"))[1]
			if !inDirectory(t, dir, secret) {
				t.Fatal("the root key is not where it is looked for")
			}
			goOver(t, dir)
			if inDirectory(t, dir, secret) {
				t.Error("the root key is still there")
			}
			if all, err := enrol.List(FounderBook(dir)); err != nil || len(all) != 0 {
				t.Errorf("accounts %v, %v", all, err)
			}
			if _, err := Founder(dir, other); !errors.Is(err, ErrNoRootKey) {
				t.Errorf("founder of what it did not found: %v", err)
			}
			if _, now, founded, err := LoadOrCreateIdentity(dir, ""); err != nil || founded || !now.Same(other) {
				t.Errorf("at the next start: %v, %v", founded, err)
			}
		})
	}
}

// The number on the box is that of the key, wherever the kit is let in and whatever Node-ID it is given there.
func TestNumberStaysWhenNodeIDIsAssigned(t *testing.T) {
	key := must(ident.NewKey())
	own := must(must(must(Found()).Authority()).Issue(key))
	other := must(New("other", Options{Enrol: []string{"https://192.0.2.1/enrol"}}))
	a := must(other.Authority())
	assigned := must(ident.RandomNodeID(a.NodeIDLength()))
	der := must(a.Certify(key.Public(), []wire.NodeID{assigned}, ident.KitUser(assigned, a.Overlay()), true))
	id := must(other.Trust().Identity(key, der))
	if id.NodeID() != assigned || must(KeyNumber(id)) != must(KeyNumber(own)) {
		t.Errorf("number %d as %v, %d as %v", must(KeyNumber(own)), own.NodeID(), must(KeyNumber(id)), id.NodeID())
	}
	if must(KeyNumber(own)) != KitNumber(own.NodeID()) {
		t.Error("a kit whose Node-ID is made of its key has another number than before")
	}
}

func TestAddFree(t *testing.T) {
	m := must(New("alpha", Options{}))
	must(m.AddNumber("Anna", "10101"))
	must(m.AddNumber("20202", "10102")) // a name that looks like a number
	m.AddFree([]Handset{
		{Name: "anna", Number: "30301", Password: "12345678"},
		{Name: "Bert", Number: "10101", Password: "12345678"},
		{Name: "Carl", Number: "20202", Password: "12345678"},
		{Name: "10102", Number: "30302", Password: "12345678"},
		{Name: "Dora", Number: "30303", Password: "12345678"},
	})
	if len(m.Handsets) != 3 || m.Handsets[2].Name != "Dora" {
		t.Errorf("%+v", m.Handsets)
	}
	if _, err := Parse(must(m.Marshal())); err != nil {
		t.Errorf("the mission is none any more: %v", err)
	}
	full := &Mission{Handsets: make([]Handset, MaxHandsets)}
	full.AddFree([]Handset{{Name: "x", Number: "30304"}})
	if len(full.Handsets) != MaxHandsets {
		t.Error("more accounts than there is room for")
	}
}
