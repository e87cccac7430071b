package card

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Direct I/O or not: any bytes can be read, whole sectors written.
func TestDevice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "card")
	want := make([]byte, 1<<20)
	for i := range want {
		want[i] = byte(i / 7)
	}
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, r := range [][2]int{{0, 512}, {1, 3}, {511, 2}, {4000, 300_000}, {len(want) - 1, 1}, {300_001, 700_000}} {
		b := make([]byte, r[1])
		if n, err := d.ReadAt(b, int64(r[0])); n != r[1] || err != nil || !bytes.Equal(b, want[r[0]:r[0]+r[1]]) {
			t.Errorf("read of %d at %d: %d, %v", r[1], r[0], n, err)
		}
	}
	if n, err := d.ReadAt(make([]byte, 10), int64(len(want)-4)); n != 4 || err == nil {
		t.Errorf("read over the end: %d, %v", n, err)
	}
	b := bytes.Repeat([]byte{0xa5}, 300*1024)
	if n, err := d.WriteAt(b, 512); n != len(b) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
	copy(want[512:], b)
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
		t.Error("the file has other bytes")
	}
	for _, w := range [][2]int{{1, 512}, {512, 511}} {
		if _, err := d.WriteAt(make([]byte, w[1]), int64(w[0])); !errors.Is(err, ErrInvalid) {
			t.Errorf("write of %d at %d: %v", w[1], w[0], err)
		}
	}
}

// Cards are found by their signature, whatever the kernel calls them.
func TestLocate(t *testing.T) {
	sys, dev := t.TempDir(), t.TempDir()
	disk := func(name string, parts map[string]string, mbr []byte) {
		t.Helper()
		for p, n := range parts {
			dir := filepath.Join(sys, "block", name, p)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "partition"), []byte(n+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, dir := range []string{"queue", "device"} {
			if err := os.MkdirAll(filepath.Join(sys, "block", name, dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if mbr != nil {
			if err := os.WriteFile(filepath.Join(dev, name), mbr, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	mbr := EncodeMBR()
	other := mbr
	other[440]++
	disk("sr0", nil, nil)                                                                                    // no node
	disk("loop0", map[string]string{"loop0p1": "1", "loop0p2": "2", "loop0p3": "3", "loop0p4": "4"}, mbr[:]) // an image, not a card
	if err := os.Remove(filepath.Join(sys, "block", "loop0", "device")); err != nil {
		t.Fatal(err)
	}
	disk("ram0", nil, []byte{})
	disk("mmcblk0", map[string]string{"mmcblk0p1": "1"}, other[:])
	if _, err := Locate(sys, dev); !errors.Is(err, ErrNotFound) {
		t.Errorf("no card: %v", err)
	}
	disk("sda", map[string]string{"sda1": "1", "sda2": "2", "sda3": "3", "sda4": "4"}, mbr[:])
	if l, err := Locate(sys, dev); err != nil || l.Disk != filepath.Join(dev, "sda") || l.Partitions[4] != filepath.Join(dev, "sda4") {
		t.Errorf("on USB: %+v, %v", l, err)
	}
	disk("mmcblk2", map[string]string{"mmcblk2p1": "1", "mmcblk2p2": "2", "mmcblk2p3": "3"}, mbr[:]) // a partition is missing
	if l, err := Locate(sys, dev); err != nil || l.Disk != filepath.Join(dev, "sda") {
		t.Errorf("half a card beside: %+v, %v", l, err)
	}
	disk("vdb", map[string]string{"vdb1": "1", "vdb2": "2", "vdb3": "3", "vdb4": "4"}, mbr[:])
	disk("mmcblk1", map[string]string{"mmcblk1p4": "4", "mmcblk1p1": "1", "mmcblk1p2": "2", "mmcblk1p3": "3"}, mbr[:])
	l, err := Locate(sys, dev)
	if err != nil || l.Disk != filepath.Join(dev, "mmcblk1") || l.Partitions[3] != filepath.Join(dev, "mmcblk1p3") {
		t.Errorf("in the board's slot: %+v, %v", l, err)
	}
}
