package erase

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// full makes a state directory with all kinds of things in it, and says what is outside of it and must stay.
func full(t *testing.T) (dir, outside string) {
	t.Helper()
	dir, outside = filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "operators")
	for name, content := range map[string]string{
		outside:                                 "stays",
		filepath.Join(dir, "identity.key"):      "the key",
		filepath.Join(dir, "identity.key.prev"): "the key",
		filepath.Join(dir, "mission.toml"):      "the mission",
		filepath.Join(dir, ".mission-1"):        "a rest",
		filepath.Join(dir, "card/kit.mission"):  "the mission again",
		filepath.Join(dir, "card/deep/er/file"): "x",
		filepath.Join(dir, "lost+found/#12"):    "of the file system",
		filepath.Join(dir, "empty"):             "",
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir, outside
}

func left(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != dir && d.Name() == "lost+found" {
			return fs.SkipDir
		}
		if err == nil && path != dir {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestNothingIsLeft(t *testing.T) {
	dir, outside := full(t)
	if erased, err := Finish(dir); erased || err != nil || len(left(t, dir)) < 8 {
		t.Fatalf("without a mark: %v, %v, left %v", erased, err, left(t, dir))
	}
	// The blocks of the files: who has them open sees what becomes of them.
	var open []*os.File
	for _, name := range []string{"identity.key", "identity.key.prev", "mission.toml", "card/kit.mission"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		open = append(open, f)
	}
	if err := Mark(dir); err != nil {
		t.Fatal(err)
	}
	if !Marked(dir) {
		t.Fatal("not marked")
	}
	if erased, err := Finish(dir); !erased || err != nil {
		t.Fatalf("%v, %v", erased, err)
	}
	if n := left(t, dir); len(n) != 0 || Marked(dir) {
		t.Errorf("left: %v", n)
	}
	for _, f := range open {
		b := make([]byte, 64)
		n, _ := f.Read(b)
		if n == 0 || !bytes.Equal(b[:n], make([]byte, n)) {
			t.Errorf("%s: %q", f.Name(), b[:n])
		}
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "stays" {
		t.Errorf("what a link led to: %q, %v", b, err)
	}
	if erased, err := Finish(dir); erased || err != nil {
		t.Errorf("again: %v, %v", erased, err)
	}
}

var errCut = errors.New("no power")

// Power may be cut after any file: as long as anything is left, so is the mark, and the next start finishes.
func TestPowerCutWhileErasing(t *testing.T) {
	for cut := 0; ; cut++ {
		dir, _ := full(t)
		if err := Mark(dir); err != nil {
			t.Fatal(err)
		}
		n := 0
		_, err := finish(dir, func(path string) error {
			if n++; n > cut {
				return errCut
			}
			return os.Remove(path)
		})
		if err == nil {
			if cut < 10 {
				t.Errorf("all is gone after %d removals", cut)
			}
			return
		}
		if !errors.Is(err, errCut) || !Marked(dir) {
			t.Fatalf("cut after %d: %v, marked %v", cut, err, Marked(dir))
		}
		if erased, err := Finish(dir); !erased || err != nil || len(left(t, dir)) != 0 {
			t.Errorf("after a cut after %d: %v, %v, left %v", cut, erased, err, left(t, dir))
		}
	}
}

// What cannot be removed keeps the mark, and nothing else.
func TestWhatCannotBeRemoved(t *testing.T) {
	dir, _ := full(t)
	if err := Mark(dir); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "card", "kit.mission")
	erased, err := finish(dir, func(path string) error {
		if path == bad {
			return errCut
		}
		return os.Remove(path)
	})
	if !erased || !errors.Is(err, errCut) || !Marked(dir) {
		t.Fatalf("%v, %v, marked %v", erased, err, Marked(dir))
	}
	want := []string{filepath.Join(dir, "card"), bad, filepath.Join(dir, Name)}
	if got := left(t, dir); !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	if b, err := os.ReadFile(bad); err != nil || len(bytes.Trim(b, "\x00")) > 0 {
		t.Errorf("its content: %q, %v", b, err)
	}
}
