package image

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/card"
)

// ThisHost is the machine that this runs on.
func ThisHost() Host { return Host{Sys: "/sys", Proc: "/proc", Node: blockNode} }

func blockNode(path string) (major, minor uint32, err error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, 0, fmt.Errorf("disk %s: %w", path, err)
	}
	if s.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, fmt.Errorf("%w: %s is not a disk", ErrRefused, path)
	}
	return unix.Major(s.Rdev), unix.Minor(s.Rdev), nil
}

// FlashDisk is Flash to a disk of this machine, which Check did not refuse.
func FlashDisk(ctx context.Context, image string, d Disk, progress Progress) (sum string, err error) {
	// The kernel gives it to one only: nobody mounts it meanwhile.
	claim, err := os.OpenFile(d.Path, os.O_RDWR|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return "", fmt.Errorf("%w: %s is in use", ErrRefused, d.Path)
	case errors.Is(err, os.ErrPermission):
		return "", fmt.Errorf("%w: writing to a disk is root's: try it with sudo", err)
	case err != nil:
		return "", err
	}
	defer func() { err = errors.Join(err, claim.Close()) }()
	disk, err := card.Open(d.Path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	if sum, err = Flash(ctx, image, disk, d.Size, progress); err != nil {
		return "", err
	}
	// The kernel reads the new partition table now or when the card is put in again.
	_ = unix.IoctlSetInt(int(claim.Fd()), unix.BLKRRPART, 0)
	return sum, nil
}
