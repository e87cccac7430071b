//go:build !linux

package firewall

import "errors"

var errUnsupported = errors.New("firewall: Linux alone has one that is known here")

// Count is how often a rule with a comment applied.
type Count struct {
	Rule    string
	Packets uint64
}

// Apply works on Linux alone.
func Apply(Ruleset) error { return errUnsupported }

// Check works on Linux alone.
func Check(Ruleset) ([]Count, error) { return nil, errUnsupported }

// Ephemeral works on Linux alone.
func Ephemeral() (Ports, error) { return Ports{}, errUnsupported }
