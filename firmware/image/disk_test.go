package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fieldkit/firmware/card"
)

// fakeHost is a machine as its sysfs and proc tell of it.
type fakeHost struct {
	t    *testing.T
	root string
}

func newFakeHost(t *testing.T) fakeHost {
	h := fakeHost{t, t.TempDir()}
	h.put("proc/self/mountinfo", "")
	h.put("proc/swaps", "Filename Type Size Used Priority\n")
	return h
}

func (h fakeHost) put(name, text string) {
	h.t.Helper()
	at := filepath.Join(h.root, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// disk adds a disk; attributes are name and content in turns.
func (h fakeHost) disk(name, number string, sectors string, attributes ...string) {
	h.t.Helper()
	dir := "sys/block/" + name
	h.node(name, number, "../../block/"+name)
	h.put(dir+"/dev", number+"\n")
	h.put(dir+"/size", sectors+"\n")
	h.put(dir+"/removable", "0\n")
	h.put(dir+"/ro", "0\n")
	for i := 0; i+1 < len(attributes); i += 2 {
		h.put(dir+"/"+attributes[i], attributes[i+1]+"\n")
	}
}

func (h fakeHost) part(disk, name, number string) {
	h.t.Helper()
	h.node(name, number, "../../block/"+disk+"/"+name)
	h.put("sys/block/"+disk+"/"+name+"/dev", number+"\n")
	h.put("sys/block/"+disk+"/"+name+"/partition", "1\n")
}

func (h fakeHost) node(name, number, target string) {
	h.t.Helper()
	h.put("dev/"+name, number)
	at := filepath.Join(h.root, "sys/dev/block", number)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink(target, at); err != nil {
		h.t.Fatal(err)
	}
}

func (h fakeHost) inspect(name string) (Disk, error) {
	host := Host{Sys: filepath.Join(h.root, "sys"), Proc: filepath.Join(h.root, "proc"), Node: func(path string) (major, minor uint32, err error) {
		b, err := os.ReadFile(path)
		if err != nil {
			return 0, 0, err
		}
		for i, f := range strings.Split(string(b), ":") {
			n := uint32(0)
			for _, c := range f {
				n = n*10 + uint32(c-'0')
			}
			if i == 0 {
				major = n
			} else {
				minor = n
			}
		}
		return major, minor, nil
	}}
	return host.Inspect(filepath.Join(h.root, "dev", name))
}

const (
	sectors32GB = "62521344"
	sectors1TB  = "1953525168"
)

// Every row is a disk that somebody names by mistake, or a card that is not to be lost, and what is said of it.
func TestFlashRefusesWhatIsNoFreeCard(t *testing.T) {
	usb := []string{"removable", "1", "device/vendor", "Generic ", "device/model", "Card Reader"}
	for _, c := range []struct {
		name string
		make func(h fakeHost)
		disk string
		want string // of the refusal; "" is none
	}{
		{"a card in a USB reader", func(h fakeHost) { h.disk("sdb", "8:16", sectors32GB, usb...) }, "sdb", ""},
		{"a card in the machine's own reader", func(h fakeHost) { h.disk("mmcblk0", "179:0", sectors32GB, "device/type", "SD") }, "mmcblk0", ""},
		{"the machine's eMMC", func(h fakeHost) { h.disk("mmcblk0", "179:0", sectors32GB, "device/type", "MMC") }, "mmcblk0", "not removable"},
		{"the hard disk", func(h fakeHost) { h.disk("sda", "8:0", sectors1TB) }, "sda", "not removable"},
		{"a partition", func(h fakeHost) { h.disk("sdb", "8:16", sectors32GB, usb...); h.part("sdb", "sdb1", "8:17") }, "sdb1", "partition: name the whole disk, sdb"},
		{"a card whose partition is mounted", func(h fakeHost) {
			h.disk("sdb", "8:16", sectors32GB, usb...)
			h.part("sdb", "sdb1", "8:17")
			h.put("proc/self/mountinfo", `36 35 8:17 / /media/me/MY\040CARD rw shared:1 - vfat /dev/sdb1 rw`+"\n")
		}, "sdb", "in use (/media/me/MY CARD): unmount"},
		{"a card with btrfs mounted", func(h fakeHost) {
			h.disk("sdb", "8:16", sectors32GB, usb...)
			h.part("sdb", "sdb1", "8:17")
			h.put("proc/self/mountinfo", "36 35 0:41 / /mnt rw - btrfs /dev/sdb1 rw\n")
		}, "sdb", "in use (/mnt)"},
		{"a stick that the machine runs from", func(h fakeHost) {
			h.disk("sdb", "8:16", sectors32GB, usb...)
			h.part("sdb", "sdb2", "8:18")
			h.put("proc/self/mountinfo", "22 1 8:18 / / rw - ext4 /dev/sdb2 rw\n23 22 8:18 /x /boot rw - ext4 /dev/sdb2 rw\n")
		}, "sdb", "the disk that this machine runs from"},
		{"a stick with swap", func(h fakeHost) {
			h.disk("sdb", "8:16", sectors32GB, usb...)
			h.part("sdb", "sdb2", "8:18")
			h.put("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb2 partition 1 0 -2\n")
		}, "sdb", "in use (swap)"},
		{"a part of a volume group", func(h fakeHost) {
			h.disk("sdb", "8:16", sectors32GB, usb...)
			h.part("sdb", "sdb1", "8:17")
			h.put("sys/block/sdb/sdb1/holders/dm-0/x", "")
		}, "sdb", "in use (dm-0)"},
		{"another disk is mounted", func(h fakeHost) {
			h.disk("sdb", "8:16", sectors32GB, usb...)
			h.disk("sda", "8:0", sectors1TB)
			h.put("proc/self/mountinfo", "22 1 8:0 / / rw - ext4 /dev/sda rw\n")
		}, "sdb", ""},
		{"a reader without a card", func(h fakeHost) { h.disk("sdb", "8:16", "0", usb...) }, "sdb", "no card in it"},
		{"a write-protected card", func(h fakeHost) { h.disk("sdb", "8:16", sectors32GB, append([]string{"ro", "1"}, usb...)...) }, "sdb", "write-protected"},
		{"a card of 128 MB", func(h fakeHost) { h.disk("sdb", "8:16", "250000", usb...) }, "sdb", "too small: 128 MB, and 268"},
		{"a removable disk of a terabyte", func(h fakeHost) { h.disk("sdb", "8:16", sectors1TB, usb...) }, "sdb", "1000 GB, which is large"},
	} {
		h := newFakeHost(t)
		c.make(h)
		d, err := h.inspect(c.disk)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		err = d.Check(false)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v: want %q", c.name, err, c.want)
		}
		if d.Size > MaxCard && d.Removable && d.Check(true) != nil {
			t.Errorf("%s: refused although any size is allowed: %v", c.name, d.Check(true))
		}
	}
}

func TestInspectFollowsNames(t *testing.T) {
	h := newFakeHost(t)
	h.disk("sdb", "8:16", sectors32GB, "removable", "1", "device/vendor", "Generic ", "device/model", "Card Reader")
	if err := os.Symlink("sdb", filepath.Join(h.root, "dev", "my-reader")); err != nil {
		t.Fatal(err)
	}
	d, err := h.inspect("my-reader")
	if err != nil || d.Name != "sdb" || d.Model != "Generic Card Reader" || d.Size != 62521344*512 {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := h.inspect("sdz"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a disk that is not there: %v", err)
	}
	// The real machine: what is no block device is refused before anything is opened for writing.
	if _, err := ThisHost().Inspect(os.DevNull); !errors.Is(err, ErrRefused) {
		t.Errorf("a character device: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, card.SectorSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ThisHost().Inspect(file); !errors.Is(err, ErrRefused) {
		t.Errorf("a file: %v", err)
	}
}
