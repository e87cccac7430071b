package card

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// memory is a card in memory that counts what is written and can lose power.
type memory struct {
	b      []byte
	writes []int // lengths
	syncs  int
	budget int // writes left before the power goes; negative is no limit
}

var errPower = errors.New("power cut")

func (m *memory) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(b, m.b[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if m.budget == 0 {
		return 0, errPower
	}
	m.budget--
	m.writes = append(m.writes, len(b))
	return copy(m.b[at:], b), nil
}

func (m *memory) Sync() error { m.syncs++; return nil }

// tool runs a program of the distribution, which is how the layout is checked by somebody else.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = filepath.Join("/usr/sbin", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// boot makes a card's first 49 MiB with mkfs.fat and mcopy: the partition table and the boot partition.
func boot(t *testing.T, committed Slot, more ...string) *memory {
	t.Helper()
	dir := t.TempDir()
	p1, auto := filepath.Join(dir, "p1"), filepath.Join(dir, AutobootFile)
	tool(t, "mkfs.fat", "--invariant", "-F", "32", "-n", Boot.Label, "-C", p1, strconv.FormatInt(Boot.Size/1024, 10))
	for _, f := range more {
		name := filepath.Join(dir, filepath.Base(f))
		if err := os.WriteFile(name, bytes.Repeat([]byte(filepath.Base(f)), 300), 0o644); err != nil {
			t.Fatal(err)
		}
		tool(t, "mcopy", "-i", p1, name, "::")
	}
	b, err := AutobootFor(committed).Render()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(auto, b[:], 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "mcopy", "-i", p1, auto, "::")
	fs, err := os.ReadFile(p1)
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{b: make([]byte, Boot.Offset+Boot.Size), budget: -1}
	mbr := EncodeMBR()
	copy(m.b, mbr[:])
	copy(m.b[Boot.Offset:], fs)
	return m
}

func TestPartitionsFillTheImageWithoutOverlap(t *testing.T) {
	const eraseBlock = 4 * mib
	at := int64(eraseBlock)
	if PersonalOffset+PersonalSize > at || PersonalOffset%eraseBlock < SectorSize {
		t.Errorf("the personalisation area, %d bytes at %d, is not in the gap", PersonalSize, PersonalOffset)
	}
	for i, p := range Partitions() {
		if p.Number != i+1 || p.Offset != at || p.Offset%eraseBlock != 0 {
			t.Errorf("partition %+v: want number %d, at %d, at an erase block", p, i+1, at)
		}
		at += p.Size
	}
	if at != Size || Size&(Size-1) != 0 {
		t.Errorf("the partitions end at %d: want %d, a power of two", at, Size)
	}
}

// sfdisk is the independent reader of our partition table.
func TestPartitionTableReadsAlikeElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "img")
	mbr := EncodeMBR()
	if err := os.WriteFile(path, mbr[:], 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, Size); err != nil {
		t.Fatal(err)
	}
	tool(t, "sfdisk", "-V", path)
	dump := tool(t, "sfdisk", "-d", path)
	for _, want := range []string{
		"label-id: 0x4b495430",
		"start=        8192, size=       90112, type=c, bootable",
		"start=       98304, size=      147456, type=c\n",
		"start=      245760, size=      147456, type=c\n",
		"start=      393216, size=      131072, type=83",
	} {
		if !strings.Contains(dump, want) {
			t.Errorf("sfdisk says nothing of %q:\n%s", want, dump)
		}
	}
}

func TestCheckMBR(t *testing.T) {
	good := EncodeMBR()
	if err := CheckMBR(bytes.NewReader(good[:])); err != nil {
		t.Fatal(err)
	}
	for at := 440; at < SectorSize; at++ {
		switch i := (at - 446) % 16; {
		case at == 444 || at == 445: // copy protection word
			continue
		case at >= 446 && at < 510 && i < 8 && i != 4: // status and CHS decide nothing
			continue
		}
		bad := good
		bad[at] ^= 0x10
		if err := CheckMBR(bytes.NewReader(bad[:])); !errors.Is(err, ErrInvalid) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
	for n := range SectorSize {
		if CheckMBR(bytes.NewReader(good[:n])) == nil {
			t.Fatalf("%d bytes are a partition table", n)
		}
	}
}

func TestAutobootIsOneSectorThatTheFirmwareCanRead(t *testing.T) {
	for _, s := range []Slot{A, B} {
		b, err := AutobootFor(s).Render()
		if err != nil {
			t.Fatal(err)
		}
		if b[SectorSize-1] != '\n' || bytes.IndexByte(b[:], 0) >= 0 {
			t.Errorf("%q: does not end in a line", b)
		}
		for l := range bytes.Lines(b[:]) {
			if len(l) > 64 || len(l) < 2 {
				t.Errorf("line of %d bytes: %q", len(l), l)
			}
		}
		a, err := ParseAutoboot(b[:])
		if err != nil || a.Committed != s || a.Trial != s.Other() {
			t.Errorf("slot %v: parsed %+v, %v", s, a, err)
		}
		for n := range SectorSize {
			if _, err := ParseAutoboot(b[:n]); !errors.Is(err, ErrInvalid) {
				t.Errorf("prefix of %d: %v", n, err)
			}
		}
	}
	if _, err := (Autoboot{Committed: A, Trial: A}).Render(); !errors.Is(err, ErrInvalid) {
		t.Errorf("a trial of the committed slot: %v", err)
	}
}

func TestParseAutobootRefusesWhatNamesNoTwoSlots(t *testing.T) {
	for name, s := range map[string]string{
		"empty":            "",
		"not A/B":          "[all]\nboot_partition=2\n[tryboot]\nboot_partition=3\n",
		"one slot twice":   "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=2\n",
		"no trial":         "[all]\ntryboot_a_b=1\nboot_partition=2\n",
		"other partition":  "[all]\ntryboot_a_b=1\nboot_partition=4\n[tryboot]\nboot_partition=3\n",
		"no number":        "[all]\ntryboot_a_b=1\nboot_partition=\n[tryboot]\nboot_partition=3\n",
		"other section":    "[pi4]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n",
		"a/b switched off": "[all]\ntryboot_a_b=1\ntryboot_a_b=0\nboot_partition=2\n[tryboot]\nboot_partition=3\n",
	} {
		b := append([]byte(s), bytes.Repeat([]byte("#"), SectorSize-len(s))...)
		if a, err := ParseAutoboot(b); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, a, err)
		}
	}
	// What an editor makes of line ends must not keep a kit from updating.
	s := "[all]\r\ntryboot_a_b=1\r\nboot_partition=3\r\n[tryboot]\r\nboot_partition=2\r\n"
	if a, err := ParseAutoboot(append([]byte(s), bytes.Repeat([]byte("#"), SectorSize-len(s))...)); err != nil || a.Committed != B {
		t.Errorf("CRLF: %+v, %v", a, err)
	}
}

func TestCommitRewritesOneSectorInPlace(t *testing.T) {
	m := boot(t, A, "config.txt", "a file with a long name.txt", "kit.toml")
	before := bytes.Clone(m.b)
	if s, err := Committed(m); err != nil || s != A {
		t.Fatalf("committed %v, %v", s, err)
	}
	if err := Commit(m, A); err != nil || len(m.writes) != 0 {
		t.Fatalf("committing what is committed: %v, %d writes: want none", err, len(m.writes))
	}
	if err := Commit(m, B); err != nil {
		t.Fatal(err)
	}
	if len(m.writes) != 1 || m.writes[0] != SectorSize || m.syncs != 1 {
		t.Errorf("writes %v, %d syncs: want one sector, one sync", m.writes, m.syncs)
	}
	differ := map[int]bool{}
	for i := range m.b {
		if m.b[i] != before[i] {
			differ[i/SectorSize] = true
		}
	}
	if len(differ) != 1 {
		t.Errorf("%d sectors differ", len(differ))
	}
	if s, err := Committed(m); err != nil || s != B {
		t.Errorf("committed %v, %v", s, err)
	}
	// The independent reader: the file is still the file.
	p1 := filepath.Join(t.TempDir(), "p1")
	if err := os.WriteFile(p1, m.b[Boot.Offset:], 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "fsck.fat", "-n", p1)
	want, _ := AutobootFor(B).Render()
	if got := tool(t, "mtype", "-i", p1, "::"+AutobootFile); got != string(want[:]) {
		t.Errorf("mtype reads %q", got)
	}
}

func TestCommitWritesNothingThatItCannotRead(t *testing.T) {
	for name, spoil := range map[string]func(m *memory){
		"another disk":  func(m *memory) { m.b[440]++ },
		"no autoboot":   func(m *memory) { i := bytes.Index(m.b, []byte("AUTOBOOTTXT")); m.b[i] = 0xe5 },
		"foreign text":  func(m *memory) { i := bytes.Index(m.b, []byte("[all]")); copy(m.b[i:], "[pi4]") },
		"other size":    func(m *memory) { i := bytes.Index(m.b, []byte("AUTOBOOTTXT")); m.b[i+28]++ },
		"cluster zero":  func(m *memory) { i := bytes.Index(m.b, []byte("AUTOBOOTTXT")); m.b[i+26], m.b[i+20] = 0, 0 },
		"cluster far":   func(m *memory) { i := bytes.Index(m.b, []byte("AUTOBOOTTXT")); m.b[i+20] = 0xff },
		"no FAT":        func(m *memory) { clear(m.b[Boot.Offset : Boot.Offset+SectorSize]) },
		"larger sector": func(m *memory) { m.b[Boot.Offset+12] = 8 },
		"root outside":  func(m *memory) { m.b[Boot.Offset+47] = 0x0f },
	} {
		m := boot(t, A)
		spoil(m)
		if err := Commit(m, B); err == nil || len(m.writes) != 0 {
			t.Errorf("%s: %v, writes %v", name, err, m.writes)
		}
	}
	if err := Commit(boot(t, A), 4); !errors.Is(err, ErrInvalid) {
		t.Errorf("commit of slot 4: %v", err)
	}
}

// A root directory whose chain is a circle must end.
func TestDirectoryThatIsACircleEnds(t *testing.T) {
	m := boot(t, A)
	v, err := openFAT(m, Boot)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []int64{v.fat, v.fat + 4*int64(v.root)} { // the entry of the root itself
		copy(m.b[f:], []byte{byte(v.root), 0, 0, 0})
	}
	at, _ := v.cluster(v.root)
	for i := range int(v.clusterSize / 32) {
		copy(m.b[at+32*int64(i):], "FILE    TXT\x20")
	}
	if _, err := v.find(AutobootFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("found: %v", err)
	}
}

func TestReadFileByLongAndShortName(t *testing.T) {
	names := []string{"release.json", "bcm2711-rpi-4-b.dtb", "cmdline.txt", "README"}
	m := boot(t, A, names...)
	for _, n := range append(names, "RELEASE.JSON") {
		want := bytes.Repeat([]byte(names[max(0, indexFold(names, n))]), 300)
		b, err := ReadFile(m, Boot, n, 1<<20)
		if err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %d bytes, %v: want %d", n, len(b), err, len(want))
		}
	}
	if _, err := ReadFile(m, Boot, "release.jso", 1<<20); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := ReadFile(m, Boot, "cmdline.txt", 100); !errors.Is(err, ErrInvalid) {
		t.Errorf("a file above the limit: %v", err)
	}
}

func indexFold(names []string, n string) int {
	for i, s := range names {
		if strings.EqualFold(s, n) {
			return i
		}
	}
	return -1
}

func TestPersonalisation(t *testing.T) {
	p := Personal{Kit: []byte("[kit]\nnumber = 412\n"), Mission: bytes.Repeat([]byte("secret"), 2000)}
	m := &memory{b: make([]byte, Boot.Offset), budget: -1}
	if _, err := ReadPersonal(m); !errors.Is(err, ErrNoPersonal) {
		t.Fatalf("a neutral card: %v", err)
	}
	if err := WritePersonal(m, p); err != nil {
		t.Fatal(err)
	}
	got, err := ReadPersonal(m)
	if err != nil || !bytes.Equal(got.Kit, p.Kit) || !bytes.Equal(got.Mission, p.Mission) {
		t.Fatalf("read %d and %d bytes, %v", len(got.Kit), len(got.Mission), err)
	}
	area := m.b[PersonalOffset:]
	used := personalHeader + 8 + len(p.Kit) + len(p.Mission)
	for n := range used {
		if _, err := DecodePersonal(area[:n]); !errors.Is(err, ErrTorn) {
			t.Fatalf("prefix of %d: %v", n, err)
		}
	}
	for n := range used {
		bad := bytes.Clone(area[:used])
		bad[n] ^= 1
		if _, err := DecodePersonal(bad); !errors.Is(err, ErrTorn) {
			t.Fatalf("byte %d changed: %v", n, err)
		}
	}
	if _, err := EncodePersonal(Personal{Mission: make([]byte, MaxPersonal)}); err != nil {
		t.Errorf("the largest: %v", err)
	}
	if _, err := EncodePersonal(Personal{Kit: []byte{0}, Mission: make([]byte, MaxPersonal)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("one byte more: %v", err)
	}
}

// At whichever write the power goes: either the personalisation is still whole or erasing is known to be unfinished,
// and an area that says it is empty holds no secret.
func TestEraseIsHarmlessAtEveryPowerCut(t *testing.T) {
	for cut := range 4 {
		m := &memory{b: make([]byte, Boot.Offset), budget: -1}
		if err := WritePersonal(m, Personal{Mission: bytes.Repeat([]byte("secret"), 2000)}); err != nil {
			t.Fatal(err)
		}
		m.budget = cut
		err := ErasePersonal(m)
		if (cut < 2) != errors.Is(err, errPower) {
			t.Fatalf("cut after %d writes: %v", cut, err)
		}
		m.budget = -1
		_, err = ReadPersonal(m)
		left := bytes.Contains(m.b, []byte("secret"))
		switch {
		case errors.Is(err, ErrNoPersonal) && left:
			t.Errorf("cut after %d writes: erased, and the secret is still there", cut)
		case err != nil && !errors.Is(err, ErrNoPersonal) && !errors.Is(err, ErrTorn):
			t.Errorf("cut after %d writes: %v", cut, err)
		}
		if err := ErasePersonal(m); err != nil || !allZero(m.b) {
			t.Errorf("cut after %d writes: erasing again: %v, all zero %v", cut, err, allZero(m.b))
		}
	}
}

func release() Release {
	at := time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	return Release{Product: Product, Layout: LayoutVersion, Version: "v1.2-3-gabcdef0", Sequence: uint64(at.Unix()), Time: at,
		Commit: strings.Repeat("a", 40), Kernel: "6.12.47-v8", Flavour: "rpi"}
}

func TestRelease(t *testing.T) {
	b, err := release().Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseRelease(b)
	if err != nil || got != release() {
		t.Fatalf("parsed %+v, %v", got, err)
	}
	for n := range len(b) - 2 {
		if _, err := ParseRelease(b[:n]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("prefix of %d: %v", n, err)
		}
	}
	for name, spoil := range map[string]func(r *Release){
		"product":  func(r *Release) { r.Product = "toaster" },
		"layout":   func(r *Release) { r.Layout = 0 },
		"version":  func(r *Release) { r.Version = "1\n2" },
		"sequence": func(r *Release) { r.Sequence = 0 },
		"time":     func(r *Release) { r.Time = time.Unix(0, 0) },
		"commit":   func(r *Release) { r.Commit = strings.Repeat("a", 129) },
		"kernel":   func(r *Release) { r.Kernel = "" },
		"flavour":  func(r *Release) { r.Flavour = "é" },
	} {
		r := release()
		spoil(&r)
		if _, err := r.Encode(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBundleHeader(t *testing.T) {
	m := Manifest{Release: release(), Size: 41 << 20, SHA256: strings.Repeat("0f", 32)}
	raw, err := EncodeManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	b, err := AppendHeader(nil, raw, []byte("signature"))
	if err != nil {
		t.Fatal(err)
	}
	r := bytes.NewReader(append(bytes.Clone(b), "slot"...))
	h, err := ReadHeader(r)
	if err != nil || h.Manifest != m || !bytes.Equal(h.Raw, raw) || string(h.Signature) != "signature" {
		t.Fatalf("read %+v, %v", h, err)
	}
	if rest, _ := io.ReadAll(r); string(rest) != "slot" {
		t.Errorf("the reader is left at %q", rest)
	}
	for n := range b {
		if _, err := ReadHeader(bytes.NewReader(b[:n])); !errors.Is(err, ErrInvalid) {
			t.Fatalf("prefix of %d: %v", n, err)
		}
	}
	// A length must not make the reader reserve memory.
	huge := append([]byte(bundleMagic), 0xff, 0xff, 0xff, 0xff)
	if _, err := ReadHeader(bytes.NewReader(huge)); !errors.Is(err, ErrInvalid) {
		t.Errorf("huge manifest: %v", err)
	}
	for name, spoil := range map[string]func(m *Manifest){
		"larger than a slot": func(m *Manifest) { m.Size = SlotA.Size + SectorSize },
		"empty":              func(m *Manifest) { m.Size = 0 },
		"half a sector":      func(m *Manifest) { m.Size = 1000 },
		"upper-case hash":    func(m *Manifest) { m.SHA256 = strings.Repeat("0F", 32) },
		"short hash":         func(m *Manifest) { m.SHA256 = "0f" },
	} {
		bad := m
		spoil(&bad)
		if _, err := EncodeManifest(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSlotReaderStopsAtTheLastByteInUse(t *testing.T) {
	m := &memory{b: make([]byte, SlotB.Offset), budget: -1}
	if _, _, err := SlotReader(m, A); !errors.Is(err, ErrInvalid) {
		t.Errorf("an empty slot: %v", err)
	}
	m.b[SlotA.Offset] = 1
	m.b[SlotA.Offset+200_000] = 2
	r, size, err := SlotReader(m, A)
	if err != nil || size != 4*64<<10 {
		t.Fatalf("size %d, %v", size, err)
	}
	b, err := io.ReadAll(r)
	if err != nil || int64(len(b)) != size || b[0] != 1 || b[200_000] != 2 {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
}

// pieces is a card of which only some places are not zero; it counts what is written and keeps it.
type pieces struct {
	at    []int64
	b     [][]byte
	wrote []int64
}

func (p *pieces) ReadAt(b []byte, at int64) (int, error) {
	if at >= Boot.Offset+Boot.Size {
		return 0, io.EOF
	}
	clear(b)
	for i, from := range p.at { // a later piece lies over an earlier one
		if from < at+int64(len(b)) && at < from+int64(len(p.b[i])) {
			copy(b[max(0, from-at):], p.b[i][max(0, at-from):])
		}
	}
	return len(b), nil
}

func (p *pieces) WriteAt(b []byte, at int64) (int, error) {
	p.at, p.b, p.wrote = append(p.at, at), append(p.b, bytes.Clone(b)), append(p.wrote, at)
	return len(b), nil
}

func (p *pieces) Sync() error { return nil }

// FuzzCard: whatever is on a card, the readers return, and Commit writes one sector at most, one that is autoboot.txt's.
func FuzzCard(f *testing.F) {
	mbr := EncodeMBR()
	auto, _ := AutobootFor(A).Render()
	f.Add([]byte{}, []byte{}, []byte{}, []byte{})
	f.Add(mbr[:], bootSector(), rootDirectory(), auto[:])
	f.Fuzz(func(t *testing.T, personal, bpb, root, data []byte) {
		data = data[:min(len(data), SectorSize)]
		p := &pieces{
			at: []int64{0, PersonalOffset, Boot.Offset + SectorSize, Boot.Offset + 64<<10, Boot.Offset},
			b:  [][]byte{mbr[:], personal[:min(len(personal), int(PersonalSize))], root[:min(len(root), 32<<10)], data, bpb[:min(len(bpb), SectorSize)]},
		}
		_, _ = DecodePersonal(personal)
		_, _ = ReadFile(p, Boot, ReleaseFile, MaxRelease)
		_, _ = ParseRelease(data)
		_, _ = ReadHeader(bytes.NewReader(data))
		old, before := Committed(p)
		err := Commit(p, B)
		after, e := Committed(p)
		switch {
		case len(p.wrote) > 1, len(p.wrote) == 1 && (before != nil || len(p.b[len(p.b)-1]) != SectorSize):
			t.Errorf("written at %d although the committed slot was %v, %v", p.wrote, old, before)
		case err == nil && (after != B || e != nil):
			t.Errorf("committed, and the card says %v, %v", after, e)
		}
	})
}

// The fuzzer starts from a card on which all goes well.
func TestFuzzedCardCanBeCommitted(t *testing.T) {
	mbr := EncodeMBR()
	auto, _ := AutobootFor(A).Render()
	p := &pieces{
		at: []int64{0, Boot.Offset + SectorSize, Boot.Offset + 64<<10, Boot.Offset},
		b:  [][]byte{mbr[:], rootDirectory(), auto[:], bootSector()},
	}
	if err := Commit(p, B); err != nil || len(p.wrote) != 1 {
		t.Errorf("commit: %v, written at %d", err, p.wrote)
	}
}

// bootSector is that of a FAT32 volume of one-sector clusters: the root directory in cluster 2, data in cluster 127.
func bootSector() []byte {
	b := make([]byte, SectorSize)
	copy(b[11:], []byte{0, 2, 1, 1, 0, 1}) // 512 bytes, one sector a cluster, one reserved, one FAT
	b[32], b[33] = 0, 2                    // 512 sectors
	b[36] = 4                              // of which 4 are the FAT
	b[44] = 2
	b[510], b[511] = 0x55, 0xaa
	return b
}

// rootDirectory is what follows the boot sector: a FAT of four sectors and the directory with autoboot.txt.
func rootDirectory() []byte {
	b := make([]byte, 5*SectorSize)
	copy(b, bytes.Repeat([]byte{0xff, 0xff, 0xff, 0x0f}, 128))
	copy(b[4*SectorSize:], "AUTOBOOTTXT\x20")
	b[4*SectorSize+26] = 128 - 5 + 2
	b[4*SectorSize+29] = 2 // 512 bytes
	return b
}

// A card that was cut off anywhere in its partition table and boot partition is an error, not a panic or a wrong slot.
func TestTruncatedCardIsAnError(t *testing.T) {
	m := boot(t, A, "release.json")
	end := bytes.Index(m.b, []byte("[all]"))
	v, err := openFAT(m, Boot)
	if err != nil {
		t.Fatal(err)
	}
	// Every sector of what is read, and every byte of the first, of the root directory and of autoboot.txt.
	var lengths []int
	for n := 0; n <= end; n += SectorSize {
		lengths = append(lengths, n)
	}
	at, err := v.cluster(v.root)
	if err != nil {
		t.Fatal(err)
	}
	for i := range SectorSize {
		lengths = append(lengths, i, int(Boot.Offset)+i, int(at)+i, end+i)
	}
	for _, n := range lengths {
		short := &memory{b: m.b[:n], budget: -1}
		if s, err := Committed(short); err == nil {
			t.Fatalf("%d bytes: slot %v is committed", n, s)
		}
		if err := Commit(short, B); err == nil || len(short.writes) > 0 {
			t.Fatalf("%d bytes: commit: %v, writes %v", n, err, short.writes)
		}
	}
}
