// Package card is what is where on a kit's memory card: the partition table, the file names, autoboot.txt, which
// decides the slot that boots, the personalisation area before the first partition, release.json, and the container
// in which a slot travels as an update. The builder of images, PID 1, the update and the emulator all read it here,
// so that they cannot differ.
//
// It writes two things only: the one sector of autoboot.txt (Commit) and zeros over the personalisation area (Erase).
// It mounts nothing, signs nothing and keeps no state: every function may be called by any goroutine, but two at a
// time must not write to one card. Every parser is total: a card may be torn, old or hostile.
package card

import (
	"errors"
	"io"
)

// SectorSize is the unit in which a card is written whole or not at all.
const SectorSize = 512

const mib = 1 << 20

// DiskID is the MBR disk signature of every kit's card. Cards are found by it, never by a device name: the same slot
// is mmcblk0 on one board and mmcblk1 on another.
const DiskID uint32 = 0x4b495430 // "KIT0"

// LayoutVersion counts changes of the partition table or of a file's meaning that an update cannot bring, because it
// replaces one slot only.
const LayoutVersion = 1

// ErrInvalid is something on a card that is not what this package writes there.
var ErrInvalid = errors.New("card")

// Partition is one of the four.
type Partition struct {
	Number int    // 1 to 4, as in the MBR and in boot_partition of autoboot.txt
	Label  string // as built; an update brings that of the slot that it was made of, so nothing goes by it
	Type   byte   // of the MBR entry
	Volume uint32 // of a FAT, likewise
	Offset int64  // bytes from the start of the card
	Size   int64  // bytes
}

// The personalisation area: a gap before the first partition, which no file system uses.
const (
	PersonalOffset int64 = 512 << 10
	PersonalSize   int64 = 512 << 10
)

// The partitions. Each begins on a multiple of 4 MiB, and so on an erase block of the card's own: what a card does to a
// block when the state or autoboot.txt is written, or the power fails meanwhile, happens to that partition alone. Boot
// is FAT32 although it holds a few small files: the Compute Module 3's ROM fails on FAT16 (raspberrypi/firmware#1738).
// The sizes add up to a power of two, which emulated SD cards must have.
var (
	Boot  = Partition{Number: 1, Label: "KITBOOT", Type: 0x0c, Volume: 0x4b495430, Offset: 4 * mib, Size: 44 * mib}
	SlotA = Partition{Number: 2, Label: "KIT-A", Type: 0x0c, Volume: 0x4b495441, Offset: 48 * mib, Size: 72 * mib}
	SlotB = Partition{Number: 3, Label: "KIT-B", Type: 0x0c, Volume: 0x4b495442, Offset: 120 * mib, Size: 72 * mib}
	Perm  = Partition{Number: 4, Label: "perm", Type: 0x83, Offset: 192 * mib, Size: 64 * mib}
)

// Size is that of an image, in bytes; a card may be larger.
const Size int64 = 256 * mib

// Partitions are the four in order.
func Partitions() [4]Partition { return [4]Partition{Boot, SlotA, SlotB, Perm} }

// Slot names one of the two systems of a card.
type Slot int

// The slots, by their partition numbers.
const (
	A Slot = 2
	B Slot = 3
)

// Valid tells whether s is a slot.
func (s Slot) Valid() bool { return s == A || s == B }

// Other is the slot that an update is written to while s runs.
func (s Slot) Other() Slot {
	if s == A {
		return B
	}
	return A
}

// Partition is where the slot is.
func (s Slot) Partition() Partition {
	if s == B {
		return SlotB
	}
	return SlotA
}

func (s Slot) String() string {
	switch s {
	case A:
		return "A"
	case B:
		return "B"
	}
	return "no slot"
}

// Files of the boot partition.
const (
	AutobootFile = "autoboot.txt" // which slot boots
	KitFile      = "kit.toml"     // the operator's settings
	MissionFile  = "kit.mission"  // a mission that an operator put there by hand
)

// Files of a slot.
const (
	KernelFile   = "kernel8.img"
	InitrdFile   = "initrd.zst"
	ConfigFile   = "config.txt"  // the Pi firmware's
	CmdlineFile  = "cmdline.txt" // the kernel's
	ReleaseFile  = "release.json"
	PackagesFile = "packages.txt"
	LicensesDir  = "LICENSES"
)

// Paths on the running system, inside the initramfs.
const (
	RuntimeRelease = "/etc/fieldkit/release.json"
	LoadOrderFile  = "load.order" // below /lib/modules/VERSION: modules in the order to load them at boot
)

// Disk is a card, or a file that has the image of one. *os.File is a Disk; Open opens one on the running kit.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}
