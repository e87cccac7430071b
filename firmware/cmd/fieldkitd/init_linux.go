package main

import (
	"context"
	"os"
	"path/filepath"

	"fieldkit/firmware/boot"
)

// dispatch is what the one program of a card does under its other names. It returns only in the daemon.
func dispatch() {
	name := filepath.Base(os.Args[0])
	switch {
	case os.Getpid() == 1 && name == "init": // in a container the daemon may be the first process, too
		boot.Init()
	case name == boot.ModuleName:
		os.Exit(boot.Modprobe(os.Args[1:]))
	case name == boot.LightsName:
		boot.Lights(context.Background())
	default:
		return
	}
	os.Exit(1)
}
