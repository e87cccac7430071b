package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openTest(t *testing.T, cfg Config) (s *Store, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "state")
	s, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func mustSave(t *testing.T, s *Store, name, data string) {
	t.Helper()
	if err := s.Save(name, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

func wantLoad(t *testing.T, s *Store, name, want string) {
	t.Helper()
	got, err := s.Load(name)
	if err != nil || string(got) != want {
		t.Fatalf("Load(%s) = %q, %v; want %q", name, got, err, want)
	}
}

func TestRoundTripAndModes(t *testing.T) {
	s, dir := openTest(t, Config{})
	if _, err := s.Load("identity.key"); !errors.Is(err, ErrNotFound) {
		t.Errorf("item never saved: %v", err)
	}
	for _, data := range []string{"one", "", "a\nb\x00c", strings.Repeat("x", 5000)} {
		mustSave(t, s, "identity.key", data)
		wantLoad(t, s, "identity.key", data)
		again, err := Open(dir, Config{})
		if err != nil {
			t.Fatal(err)
		}
		wantLoad(t, again, "identity.key", data)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", fi.Mode(), err)
	}
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		fi, _ := f.Info()
		if fi.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), fi.Mode())
		}
		if strings.HasSuffix(f.Name(), temporary) {
			t.Errorf("%s left behind", f.Name())
		}
	}
	if st := s.Stats(); st.Saves != 4 || st.Failures+st.Recovered+st.Corrupt != 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestForeignFileGetsOurMode(t *testing.T) {
	s, dir := openTest(t, Config{})
	if err := os.WriteFile(filepath.Join(dir, "a"+temporary), []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	mustSave(t, s, "a", "secret")
	fi, err := os.Stat(filepath.Join(dir, "a"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

// A file cut short at any byte, or with any bit turned over, is noticed and the
// content before it returned.
func TestDamageAtEveryByte(t *testing.T) {
	s, dir := openTest(t, Config{})
	mustSave(t, s, "x", "the old content")
	mustSave(t, s, "x", "the new content, which is longer\n")
	path := filepath.Join(dir, "x")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, damaged []byte) {
		t.Helper()
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Load("x")
		if err != nil || string(got) != "the old content" {
			t.Fatalf("%s: %q, %v", what, got, err)
		}
	}
	for i := range good {
		check(fmt.Sprintf("cut at byte %d", i), good[:i])
		for bit := range 8 {
			b := bytes.Clone(good)
			b[i] ^= 1 << bit
			check(fmt.Sprintf("bit %d of byte %d turned", bit, i), b)
		}
	}
	check("one byte more", append(bytes.Clone(good), 0))
	if got := s.Stats().Recovered; got != uint64(9*len(good)+1) {
		t.Errorf("%d recoveries counted", got)
	}
	if s.Recovered()["x"] == nil {
		t.Error("recovery not reported")
	}
	// The damaged file must not push the good copy out.
	mustSave(t, s, "x", "third")
	wantLoad(t, s, "x", "third")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	wantLoad(t, s, "x", "the old content")
}

func TestBothCopiesDamaged(t *testing.T) {
	s, dir := openTest(t, Config{})
	mustSave(t, s, "x", "content")
	for _, f := range []string{"x", "x" + previousSuffix} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Load("x"); !errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if s.Stats().Corrupt != 1 {
		t.Error("not counted")
	}
}

// An item written once has a second copy from the start.
func TestFirstSaveHasFallBack(t *testing.T) {
	s, dir := openTest(t, Config{})
	mustSave(t, s, "identity.key", "key")
	if err := os.Truncate(filepath.Join(dir, "identity.key"), 3); err != nil {
		t.Fatal(err)
	}
	wantLoad(t, s, "identity.key", "key")
}

func TestOverwriteLeavesNothingBehind(t *testing.T) {
	s, dir := openTest(t, Config{})
	mustSave(t, s, "mission.toml", "root key: SECRET")
	mustSave(t, s, "mission.toml", "root key: SECRET, again")
	if err := s.Overwrite("mission.toml", []byte("no key")); err != nil {
		t.Fatal(err)
	}
	wantLoad(t, s, "mission.toml", "no key")
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		b, _ := os.ReadFile(filepath.Join(dir, f.Name()))
		if bytes.Contains(b, []byte("SECRET")) {
			t.Errorf("%s still holds the secret", f.Name())
		}
	}
	if err := os.Remove(filepath.Join(dir, "mission.toml")); err != nil {
		t.Fatal(err)
	}
	wantLoad(t, s, "mission.toml", "no key")
}

func TestRemove(t *testing.T) {
	s, dir := openTest(t, Config{})
	mustSave(t, s, "x", "1")
	mustSave(t, s, "x", "2")
	for range 2 {
		if err := s.Remove("x"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Load("x"); !errors.Is(err, ErrNotFound) {
			t.Errorf("after Remove: %v", err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("%d files left", len(files))
	}
}

func TestLimits(t *testing.T) {
	s, dir := openTest(t, Config{MaxSize: 100})
	if err := s.Save("x", make([]byte, 101)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("item beyond the limit: %v", err)
	}
	mustSave(t, s, "x", strings.Repeat("a", 100))
	wantLoad(t, s, "x", strings.Repeat("a", 100))
	// A huge file in the directory must not be read into memory.
	f, err := os.Create(filepath.Join(dir, "x"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(1<<40), f.Close()); err != nil {
		t.Skip("no sparse files here: ", err)
	}
	wantLoad(t, s, "x", strings.Repeat("a", 100))
	for _, name := range []string{
		"", ".", "..", "../x", "a/b", ".hidden", "x.prev", "x.tmp", "A", "ü", "a b",
		strings.Repeat("x", MaxName+1),
	} {
		if err := s.Save(name, nil); !errors.Is(err, ErrName) {
			t.Errorf("Save(%q): %v", name, err)
		}
		if _, err := s.Load(name); !errors.Is(err, ErrName) {
			t.Errorf("Load(%q): %v", name, err)
		}
		if err := s.Remove(name); !errors.Is(err, ErrName) {
			t.Errorf("Remove(%q): %v", name, err)
		}
	}
}

func TestOpenWhereNoDirectoryCanBe(t *testing.T) {
	f := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(f, "state"), Config{}); err == nil {
		t.Error("state directory below a file accepted")
	}
}

// The model of a disk against the real one: the same steps leave the same
// files.
func TestModelDiskAgainstRealFiles(t *testing.T) {
	disk, real := newDisk(), osFiles{t.TempDir()}
	for _, f := range []fileSystem{disk, real} {
		s := open(f, Config{})
		mustSave(t, s, "a", "1")
		mustSave(t, s, "a", "2")
		mustSave(t, s, "b", "3")
		if err := errors.Join(s.Overwrite("a", []byte("4")), s.Remove("b")); err != nil {
			t.Fatal(err)
		}
	}
	entries, _ := os.ReadDir(real.dir)
	if len(entries) != len(disk.names) {
		t.Fatalf("%d real files, %d in the model", len(entries), len(disk.names))
	}
	for _, e := range entries {
		want, _ := real.read(e.Name(), 1000)
		got, err := disk.read(e.Name(), 1000)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %q in the model (%v), %q on disk", e.Name(), got, err, want)
		}
	}
	if _, err := real.read("none", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}
