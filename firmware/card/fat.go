package card

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf16"
)

// A reader of FAT32 root directories: enough to find a file by name and to read it. Every number on the disk is
// taken as hostile: sizes are checked against the partition, chains and directories are bounded.
const (
	maxDirectory = 2048 // entries of 32 bytes in a root directory
	maxFile      = 64 << 20
)

type volume struct {
	r           io.ReaderAt
	part        Partition
	clusterSize int64
	fat         int64 // offset of the first FAT
	data        int64 // offset of cluster 2
	clusters    uint32
	root        uint32
}

type file struct {
	first uint32
	size  int64
}

func openFAT(r io.ReaderAt, part Partition) (*volume, error) {
	var b [SectorSize]byte
	if err := readAt(r, b[:], part.Offset); err != nil {
		return nil, fmt.Errorf("partition %s: %w", part.Label, err)
	}
	bad := func(what string) error { return fmt.Errorf("%w: partition %s: %s", ErrInvalid, part.Label, what) }
	le := binary.LittleEndian
	sector, perCluster, reserved, fats := le.Uint16(b[11:]), int64(b[13]), int64(le.Uint16(b[14:])), int64(b[16])
	total, perFAT := int64(le.Uint32(b[32:])), int64(le.Uint32(b[36:]))
	switch {
	case b[510] != 0x55 || b[511] != 0xaa:
		return nil, bad("no boot sector")
	case sector != SectorSize:
		return nil, bad("sectors of other than 512 bytes")
	case perCluster == 0 || perCluster&(perCluster-1) != 0:
		return nil, bad("cluster size")
	case le.Uint16(b[22:]) != 0 || le.Uint16(b[17:]) != 0 || perFAT == 0:
		return nil, bad("not FAT32")
	case reserved == 0 || fats == 0 || fats > 2:
		return nil, bad("allocation tables")
	case total == 0 || total > part.Size/SectorSize || reserved+fats*perFAT >= total:
		return nil, bad("larger than its partition")
	}
	v := &volume{
		r: r, part: part, clusterSize: perCluster * SectorSize, fat: part.Offset + reserved*SectorSize,
		data: part.Offset + (reserved+fats*perFAT)*SectorSize, root: le.Uint32(b[44:]),
	}
	v.clusters = uint32(min((total-reserved-fats*perFAT)/perCluster, perFAT*SectorSize/4-2))
	return v, nil
}

// cluster is where cluster n begins.
func (v *volume) cluster(n uint32) (int64, error) {
	if n < 2 || n-2 >= v.clusters {
		return 0, fmt.Errorf("%w: partition %s: cluster %d", ErrInvalid, v.part.Label, n)
	}
	return v.data + int64(n-2)*v.clusterSize, nil
}

// next follows the chain; last is its end.
func (v *volume) next(n uint32) (next uint32, last bool, err error) {
	var b [4]byte
	if err := readAt(v.r, b[:], v.fat+4*int64(n)); err != nil {
		return 0, false, fmt.Errorf("partition %s: allocation table: %w", v.part.Label, err)
	}
	next = binary.LittleEndian.Uint32(b[:]) & 0x0fffffff
	return next, next >= 0x0ffffff8, nil
}

// read calls use with the clusters of a chain, at most limit bytes, until use says that it is done.
func (v *volume) read(first uint32, limit int64, use func([]byte) (done bool)) error {
	b := make([]byte, v.clusterSize)
	for n := first; limit > 0; {
		at, err := v.cluster(n)
		if err != nil {
			return err
		}
		part := b[:min(limit, v.clusterSize)]
		if err := readAt(v.r, part, at); err != nil {
			return fmt.Errorf("partition %s: %w", v.part.Label, err)
		}
		limit -= int64(len(part))
		if use(part) {
			return nil
		}
		next, last, err := v.next(n)
		if err != nil || last {
			return err
		}
		n = next
	}
	return nil
}

// find looks a file up in the root directory, by its long name or its 8.3 one, case not minded.
func (v *volume) find(name string) (found file, err error) {
	ok := false
	var long longName
	err = v.read(v.root, maxDirectory*32, func(b []byte) bool {
		for ; len(b) >= 32; b = b[32:] {
			switch attr := b[11]; {
			case b[0] == 0: // the end of the directory
				return true
			case b[0] == 0xe5:
				long = longName{}
			case attr&0x3f == 0x0f:
				long.add(b[:32])
			default:
				if attr&0x18 == 0 && (strings.EqualFold(long.name(b[:11]), name) || strings.EqualFold(shortName(b[:11]), name)) {
					le := binary.LittleEndian
					found = file{first: uint32(le.Uint16(b[20:]))<<16 | uint32(le.Uint16(b[26:])), size: int64(le.Uint32(b[28:]))}
					ok = true
					return true
				}
				long = longName{}
			}
		}
		return false
	})
	if err == nil && !ok {
		err = fmt.Errorf("partition %s: %s: %w", v.part.Label, name, fs.ErrNotExist)
	}
	return found, err
}

// shortName is the 8.3 name of a directory entry.
func shortName(b []byte) string {
	base, ext := strings.TrimRight(string(b[:8]), " "), strings.TrimRight(string(b[8:11]), " ")
	if ext == "" {
		return base
	}
	return base + "." + ext
}

// longName gathers the entries that stand, last part first, before the 8.3 entry.
type longName struct {
	part [20][13]uint16
	want byte // the next number that must come; 0 is none or all
	sum  byte
	n    int
}

func (l *longName) add(b []byte) {
	seq := b[0] & 0x3f
	if b[0]&0x40 != 0 && seq >= 1 && int(seq) <= len(l.part) {
		*l = longName{want: seq, sum: b[13], n: int(seq)}
	}
	if l.n == 0 || seq != l.want || seq == 0 || b[13] != l.sum {
		*l = longName{}
		return
	}
	for i, at := range [13]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
		l.part[seq-1][i] = binary.LittleEndian.Uint16(b[at:])
	}
	l.want--
}

// name is the long name if it is whole and belongs to the 8.3 name, else "".
func (l *longName) name(short []byte) string {
	sum := byte(0)
	for _, c := range short {
		sum = sum>>1 | sum<<7
		sum += c
	}
	if l.n == 0 || l.want != 0 || sum != l.sum {
		return ""
	}
	var u []uint16
	for i := range l.n {
		for _, c := range l.part[i] {
			if c == 0 || c == 0xffff {
				return string(utf16.Decode(u))
			}
			u = append(u, c)
		}
	}
	return string(utf16.Decode(u))
}

// ReadFile reads a file of at most limit bytes from the root directory of a FAT partition of the card, without
// mounting it. A file that is not there is fs.ErrNotExist.
func ReadFile(disk io.ReaderAt, part Partition, name string, limit int) ([]byte, error) {
	v, err := openFAT(disk, part)
	if err != nil {
		return nil, err
	}
	f, err := v.find(name)
	if err != nil {
		return nil, err
	}
	if f.size > int64(min(limit, maxFile)) {
		return nil, fmt.Errorf("%w: %s: %d bytes, more than %d", ErrInvalid, name, f.size, limit)
	}
	var out []byte
	if f.size > 0 {
		if err := v.read(f.first, f.size, func(b []byte) bool { out = append(out, b...); return false }); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if int64(len(out)) != f.size {
		return nil, fmt.Errorf("%w: %s: %d of %d bytes", ErrInvalid, name, len(out), f.size)
	}
	return out, nil
}
