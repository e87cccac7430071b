package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"fieldkit/firmware/card"
	"fieldkit/firmware/mission"
)

// smallImage is an image with a partition table, a slot A that has a release and some bytes, and nothing else.
func smallImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	b := &builder{o: Options{Out: dir}, work: dir, time: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)}
	r, err := card.Release{Product: card.Product, Layout: card.LayoutVersion, Version: "v1", Sequence: 1, Time: b.time, Commit: "c", Kernel: "k", Flavour: "rpi"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	slot, first := tree{}, tree{}
	slot.file(card.ReleaseFile, r)
	slot.file(card.KernelFile, bytes.Repeat([]byte("kernel"), 100_000))
	auto, err := card.AutobootFor(card.A).Render()
	if err != nil {
		t.Fatal(err)
	}
	first.file(card.AutobootFile, auto[:])
	img := filepath.Join(dir, ImageFile)
	if err := b.image(context.Background(), img, first, slot); err != nil {
		t.Fatal(err)
	}
	return img
}

func newMission(t *testing.T, opt mission.Options) string {
	t.Helper()
	m, err := mission.New("Test", opt)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "test.mission")
	if err := m.Create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCardsOfAMission(t *testing.T) {
	base, out, m := smallImage(t), t.TempDir(), newMission(t, mission.Options{})
	before, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(m)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for range 2 { // the second time goes on where the first ended
		made, err := Personalise(Cards{Base: base, Out: out, Mission: m, Country: "de", Count: 3})
		if err != nil {
			t.Fatal(err)
		}
		if len(made.Cards) != 3 || !made.RootKey || made.Country != "DE" {
			t.Fatalf("%+v", made)
		}
		for _, c := range made.Cards {
			if seen[c.Number] {
				t.Errorf("number %d twice", c.Number)
			}
			seen[c.Number] = true
			info, err := os.Stat(c.File)
			if err != nil || info.Size() != card.Size || info.Mode().Perm() != 0o600 {
				t.Fatalf("%s: %v, %v: want %d bytes that only the owner reads", c.File, info, err, card.Size)
			}
			f, err := os.Open(c.File)
			if err != nil {
				t.Fatal(err)
			}
			p, err := card.ReadPersonal(f)
			if err != nil || !bytes.Equal(p.Mission, want) || !strings.Contains(string(p.Kit), c.Name) {
				t.Errorf("card %s: settings %q, mission of %d bytes, %v", c.Name, p.Kit, len(p.Mission), err)
			}
			// But for the area it is the image.
			got, err := os.ReadFile(c.File)
			if err != nil {
				t.Fatal(err)
			}
			clear(got[card.PersonalOffset : card.PersonalOffset+card.PersonalSize])
			if !bytes.Equal(got, before) {
				t.Errorf("card %s differs from the image outside its area", c.Name)
			}
			f.Close()
			if _, err := Personalise(Cards{Base: c.File, Out: t.TempDir(), Count: 1}); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("a card made of a card: %v", err)
			}
			os.Remove(c.File)
		}
	}
	note, err := os.ReadFile(m + noteSuffix)
	if err != nil || len(strings.Split(strings.TrimSpace(string(note)), "\n")) != 6 {
		t.Errorf("note %q, %v", note, err)
	}
}

// A mission that has another way in keeps its root key at home.
func TestRootKeyStaysWhereItIsNotNeeded(t *testing.T) {
	base := smallImage(t)
	for name, c := range map[string]struct {
		opt mission.Options
		key bool
	}{
		"issued on board": {mission.Options{}, true},
		"enrolment":       {mission.Options{Enrol: []string{"https://192.0.2.1:8443"}}, false},
		"self-signed":     {mission.Options{SelfSigned: true}, false},
	} {
		made, err := Personalise(Cards{Base: base, Out: t.TempDir(), Mission: newMission(t, c.opt), Count: 1})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f, err := os.Open(made.Cards[0].File)
		if err != nil {
			t.Fatal(err)
		}
		p, err := card.ReadPersonal(f)
		if err != nil {
			t.Fatal(err)
		}
		m, err := mission.Parse(p.Mission)
		if err != nil || m.HasRootKey() != c.key || made.RootKey != c.key {
			t.Errorf("%s: root key on the card %v, told %v, want %v, %v", name, m.HasRootKey(), made.RootKey, c.key, err)
		}
		f.Close()
	}
	// And a mission file without it that has no other way in is of no use.
	path := newMission(t, mission.Options{})
	m, err := mission.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.WithoutRootKey().Save(path); err != nil {
		t.Fatal(err)
	}
	if _, err := Personalise(Cards{Base: base, Out: t.TempDir(), Mission: path, Count: 1}); err == nil || !strings.Contains(err.Error(), "no root key") {
		t.Errorf("a mission without a way in: %v", err)
	}
}

func TestPersonaliseRefuses(t *testing.T) {
	base := smallImage(t)
	junk := filepath.Join(t.TempDir(), "junk.img")
	if err := os.WriteFile(junk, make([]byte, 200<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Cards{
		"no cards":       {Base: base, Count: 0},
		"too many cards": {Base: base, Count: MaxCards + 1},
		"country":        {Base: base, Count: 1, Country: "UK"},
		"no image":       {Base: filepath.Join(t.TempDir(), "no.img"), Count: 1},
		"other bytes":    {Base: junk, Count: 1},
		"no mission":     {Base: base, Count: 1, Mission: junk},
	} {
		c.Out = t.TempDir()
		if made, err := Personalise(c); err == nil {
			t.Errorf("%s: %+v", name, made)
		}
		if left, _ := os.ReadDir(c.Out); len(left) > 0 {
			t.Errorf("%s: leaves %v", name, left)
		}
	}
}

// stick is a card that lies.
type stick struct {
	*os.File
	fault func(b []byte, at int64) // what it does to what is read
}

func (s stick) ReadAt(b []byte, at int64) (int, error) {
	n, err := s.File.ReadAt(b, at)
	if s.fault != nil {
		s.fault(b, at)
	}
	return n, err
}

func newStick(t *testing.T, size int64) stick {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "stick"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return stick{File: f}
}

func TestFlash(t *testing.T) {
	base := smallImage(t)
	img, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	compressed := base + ".zst"
	if err := os.WriteFile(compressed, z.EncodeAll(img, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	const size = card.Size + 5<<20 + 1536 // as no card is a whole number of MiB
	for _, file := range []string{base, compressed} {
		s := newStick(t, size)
		junk := bytes.Repeat([]byte{0xa5}, 1<<20)
		for at := int64(0); at < size; at += 1 << 20 {
			if _, err := s.WriteAt(junk[:min(1<<20, size-at)], at); err != nil {
				t.Fatal(err)
			}
		}
		var told []string
		sum, err := Flash(context.Background(), file, s, size, func(what string, done, total int64) {
			if done > total {
				t.Fatalf("%s: %d of %d", what, done, total)
			}
			told = append(told, what)
		})
		if err != nil || len(sum) != 64 {
			t.Fatalf("%s: %q, %v", file, sum, err)
		}
		if told = slices.Compact(told); !slices.Equal(told, []string{Writing, Verifying}) {
			t.Errorf("told %v", told)
		}
		got := make([]byte, size)
		if _, err := s.File.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:card.Size], img) {
			t.Error("the card has other bytes than the image")
		}
		if end := got[size-1<<20:]; bytes.Contains(end, []byte{0xa5}) {
			t.Error("the last MiB has the backup of an old partition table")
		}
		if !bytes.Equal(got[card.Size:card.Size+1<<20], junk) {
			t.Error("what is behind the image was written to")
		}
	}
}

func TestFlashFindsABrokenCard(t *testing.T) {
	base := smallImage(t)
	for name, fault := range map[string]func(b []byte, at int64){
		"one bit": func(b []byte, at int64) {
			if at == 64<<20 {
				b[4711] ^= 4
			}
		},
		// A card that says it is larger than it is shows earlier sectors in the place of later ones.
		"the smaller card": func(b []byte, at int64) {
			if at >= 49<<20 {
				clear(b)
			}
		},
	} {
		s := newStick(t, card.Size)
		s.fault = fault
		if _, err := Flash(context.Background(), base, s, card.Size, func(string, int64, int64) {}); !errors.Is(err, ErrVerify) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A card whose writing was cut off must not look like one of a kit.
func TestFlashThatIsCutOffLeavesNoCard(t *testing.T) {
	base := smallImage(t)
	s := newStick(t, card.Size)
	mbr := card.EncodeMBR()
	if _, err := s.WriteAt(mbr[:], 0); err != nil { // an older one is on it
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Flash(ctx, base, s, card.Size, func(what string, done, total int64) {
		if done > total*9/10 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("cut off: %v", err)
	}
	if err := card.CheckMBR(s); !errors.Is(err, card.ErrInvalid) {
		t.Errorf("what is left looks like a card: %v", err)
	}
}

func TestFlashRefusesOtherImages(t *testing.T) {
	base := smallImage(t)
	img, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{
		"short.img": img[:card.Size/2], "long.img": append(bytes.Clone(img), 0), "other.img": make([]byte, card.Size),
		"empty.img": {}, "broken.img.zst": []byte("(\xb5/\xfd rubbish"), "not.img.zst": []byte("rubbish"),
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := newStick(t, card.Size)
		if _, err := Flash(context.Background(), file, s, card.Size, func(string, int64, int64) {}); err == nil {
			t.Errorf("%s was written", name)
		}
		if err := card.CheckMBR(s); err == nil {
			t.Errorf("%s: what is left looks like a card", name)
		}
	}
	if _, err := Flash(context.Background(), base, newStick(t, card.Size-512), card.Size-512, func(string, int64, int64) {}); !errors.Is(err, ErrRefused) {
		t.Errorf("a card that is too small: %v", err)
	}
}

// release.json of an image is plain JSON for other programs.
func TestReleaseIsPlainJSON(t *testing.T) {
	f, err := os.Open(smallImage(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := card.ReadFile(f, card.SlotA, card.ReleaseFile, card.MaxRelease)
	var v map[string]any
	if e := json.Unmarshal(b, &v); e != nil || err != nil || v["product"] != "fieldkit" {
		t.Errorf("%s: %v, %v", b, err, e)
	}
}

// The same past the page cache, as a disk is written to. A file stands for the disk: no disk of the machine is touched.
func TestFlashDiskWritesPastTheCache(t *testing.T) {
	base := smallImage(t)
	s := newStick(t, card.Size)
	d := Disk{Path: s.Name(), Size: card.Size, Removable: true}
	sum, err := FlashDisk(t.Context(), base, d, func(string, int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{base, s.Name()} {
		if got := strings.Fields(tool(t, "sha256sum", f))[0]; got != sum {
			t.Errorf("%s: SHA-256 %s: told was %s", f, got, sum)
		}
	}
	if _, err := FlashDisk(t.Context(), base, Disk{Path: filepath.Join(t.TempDir(), "gone"), Size: card.Size}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a disk that is gone: %v", err)
	}
}
