//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// alone becomes a program that has directories for its running state, and a view of the network's devices, of its own: a
// second kit in one machine, in a network namespace.
func alone(args []string) error {
	if len(args) == 0 {
		return errors.New("a program")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("mounts of its own: %w", err)
	}
	for where, what := range map[string]string{"/run": "tmpfs", "/sys": "sysfs"} {
		if err := unix.Mount(what, where, what, 0, ""); err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
	}
	return unix.Exec(args[0], args, os.Environ())
}
