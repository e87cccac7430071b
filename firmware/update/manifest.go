package update

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"fieldkit/firmware/card"
)

// What a bundle is refused for, or an update fails for. The error that wraps one names what was wrong.
var (
	ErrMalformed = errors.New("not an update")
	ErrForeign   = errors.New("update not signed by this mission")
	ErrBoard     = errors.New("update for something else")
	ErrOlder     = errors.New("older update")
	ErrSame      = errors.New("update is there already")
	ErrFailed    = errors.New("update failed on this kit before")
	ErrTooLarge  = errors.New("update too large")
	ErrTruncated = errors.New("update cut short")
	ErrDamaged   = errors.New("update damaged")
	ErrSlow      = errors.New("update comes too slowly")
	ErrBusy      = errors.New("another update is under way")
	ErrNoCard    = errors.New("this kit does not run from a card with two slots")
)

// System is a kit's hardware and the system that runs on it.
type System struct {
	Release card.Release
	Boards  []string // what the board calls itself, the most exact name first: "compatible" of its device tree
	Slot    card.Slot
}

// fits tells whether a release is for this kit.
func (s System) fits(r card.Release) error {
	no := func(what string, got, want any) error {
		return fmt.Errorf("%w: %s %v, this kit has %v", ErrBoard, what, got, want)
	}
	switch {
	case r.Product != s.Release.Product:
		return no("product", r.Product, s.Release.Product)
	case r.Layout != s.Release.Layout:
		return no("card layout", r.Layout, s.Release.Layout)
	case r.Flavour != s.Release.Flavour:
		return no("flavour", r.Flavour, s.Release.Flavour)
	case r.Boards != "" && !slices.ContainsFunc(strings.Fields(r.Boards), func(b string) bool { return slices.Contains(s.Boards, b) }):
		return no("boards", r.Boards, strings.Join(s.Boards, " "))
	}
	return nil
}

// Sign makes the header of a bundle for the slot that m describes. sign is the mission's own voice, see
// mission.Mission.SignUpdate.
func Sign(m card.Manifest, sign func(blob []byte) ([]byte, error)) ([]byte, error) {
	raw, err := card.EncodeManifest(m)
	if err != nil {
		return nil, err
	}
	s, err := sign(card.Signed(raw))
	if err != nil {
		return nil, fmt.Errorf("signature of the update: %w", err)
	}
	return card.AppendHeader(nil, raw, s)
}
