package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mountPoint is one file system that the kernel provides.
type mountPoint struct {
	source, target, kind string
	flags                uintptr
	data                 string
	optional             bool // a kernel may do without
}

// Nothing on a kit is run from where something can be written, and nothing there is a device.
const (
	plain   = unix.MS_NOSUID | unix.MS_NODEV
	noExec  = plain | unix.MS_NOEXEC
	runSize = "size=16m,nr_inodes=4k,mode=0755" // settings, sockets, and the state where there is no card
	tmpSize = "size=64m,nr_inodes=4k,mode=1777"
)

// mountPoints in the order in which they are mounted: each needs those before it. The root file system is in memory
// and becomes read-only, so what can grow is bounded by the two sizes and by the state partition's.
var mountPoints = []mountPoint{
	{source: "proc", target: "/proc", kind: "proc", flags: noExec},
	{source: "sysfs", target: "/sys", kind: "sysfs", flags: noExec},
	{source: "devtmpfs", target: "/dev", kind: "devtmpfs", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "mode=0755"},
	{source: "devpts", target: "/dev/pts", kind: "devpts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "mode=0620,ptmxmode=0666", optional: true},
	{source: "tmpfs", target: "/run", kind: "tmpfs", flags: noExec, data: runSize},
	{source: "tmpfs", target: "/tmp", kind: "tmpfs", flags: noExec, data: tmpSize},
	{source: "pstore", target: "/sys/fs/pstore", kind: "pstore", flags: noExec, optional: true},
}

// mountAll mounts them and goes on where one fails. A file system that is mounted already is left.
func mountAll(mount func(mountPoint) error) error {
	var errs []error
	for _, m := range mountPoints {
		err := mount(m)
		if err != nil && !errors.Is(err, unix.EBUSY) && !m.optional {
			errs = append(errs, fmt.Errorf("mounting %s: %w", m.target, err))
		}
	}
	return errors.Join(errs...)
}

func mount(m mountPoint) error {
	// Below a file system of the kernel's own there is nothing to make.
	if err := os.MkdirAll(m.target, 0o755); err != nil && !m.optional {
		return err
	}
	return unix.Mount(m.source, m.target, m.kind, m.flags, m.data)
}

// permMount is where the state partition is mounted.
const permMount = "/perm"

// statePartition is the volume on a card.
type statePartition struct {
	device string
	run    func(argv ...string) (int, string, error)
}

func (v statePartition) check(all bool) (int, string, error) {
	how := "-p"
	if all {
		how = "-y"
	}
	return v.run("/sbin/e2fsck", how, v.device)
}

func (v statePartition) format() error {
	status, said, err := v.run("/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", "perm", "-b", "4096", "-I", "256", "-N", "4096", "-m", "0", "-J", "size=4", v.device)
	if err == nil && status != 0 {
		err = fmt.Errorf("status %d: %s", status, gist(said))
	}
	return err
}

// mount: an error of the card makes the file system read-only rather than the kernel panic, and what was written is
// on the card within five seconds even where nobody syncs.
func (v statePartition) mount() error {
	return unix.Mount(v.device, permMount, "ext4", plain|unix.MS_NOEXEC|unix.MS_NOATIME, "errors=remount-ro,commit=5")
}

// volatilePerm mounts memory in the place of the state partition.
func volatilePerm() error {
	return unix.Mount("tmpfs", permMount, "tmpfs", noExec, "size=16m,nr_inodes=4k,mode=0755")
}

// unmountPerm puts the state partition in order before the power goes. Whatever still has a file open there must not
// keep it from being clean.
func unmountPerm() error {
	err := unix.Unmount(permMount, 0)
	if err == nil || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if e := unix.Mount("", permMount, "", unix.MS_REMOUNT|unix.MS_RDONLY|plain|unix.MS_NOEXEC, ""); e != nil {
		return errors.Join(fmt.Errorf("unmounting %s: %w", permMount, err), fmt.Errorf("making it read-only: %w", e))
	}
	return nil
}

// sealRoot makes the root file system read-only: what a kit writes there would be in memory, without bound.
func sealRoot() error {
	return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
}
