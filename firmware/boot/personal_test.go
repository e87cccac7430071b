package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"fieldkit/board/store"
	"fieldkit/firmware/card"
	"fieldkit/firmware/config"
)

// errCut is the end of the power.
var errCut = errors.New("power cut")

// power lasts for a number of steps; a step is a sector written, a sync, or an item saved.
type power struct {
	left int // negative is for ever
	r    *rand.Rand
}

func (p *power) step() bool {
	if p.left == 0 {
		return false
	}
	p.left--
	return true
}

// flash is a card: what is written and not synced may be there after a power cut or not, sector by sector.
type flash struct {
	power   *power
	stored  []byte
	pending map[int64][]byte // sectors by offset
}

func newFlash(size int64) *flash {
	return &flash{power: &power{left: -1}, stored: make([]byte, size), pending: map[int64][]byte{}}
}

func (f *flash) ReadAt(b []byte, at int64) (int, error) {
	if f.power.left == 0 {
		return 0, errCut
	}
	n := copy(b, f.stored[at:])
	for o, s := range f.pending {
		if o >= at && o+card.SectorSize <= at+int64(n) {
			copy(b[o-at:], s)
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *flash) WriteAt(b []byte, at int64) (int, error) {
	for i := 0; i < len(b); i += card.SectorSize {
		if !f.power.step() {
			return i, errCut
		}
		f.pending[at+int64(i)] = b[i : i+card.SectorSize] // nobody changes it afterwards
	}
	return len(b), nil
}

func (f *flash) Sync() error {
	if !f.power.step() {
		return errCut
	}
	f.flush(func() bool { return true })
	return nil
}

func (f *flash) flush(lands func() bool) {
	for o, s := range f.pending {
		if lands() {
			copy(f.stored[o:], s)
		}
	}
	clear(f.pending)
}

// kept are items of which each is replaced whole, as board/store does, and proves of itself.
type kept struct {
	power *power
	files map[string][]byte
}

func (k kept) Load(name string) ([]byte, error) {
	if k.power.left == 0 {
		return nil, errCut
	}
	b, ok := k.files[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, store.ErrNotFound)
	}
	return bytes.Clone(b), nil
}

func (k kept) Save(name string, data []byte) error {
	if !k.power.step() {
		if k.power.r.IntN(2) == 0 { // it was the very end of the save
			k.files[name] = bytes.Clone(data)
		}
		return errCut
	}
	k.files[name] = bytes.Clone(data)
	return nil
}

func samePersonal(a, b card.Personal) bool {
	return bytes.Equal(a.Kit, b.Kit) && bytes.Equal(a.Mission, b.Mission)
}

// "power cut at any moment of it is harmless": the power is cut after every single step, in boots one after the other,
// and what the card was personalised with is whole in one of the two places at each of these moments, and in the end
// on the state partition alone.
func TestPersonalisationSurvivesPowerCutsAtEveryStep(t *testing.T) {
	want := card.Personal{Kit: []byte("[kit]\nnumber = 104\n"), Mission: bytes.Repeat([]byte("mission "), 800)}
	area, err := card.EncodePersonal(want)
	if err != nil {
		t.Fatal(err)
	}
	old := card.Personal{Kit: []byte("[kit]\nnumber = 200\n"), Mission: []byte("old")}
	steps := 0
	for seed := range uint64(2) {
		for first := 0; seed == 0 || first < 16; first++ { // the steps differ in the beginning
			r := rand.New(rand.NewPCG(seed, uint64(first)))
			disk := newFlash(card.PersonalOffset + card.PersonalSize)
			copy(disk.stored[card.PersonalOffset:], area)
			k := kept{disk.power, map[string][]byte{}}
			if seed%2 == 1 { // a card that is personalised anew
				k.files[config.KeptFile], k.files[config.KeptMission] = old.Kit, old.Mission
			}
			disk.power.r = r
			cut := false
			// The first cut is at each step in turn; two more at any one; then the power stays.
			for _, left := range []int{first, r.IntN(1100), r.IntN(1100), -1} {
				disk.power.left = left
				got, err := takePersonal(disk, k)
				now := disk.power.left == 0
				cut = cut || now && left == first
				disk.power.left = -1
				disk.flush(func() bool { return r.IntN(2) == 0 })
				if !now && (err != nil || !samePersonal(got, want)) {
					t.Fatalf("cut after %d: %v, %d and %d bytes", first, err, len(got.Kit), len(got.Mission))
				}
				there, errArea := card.ReadPersonal(disk)
				inArea := errArea == nil && samePersonal(there, want)
				inItems := bytes.Equal(k.files[config.KeptFile], want.Kit) && bytes.Equal(k.files[config.KeptMission], want.Mission)
				if !inArea && !inItems {
					t.Fatalf("cut after %d: lost: %v", first, errArea)
				}
			}
			if got := disk.stored[card.PersonalOffset:]; len(bytes.Trim(got, "\x00")) > 0 {
				t.Fatalf("cut after %d: the area is not erased", first)
			}
			if !cut {
				steps = first
				break
			}
		}
	}
	// Two items, 1,024 sectors, two syncs.
	if steps < 1028 {
		t.Errorf("only %d steps were cut", steps)
	}
}

func TestPersonalisation(t *testing.T) {
	want := card.Personal{Kit: []byte("a"), Mission: []byte("b")}
	area, err := card.EncodePersonal(want)
	if err != nil {
		t.Fatal(err)
	}
	torn := bytes.Clone(area)
	torn[52] ^= 1 // in the content
	full := fullItems{}
	for _, c := range []struct {
		name   string
		area   []byte
		items  items
		want   card.Personal
		err    error
		erased bool
	}{
		{"a neutral card", nil, kept{&power{left: -1}, map[string][]byte{}}, card.Personal{}, nil, true},
		{"a personalised one", area, kept{&power{left: -1}, map[string][]byte{}}, want, nil, true},
		{"a later boot", nil, kept{&power{left: -1}, map[string][]byte{config.KeptFile: want.Kit, config.KeptMission: want.Mission}}, want, nil, true},
		{"a badly written one", torn, kept{&power{left: -1}, map[string][]byte{}}, card.Personal{}, card.ErrTorn, false},
		{"half erased", torn, kept{&power{left: -1}, map[string][]byte{config.KeptFile: want.Kit, config.KeptMission: want.Mission}}, want, nil, true},
		{"state in memory", area, nil, want, nil, false},
		{"state in memory, a neutral card", nil, nil, card.Personal{}, nil, true},
		{"no room for it", area, full, want, errFull, false},
	} {
		disk := newFlash(card.PersonalOffset + card.PersonalSize)
		copy(disk.stored[card.PersonalOffset:], c.area)
		got, err := takePersonal(disk, c.items)
		if !samePersonal(got, c.want) || !errors.Is(err, c.err) {
			t.Errorf("%s: %q %q, %v", c.name, got.Kit, got.Mission, err)
		}
		if erased := len(bytes.Trim(disk.stored, "\x00")) == 0; erased != c.erased {
			t.Errorf("%s: erased %v", c.name, erased)
		}
	}
}

var errFull = errors.New("no space left")

// fullItems take nothing.
type fullItems struct{}

func (fullItems) Load(string) ([]byte, error) { return nil, store.ErrNotFound }
func (fullItems) Save(string, []byte) error   { return errFull }

// The real store is one of the items, and what it keeps is what comes back after the next start.
func TestPersonalisationInTheStore(t *testing.T) {
	dir := t.TempDir()
	want := card.Personal{Kit: []byte("a"), Mission: []byte("b")}
	area, err := card.EncodePersonal(want)
	if err != nil {
		t.Fatal(err)
	}
	disk := newFlash(card.PersonalOffset + card.PersonalSize)
	copy(disk.stored[card.PersonalOffset:], area)
	for range 2 {
		s, err := store.Open(dir, store.Config{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := takePersonal(disk, s)
		if err != nil || !samePersonal(got, want) {
			t.Fatalf("%q %q: %v", got.Kit, got.Mission, err)
		}
	}
}

// cardWith makes an image with a boot partition that independent tools made, with the operator's files on it.
func cardWith(t *testing.T, files map[string]string) *os.File {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "card.img")
	run := func(argv ...string) {
		t.Helper()
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", argv, err, out)
		}
	}
	run("truncate", "-s", strconv.FormatInt(card.Size, 10), name)
	run("mkfs.fat", "-F", "32", "-n", card.Boot.Label, "--offset", strconv.FormatInt(card.Boot.Offset/card.SectorSize, 10), name, strconv.FormatInt(card.Boot.Size/1024, 10))
	for file, text := range files {
		from := filepath.Join(dir, file)
		if err := os.WriteFile(from, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		run("mcopy", "-i", fmt.Sprintf("%s@@%d", name, card.Boot.Offset), from, "::"+file)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	sector := card.EncodeMBR()
	if _, err := f.WriteAt(sector[:], 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFilesOfACard(t *testing.T) {
	whole := card.Personal{Kit: []byte("personal"), Mission: []byte("flashed")}
	for _, c := range []struct {
		name     string
		operator map[string]string
		personal *card.Personal
		want     map[string]string
		problems int
	}{
		{"neutral", map[string]string{"kit.toml": "# template"}, nil, map[string]string{config.CardFile: "# template"}, 0},
		{"without any file", nil, nil, map[string]string{}, 0},
		{"personalised", map[string]string{"kit.toml": "own"}, &whole, map[string]string{config.CardFile: "own", config.CardPersonal: "personal", config.CardMission: "flashed"}, 0},
		{"and a mission file of the operator's", map[string]string{"kit.mission": "own mission"}, &whole, map[string]string{config.CardPersonal: "personal", config.CardMission: "own mission"}, 0},
		{"a mission file alone", map[string]string{"kit.mission": "own mission"}, nil, map[string]string{config.CardMission: "own mission"}, 0},
		{"settings that are too long", map[string]string{"kit.toml": strings.Repeat("#", maxSettings+1)}, &whole, map[string]string{config.CardPersonal: "personal", config.CardMission: "flashed"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := cardWith(t, c.operator)
			if c.personal != nil {
				if err := card.WritePersonal(disk, *c.personal); err != nil {
					t.Fatal(err)
				}
			}
			k := kept{&power{left: -1}, map[string][]byte{}}
			for boot := range 2 { // the second one finds the same
				files, problems := filesOf(disk, k)
				got := map[string]string{}
				for path, data := range files {
					got[path] = string(data)
				}
				if !maps.Equal(got, c.want) || len(problems) != c.problems {
					t.Errorf("boot %d: %v, %v", boot, got, problems)
				}
			}
		})
	}
}

func TestNewBoard(t *testing.T) {
	k := kept{&power{left: -1}, map[string][]byte{}}
	for _, c := range []struct {
		serial string
		want   bool
	}{{"", false}, {"10000000aaaa", false}, {"10000000aaaa", false}, {"", false}, {"10000000bbbb", true}, {"10000000bbbb", true}, {"10000000aaaa", false}} {
		if got, err := newBoard(k, c.serial); got != c.want || err != nil {
			t.Errorf("%q: %v, %v", c.serial, got, err)
		}
	}
	if got, err := newBoard(nil, "1"); got || err != nil {
		t.Error(got, err)
	}
}
