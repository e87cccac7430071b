//go:build !linux

package netif

import "context"

func list() ([]Interface, error) { return listPortable() }

func subscribe(context.Context) (<-chan struct{}, error) { return nil, errUnsupported }
