package initlink

import (
	"time"

	"golang.org/x/sys/unix"
)

// SinceKernel is how long ago the kernel started. Both ends of a Link measure with it, so their stages compare.
func SinceKernel() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}
