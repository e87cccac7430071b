//go:build !linux

package links

import (
	"context"
	"errors"
)

// Run works on Linux alone.
func (l *Links) Run(context.Context, func()) error {
	return errors.New("interfaces can be set up on Linux alone")
}
