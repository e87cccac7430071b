package boot

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// volume is the state partition.
type volume interface {
	// check runs e2fsck; all has it repair what it can, whatever is lost by it. The error is one of running it at all.
	check(all bool) (status int, said string, err error)
	format() error // mke2fs: all that was there is lost
	mount() error
}

// e2fsck(8): the exit status is a sum.
const (
	fsckUncorrected = 4 // "File system errors left uncorrected"
	fsckFailed      = 8 // "Operational error", and all above
)

// permState is what became of the state partition.
type permState int

const (
	permKept   permState = iota // mounted with what was on it
	permMended                  // mounted; it had to be repaired by force, and something may be gone
	permMade                    // mounted and empty: it was beyond repair
	permNone                    // cannot be mounted: the state is in memory
)

// preparePerm mounts the state partition, whatever that takes: e2fsck -p, where that does not do e2fsck -y, and where
// neither helps mke2fs, because a kit without its state serves its handsets and one that does not come up serves
// nobody. It formats only what e2fsck or the kernel call damaged: a card that does not answer, or a kernel without
// ext4, is no reason to lose what is there. The error says what was wrong with it.
func preparePerm(v volume) (permState, error) {
	var errs []error
	state, damaged, silent := permKept, false, false
	for _, all := range []bool{false, true} {
		status, said, err := v.check(all)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("e2fsck: %w", err))
		case status >= fsckFailed:
			// No superblock is found, say; or the device does not read.
			errs = append(errs, fmt.Errorf("e2fsck: status %d: %s", status, gist(said)))
			damaged = true
		case status&fsckUncorrected != 0:
			errs = append(errs, fmt.Errorf("e2fsck: damage: %s", gist(said)))
			damaged = true
			continue
		}
		if all {
			state = permMended
		}
		err = v.mount()
		if err == nil {
			return state, errors.Join(errs...)
		}
		errs = append(errs, fmt.Errorf("mounting: %w", err))
		silent = errors.Is(err, syscall.EIO) // e2fsck has one status for that and for a superblock that is not there
		switch {
		case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.EUCLEAN), errors.Is(err, syscall.EBADMSG):
			damaged = true
		case errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENXIO):
			return permNone, errors.Join(errs...) // no ext4, or no card
		}
	}
	if !damaged || silent {
		return permNone, errors.Join(errs...)
	}
	if err := v.format(); err != nil {
		return permNone, errors.Join(append(errs, fmt.Errorf("mke2fs: %w", err))...)
	}
	if err := v.mount(); err != nil {
		return permNone, errors.Join(append(errs, fmt.Errorf("mounting what mke2fs made: %w", err))...)
	}
	return permMade, errors.Join(errs...)
}

// gist is one line of what a tool said, for a note: the first, as what follows is usually advice.
func gist(said string) string {
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return "it says nothing"
}
