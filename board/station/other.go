//go:build !linux

package station

import (
	"context"
	"errors"
)

var (
	errUnsupported = errors.New("links by radio work on Linux alone")
	errEnded       = errUnsupported
)

type supplicant struct{}

func start(Config, string, Heard) (*supplicant, error)   { return nil, errUnsupported }
func (*supplicant) status(context.Context) (bool, error) { return false, errUnsupported }
func (*supplicant) stop()                                {}
func addInterface(int, string) error                     { return errUnsupported }
func removeInterface(string) error                       { return nil }
func setUp(string, bool) error                           { return errUnsupported }
