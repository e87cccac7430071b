package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"testing"
)

var errPower = errors.New("power cut")

// disk is a model of a disk that loses power: operations on the directory
// become durable in order, but only syncDir says how far; the content of a file
// is durable once write returned. After power left, each operation fails.
type disk struct {
	names    map[string][]byte   // what a reader sees now
	durable  map[string][]byte   // what the last syncDir made safe
	pending  []map[string][]byte // the directory after each operation since then
	steps    int                 // operations done
	cutAfter int                 // power leaves at this operation; -1 is never
	torn     int                 // bytes of the write at which power leaves that reached the disk
}

func newDisk() *disk {
	return &disk{names: map[string][]byte{}, durable: map[string][]byte{}, cutAfter: -1}
}

// step counts an operation; it fails at the cut and ever after.
func (d *disk) step() error {
	if d.cutAfter >= 0 && d.steps >= d.cutAfter {
		d.steps++
		return errPower
	}
	d.steps++
	return nil
}

func (d *disk) changed() { d.pending = append(d.pending, maps.Clone(d.names)) }

func (d *disk) write(name string, data []byte) error {
	at := d.steps
	err := d.step()
	if err != nil {
		if at != d.cutAfter {
			return err
		}
		data = data[:min(d.torn, len(data))]
	}
	d.names[name] = bytes.Clone(data)
	d.changed()
	return err
}

func (d *disk) read(name string, limit int) ([]byte, error) {
	b, ok := d.names[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(b[:min(len(b), limit+1)]), nil
}

func (d *disk) rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	b, ok := d.names[from]
	if !ok {
		return fs.ErrNotExist
	}
	delete(d.names, from)
	d.names[to] = b
	d.changed()
	return nil
}

func (d *disk) remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	if _, ok := d.names[name]; !ok {
		return fs.ErrNotExist
	}
	delete(d.names, name)
	d.changed()
	return nil
}

func (d *disk) syncDir() error {
	if err := d.step(); err != nil {
		return err
	}
	d.durable, d.pending = maps.Clone(d.names), nil
	return nil
}

// afterBoot returns every state in which the disk can be found after the cut:
// the durable one and each operation after it that may have got through.
func (d *disk) afterBoot() []*disk {
	var out []*disk
	for _, names := range append([]map[string][]byte{d.durable}, d.pending...) {
		out = append(out, &disk{names: maps.Clone(names), durable: maps.Clone(names), cutAfter: -1})
	}
	return out
}

// cuts runs op on copies of the disk that prepare made, with power leaving
// before each of its operations and at several bytes of each write, and hands
// every state found after boot to check. acknowledged says that op returned nil.
func cuts(t *testing.T, prepare, op func(*Store) error, check func(what string, s *Store, acknowledged bool)) {
	t.Helper()
	for at := 0; ; at++ {
		finished := false
		for _, torn := range []int{0, 1, 40, 1 << 20} {
			d := newDisk()
			if err := prepare(open(d, Config{})); err != nil {
				t.Fatal(err)
			}
			d.steps, d.cutAfter, d.torn = 0, at, torn
			err := op(open(d, Config{}))
			if err != nil && !errors.Is(err, errPower) {
				t.Fatalf("cut at %d: %v", at, err)
			}
			for i, after := range d.afterBoot() {
				check(fmt.Sprintf("cut at step %d, %d bytes of it, state %d", at, torn, i), open(after, Config{}), err == nil)
			}
			finished = d.steps <= at
		}
		if finished {
			if at < 3 {
				t.Fatalf("only %d steps seen", at)
			}
			return
		}
	}
}

func TestPowerCutBetweenEveryStepOfSave(t *testing.T) {
	save := func(data ...string) func(*Store) error {
		return func(s *Store) error {
			for _, d := range data {
				if err := s.Save("x", []byte(d)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, tc := range []struct {
		name    string
		prepare func(*Store) error
		old     string // "" is none
		saved   func(*Store) error
	}{
		{"first", save(), "", save("new")},
		{"second", save("old"), "old", save("new")},
		{"later", save("oldest", "older", "old"), "old", save("new")},
		{"over a damaged file", func(s *Store) error {
			err := save("old")(s)
			d := s.files.(*disk)
			d.names["x"] = nil
			d.durable = maps.Clone(d.names)
			return err
		}, "old", save("new")},
		{"overwrite", save("oldest", "old"), "old", func(s *Store) error { return s.Overwrite("x", []byte("new")) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cuts(t, tc.prepare, tc.saved, func(what string, s *Store, acknowledged bool) {
				got, err := s.Load("x")
				switch {
				case acknowledged && string(got) != "new":
					t.Errorf("%s: %q, %v though Save had succeeded", what, got, err)
				case tc.old == "" && errors.Is(err, ErrNotFound):
				case err == nil && (string(got) == "new" || string(got) == tc.old && tc.old != ""):
				default:
					t.Errorf("%s: %q, %v", what, got, err)
				}
				// And the store works on.
				if err := s.Save("x", []byte("after")); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				wantLoad(t, s, "x", "after")
			})
		})
	}
}

// A removed item stays removed once Remove returned, and is whole before.
func TestPowerCutDuringRemove(t *testing.T) {
	prepare := func(s *Store) error {
		return errors.Join(s.Save("x", []byte("old")), s.Save("x", []byte("new")))
	}
	remove := func(s *Store) error { return s.Remove("x") }
	cuts(t, prepare, remove, func(what string, s *Store, acknowledged bool) {
		got, err := s.Load("x")
		switch {
		case errors.Is(err, ErrNotFound):
		case acknowledged, err != nil, string(got) != "new":
			t.Errorf("%s: %q, %v", what, got, err)
		}
	})
}

// A full or failing disk is an error, and the old content stays.
func TestFailedSaveIsCounted(t *testing.T) {
	d := newDisk()
	s := open(d, Config{})
	mustSave(t, s, "x", "old")
	d.steps, d.cutAfter = 0, 0
	if err := s.Save("x", []byte("new")); !errors.Is(err, errPower) {
		t.Errorf("got %v", err)
	}
	wantLoad(t, s, "x", "old")
	if s.Stats().Failures != 1 {
		t.Errorf("stats %+v", s.Stats())
	}
}
