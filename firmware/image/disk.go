package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"fieldkit/firmware/card"
)

// Disk is a block device of this machine, as far as it matters for writing a card.
type Disk struct {
	Path      string // as it was given
	Name      string // the kernel's, such as sdb or mmcblk0
	Whole     string // of a partition, the name of its disk; "" is a whole disk
	Model     string // what it calls itself, as far as it does
	Size      int64  // bytes; 0 is a reader without a card
	Removable bool
	ReadOnly  bool
	Uses      []string // what uses it or one of its partitions: mount points and the like
}

// MaxCard is a larger disk than is taken for a card unasked, in bytes: it is more likely somebody's archive.
const MaxCard = 256_000_000_000

// ErrRefused is a disk that is not written to.
var ErrRefused = errors.New("not written to")

// Check refuses what is not a card that may be overwritten; large allows any size.
func (d Disk) Check(large bool) error {
	no := func(format string, a ...any) error {
		return fmt.Errorf("%w: %s "+format, append([]any{ErrRefused, d.Path}, a...)...)
	}
	switch {
	case d.Whole != "":
		return no("is a partition: name the whole disk, %s", d.Whole)
	case slices.Contains(d.Uses, "/"):
		return no("is the disk that this machine runs from")
	case len(d.Uses) > 0:
		return no("is in use (%s): unmount it first", strings.Join(d.Uses, ", "))
	case !d.Removable:
		return no("is not removable: it is a part of this machine, or somebody's hard disk")
	case d.Size == 0:
		return no("has no card in it")
	case d.ReadOnly:
		return no("is write-protected: look at the switch on the card's adapter")
	case d.Size < card.Size:
		return no("is too small: %d MB, and %d are needed", d.Size/1e6, card.Size/1e6)
	case d.Size > MaxCard && !large:
		return no("has %d GB, which is large for a card: is it the right one? then say --large", d.Size/1e9)
	}
	return nil
}

func (d Disk) String() string {
	s := fmt.Sprintf("%s, %.1f GB", d.Path, float64(d.Size)/1e9)
	if d.Model != "" {
		s += ", " + d.Model
	}
	return s
}

// Host is where to look at the disks of a machine.
type Host struct {
	Sys  string // where sysfs is, as /sys
	Proc string // where proc is, as /proc
	// Node tells the device number of a block device's node.
	Node func(path string) (major, minor uint32, err error)
}

// Inspect looks at a disk.
func (h Host) Inspect(path string) (Disk, error) {
	d := Disk{Path: path}
	real, err := filepath.EvalSymlinks(path) // /dev/disk/by-id/…
	if err != nil {
		return d, err
	}
	major, minor, err := h.Node(real)
	if err != nil {
		return d, err
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(h.Sys, "dev", "block", fmt.Sprintf("%d:%d", major, minor)))
	if err != nil {
		return d, fmt.Errorf("disk %s: %w", path, err)
	}
	d.Name = filepath.Base(dir)
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		d.Whole = filepath.Base(filepath.Dir(dir))
		return d, nil
	}
	sectors, err := strconv.ParseInt(attribute(dir, "size"), 10, 64)
	if err != nil {
		return d, fmt.Errorf("disk %s: size: %w", path, err)
	}
	d.Size = sectors * 512 // whatever the disk's own sectors are
	// The kernel calls a reader on the board itself not removable; the card in it is one all the same, unlike eMMC.
	d.Removable = attribute(dir, "removable") == "1" || attribute(dir, "device/type") == "SD"
	d.ReadOnly = attribute(dir, "ro") == "1"
	d.Model = strings.TrimSpace(attribute(dir, "device/vendor") + " " + attribute(dir, "device/model") + " " + attribute(dir, "device/name"))
	if strings.HasPrefix(d.Model, "0x") { // a number of the maker tells nobody anything
		d.Model = strings.TrimSpace(attribute(dir, "device/model") + " " + attribute(dir, "device/name"))
	}
	d.Uses, err = h.uses(dir)
	return d, err
}

func attribute(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// uses lists what uses a disk or one of its partitions.
func (h Host) uses(dir string) ([]string, error) {
	parts, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return nil, err
	}
	numbers, names := map[string]bool{}, map[string]bool{}
	var r []string
	for _, p := range append(parts, filepath.Join(dir, "whole")) {
		p = filepath.Dir(p)
		numbers[attribute(p, "dev")], names[filepath.Base(p)] = true, true
		holders, err := os.ReadDir(filepath.Join(p, "holders")) // volume groups, arrays, encryption
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, holder := range holders {
			r = append(r, holder.Name())
		}
	}
	mounts, err := os.ReadFile(filepath.Join(h.Proc, "self", "mountinfo"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		// 36 35 98:0 /root /mount/point options… - type source options (proc(5))
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		source := ""
		if i := slices.Index(f, "-"); i > 0 && i+2 < len(f) {
			source = f[i+2] // where the number is another, as with btrfs
		}
		if numbers[f[2]] || strings.HasPrefix(source, "/dev/") && names[filepath.Base(source)] {
			r = append(r, unescape(f[4]))
		}
	}
	swaps, err := os.ReadFile(filepath.Join(h.Proc, "swaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(swaps)) {
		if f := strings.Fields(line); len(f) > 0 && names[filepath.Base(f[0])] {
			r = append(r, "swap")
		}
	}
	slices.Sort(r)
	return slices.Compact(r), nil
}

// unescape undoes what proc does to blanks in a path: three octal digits.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
