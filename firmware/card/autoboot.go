package card

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Autoboot is autoboot.txt: what the Pi firmware reads first.
type Autoboot struct {
	Committed Slot // boots
	Trial     Slot // boots once after `reboot "0 tryboot"`
}

// AutobootFor is the file when s is committed: the other slot is the one to try.
func AutobootFor(s Slot) Autoboot { return Autoboot{Committed: s, Trial: s.Other()} }

const autobootRemark = "# The kit rewrites this file in place: 512 bytes, one sector.\n"

// Render is the file, exactly one sector long, so that rewriting it in place is whole or not at all.
func (a Autoboot) Render() ([SectorSize]byte, error) {
	var out [SectorSize]byte
	if !a.Committed.Valid() || !a.Trial.Valid() || a.Committed == a.Trial {
		return out, fmt.Errorf("%w: %s: slots %d and %d", ErrInvalid, AutobootFile, a.Committed, a.Trial)
	}
	s := fmt.Sprintf("[all]\ntryboot_a_b=1\nboot_partition=%d\n[tryboot]\nboot_partition=%d\n%s", a.Committed, a.Trial, autobootRemark)
	// Comment lines of at most 64 bytes fill the rest: the firmware cuts long lines.
	for len(s) < SectorSize {
		n := min(64, SectorSize-len(s))
		if rest := SectorSize - len(s) - n; rest > 0 && rest < 2 {
			n -= 2 // leave room for a comment of its own
		}
		s += strings.Repeat("#", n-1) + "\n"
	}
	copy(out[:], s)
	return out, nil
}

// ParseAutoboot reads the file as the firmware does: sections [all] and [tryboot], the last value counts. It must be
// one sector long, because only then Commit can rewrite it.
func ParseAutoboot(b []byte) (Autoboot, error) {
	if len(b) != SectorSize {
		return Autoboot{}, fmt.Errorf("%w: %s: %d bytes: want %d", ErrInvalid, AutobootFile, len(b), SectorSize)
	}
	var a Autoboot
	section, ab := "all", false
	for line := range bytes.Lines(b) {
		l := strings.TrimSpace(string(line))
		switch key, value, _ := strings.Cut(l, "="); {
		case strings.HasPrefix(l, "["):
			section = l
			if l == "[all]" || l == "[tryboot]" {
				section = strings.Trim(l, "[]")
			}
		case key == "tryboot_a_b" && section == "all":
			ab = value == "1"
		case key == "boot_partition" && (section == "all" || section == "tryboot"):
			n, err := strconv.Atoi(value)
			if err != nil || !Slot(n).Valid() {
				return Autoboot{}, fmt.Errorf("%w: %s: boot_partition %q in [%s]", ErrInvalid, AutobootFile, value, section)
			}
			if section == "all" {
				a.Committed = Slot(n)
			} else {
				a.Trial = Slot(n)
			}
		}
	}
	if !ab || a.Committed == a.Trial || !a.Committed.Valid() || !a.Trial.Valid() {
		return Autoboot{}, fmt.Errorf("%w: %s: it does not name two slots", ErrInvalid, AutobootFile)
	}
	return a, nil
}

// Committed reads which slot boots.
func Committed(disk io.ReaderAt) (Slot, error) {
	_, a, err := autobootSector(disk)
	return a.Committed, err
}

// Commit makes s the slot that boots from now on, by rewriting the one sector of autoboot.txt in place, and returns
// when the card says that it is stored. A power cut leaves the old sector or the new one. It writes nothing if s is
// committed already. The boot partition must not be mounted.
func Commit(disk Disk, s Slot) error {
	if !s.Valid() {
		return fmt.Errorf("%w: commit of slot %d", ErrInvalid, s)
	}
	offset, old, err := autobootSector(disk)
	if err != nil {
		return err
	}
	if old == AutobootFor(s) {
		return nil
	}
	b, err := AutobootFor(s).Render()
	if err != nil {
		return err
	}
	if _, err := disk.WriteAt(b[:], offset); err != nil {
		return fmt.Errorf("commit of slot %v: %w", s, err)
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("commit of slot %v: %w", s, err)
	}
	got, err := Committed(disk)
	if err != nil {
		return fmt.Errorf("commit of slot %v: reading back: %w", s, err)
	}
	if got != s {
		return fmt.Errorf("commit of slot %v: the card still says %v", s, got)
	}
	return nil
}

// autobootSector finds the sector of autoboot.txt and what is in it. What cannot be parsed is never overwritten: it
// may be the sector of something else.
func autobootSector(disk io.ReaderAt) (offset int64, a Autoboot, err error) {
	if err := CheckMBR(disk); err != nil {
		return 0, Autoboot{}, err
	}
	v, err := openFAT(disk, Boot)
	if err != nil {
		return 0, Autoboot{}, err
	}
	f, err := v.find(AutobootFile)
	if err != nil {
		return 0, Autoboot{}, err
	}
	if f.size != SectorSize {
		return 0, Autoboot{}, fmt.Errorf("%w: %s: %d bytes: want %d", ErrInvalid, AutobootFile, f.size, SectorSize)
	}
	offset, err = v.cluster(f.first)
	if err != nil {
		return 0, Autoboot{}, err
	}
	var b [SectorSize]byte
	if err := readAt(disk, b[:], offset); err != nil {
		return 0, Autoboot{}, fmt.Errorf("%s: %w", AutobootFile, err)
	}
	a, err = ParseAutoboot(b[:])
	return offset, a, err
}
