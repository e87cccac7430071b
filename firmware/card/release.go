package card

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// Product is what release.json and a bundle's manifest must say.
const Product = "fieldkit"

// MaxRelease is the largest release.json, in bytes.
const MaxRelease = 16 << 10

// Release is release.json: what is in a slot. It is in the slot and, as RuntimeRelease, in the initramfs.
type Release struct {
	Product  string    `json:"product"`  // Product
	Layout   int       `json:"layout"`   // LayoutVersion
	Version  string    `json:"version"`  // for people: tag, commits since, commit
	Sequence uint64    `json:"sequence"` // for comparing: the greater is the newer; seconds of Time
	Time     time.Time `json:"time"`     // of the commit that it was built from, UTC; the clock's floor
	Commit   string    `json:"commit"`   // whole hash; "-dirty" behind it if files differed
	Kernel   string    `json:"kernel"`   // of uname -r
	Flavour  string    `json:"flavour"`  // which kernel: "rpi" or "debian"; an update keeps to its own
	// Boards are what the device trees in the slot are for, as "compatible" in them has it, with a blank between two:
	// "brcm,bcm2837 brcm,bcm2711"; "" is any board.
	Boards string `json:"boards,omitempty"`
}

// Encode is the file.
func (r Release) Encode() ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

// ParseRelease reads release.json; keys that it does not know are a later version's, and let be.
func ParseRelease(b []byte) (Release, error) {
	var r Release
	if len(b) > MaxRelease {
		return r, fmt.Errorf("%w: %s: %d bytes", ErrInvalid, ReleaseFile, len(b))
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&r); err != nil {
		return Release{}, fmt.Errorf("%w: %s: %w", ErrInvalid, ReleaseFile, err)
	}
	return r, r.Validate()
}

// Validate checks what a person will read and what decides.
func (r Release) Validate() error {
	bad := func(key string, value any) error {
		return fmt.Errorf("%w: %s: %s %q", ErrInvalid, ReleaseFile, key, fmt.Sprint(value))
	}
	if r.Product != Product {
		return bad("product", r.Product)
	}
	if r.Layout < 1 {
		return bad("layout", r.Layout)
	}
	for key, s := range map[string]string{"version": r.Version, "commit": r.Commit, "kernel": r.Kernel, "flavour": r.Flavour} {
		if s == "" || len(s) > 128 || strings.IndexFunc(s, func(c rune) bool { return c > unicode.MaxASCII || !unicode.IsPrint(c) }) >= 0 {
			return bad(key, s)
		}
	}
	if len(r.Boards) > 1024 || strings.IndexFunc(r.Boards, func(c rune) bool { return c > unicode.MaxASCII || !unicode.IsPrint(c) }) >= 0 {
		return bad("boards", r.Boards)
	}
	if r.Time.Year() < 2020 || r.Time.Year() > 9999 {
		return bad("time", r.Time)
	}
	if r.Sequence == 0 {
		return bad("sequence", r.Sequence)
	}
	return nil
}

// ReadRelease reads release.json of a slot of a card or an image.
func ReadRelease(disk io.ReaderAt, s Slot) (Release, error) {
	if !s.Valid() {
		return Release{}, fmt.Errorf("%w: release of slot %d", ErrInvalid, s)
	}
	b, err := ReadFile(disk, s.Partition(), ReleaseFile, MaxRelease)
	if err != nil {
		return Release{}, err
	}
	return ParseRelease(b)
}
