package boot

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// rebootWith is reboot(2) with an argument for the firmware, LINUX_REBOOT_CMD_RESTART2.
func rebootWith(arg string) error {
	b, err := unix.BytePtrFromString(arg)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2,
		unix.LINUX_REBOOT_CMD_RESTART2, uintptr(unsafe.Pointer(b)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
