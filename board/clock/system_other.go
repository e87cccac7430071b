//go:build !linux

package clock

import (
	"errors"
	"io"
	"io/fs"
	"time"
)

// Set is for boards.
func Set(time.Time) error { return errors.ErrUnsupported }

// Slow is for boards.
func Slow(time.Duration) error { return errors.ErrUnsupported }

// Kept is true of a developer's machine.
func Kept() bool { return true }

// ReadChip is for boards.
func ReadChip() (time.Time, error) { return time.Time{}, fs.ErrNotExist }

// SetChip is for boards.
func SetChip(time.Time) error { return errors.ErrUnsupported }

// Receivers is for boards.
func Receivers() []string { return nil }

// OpenReceiver is for boards.
func OpenReceiver(string) (io.ReadCloser, error) { return nil, errors.ErrUnsupported }
