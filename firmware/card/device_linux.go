package card

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is a card in the running kit. Writes go past the page cache: the kernel's cached block is larger than a
// sector, and writing a whole one for the sake of one sector could tear its neighbours.
type Device struct {
	f      *os.File
	direct bool

	mu     sync.Mutex
	bounce []byte // aligned as direct I/O wants it
}

// direct I/O wants memory, offset and length in units of the device's logical block: 512 bytes on SD cards; memory
// is aligned to a page, which is enough everywhere.
const page = 4096

// Open opens a card by the path of its device, or a file with the image of one.
func Open(path string) (*Device, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_DIRECT, 0)
	direct := err == nil
	if errors.Is(err, unix.EINVAL) { // a file system without direct I/O, such as tmpfs
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := &Device{f: os.NewFile(uintptr(fd), path), direct: direct}
	raw := make([]byte, 65*page)
	skip := (page - int(uintptr(unsafe.Pointer(&raw[0]))%page)) % page
	d.bounce = raw[skip : skip+64*page]
	return d, nil
}

// ReadAt reads any bytes, in whole sectors underneath.
func (d *Device) ReadAt(b []byte, at int64) (int, error) {
	if !d.direct {
		return d.f.ReadAt(b, at)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	done := 0
	for done < len(b) {
		from := (at + int64(done)) / SectorSize * SectorSize
		skip := int(at + int64(done) - from)
		want := min(len(d.bounce), (skip+len(b)-done+SectorSize-1)/SectorSize*SectorSize)
		n, err := d.f.ReadAt(d.bounce[:want], from)
		if n > skip {
			done += copy(b[done:], d.bounce[skip:n])
			if n == want {
				continue
			}
		}
		if done == len(b) {
			break
		}
		return done, err
	}
	return done, nil
}

// WriteAt writes whole sectors only.
func (d *Device) WriteAt(b []byte, at int64) (int, error) {
	if at%SectorSize != 0 || len(b)%SectorSize != 0 {
		return 0, fmt.Errorf("%w: write of %d bytes at %d is not of whole sectors", ErrInvalid, len(b), at)
	}
	if !d.direct {
		return d.f.WriteAt(b, at)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	done := 0
	for done < len(b) {
		n := copy(d.bounce, b[done:])
		n, err := d.f.WriteAt(d.bounce[:n], at+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Sync returns when the card says that everything is stored.
func (d *Device) Sync() error { return d.f.Sync() }

// Close closes the device.
func (d *Device) Close() error { return d.f.Close() }

// Location is where a card is on the running system.
type Location struct {
	Disk       string    // path of the device node, such as /dev/mmcblk0
	Partitions [5]string // paths of the partitions' nodes by number, 1 to 4; [0] is empty
}

// ErrNotFound is that no disk is a kit's card.
var ErrNotFound = errors.New("no card found")

// Locate finds the card among the disks of the system: sys is where sysfs is mounted, dev where the device nodes
// are. A card in the board's own slot comes before one on USB; among equals the first by name.
func Locate(sys, dev string) (Location, error) {
	disks, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return Location{}, fmt.Errorf("search for the card: %w", err)
	}
	var found []Location
	var why error
	for _, d := range disks {
		if _, err := os.Stat(filepath.Join(sys, "block", d.Name(), "device")); err != nil {
			continue // no hardware: a RAM disk, a loop device
		}
		l := Location{Disk: filepath.Join(dev, d.Name())}
		if err := checkNode(l.Disk); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				why = errors.Join(why, fmt.Errorf("%s: %w", d.Name(), err))
			}
			continue
		}
		if err := l.addPartitions(filepath.Join(sys, "block", d.Name()), dev); err != nil {
			why = errors.Join(why, err)
			continue
		}
		if ok, _ := filepath.Match("mmcblk*", d.Name()); ok {
			return l, nil
		}
		found = append(found, l)
	}
	if len(found) == 0 {
		return Location{}, errors.Join(ErrNotFound, why)
	}
	return found[0], nil
}

func checkNode(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return CheckMBR(f)
}

// addPartitions finds the nodes by the kernel's numbers of the partitions: the names are mmcblk0p1 here and sda1 there.
func (l *Location) addPartitions(dir, dev string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "partition"))
		if err != nil {
			continue // not a partition
		}
		var n int
		if _, err := fmt.Sscan(string(b), &n); err == nil && n >= 1 && n < len(l.Partitions) {
			l.Partitions[n] = filepath.Join(dev, e.Name())
		}
	}
	for n := range 4 {
		if l.Partitions[n+1] == "" {
			return fmt.Errorf("%s: no partition %d", l.Disk, n+1)
		}
	}
	return nil
}
