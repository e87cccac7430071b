package card

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// CheckMBR reads the first sector and tells, with an error, whether it is that of a kit's card with this layout. The
// disk may be larger than the layout, so the size is not looked at.
func CheckMBR(r io.ReaderAt) error {
	var s [SectorSize]byte
	if err := readAt(r, s[:], 0); err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	if s[510] != 0x55 || s[511] != 0xaa {
		return fmt.Errorf("%w: no partition table", ErrInvalid)
	}
	if id := binary.LittleEndian.Uint32(s[440:]); id != DiskID {
		return fmt.Errorf("%w: disk signature %08x: want %08x", ErrInvalid, id, DiskID)
	}
	for i, want := range Partitions() {
		e := s[446+16*i:]
		start, size := int64(binary.LittleEndian.Uint32(e[8:]))*SectorSize, int64(binary.LittleEndian.Uint32(e[12:]))*SectorSize
		if e[4] != want.Type || start != want.Offset || size != want.Size {
			return fmt.Errorf("%w: partition %d: type %#02x, %d bytes at %d: want %#02x, %d bytes at %d",
				ErrInvalid, want.Number, e[4], size, start, want.Type, want.Size, want.Offset)
		}
	}
	return nil
}

// EncodeMBR is the first sector: the partition table, and no boot code, because the boards' ROMs do not run any.
func EncodeMBR() [SectorSize]byte {
	var s [SectorSize]byte
	binary.LittleEndian.PutUint32(s[440:], DiskID)
	for i, p := range Partitions() {
		e := s[446+16*i:]
		if p == Boot {
			e[0] = 0x80 // active
		}
		copy(e[1:], chs(p.Offset/SectorSize))
		e[4] = p.Type
		copy(e[5:], chs((p.Offset+p.Size)/SectorSize-1))
		binary.LittleEndian.PutUint32(e[8:], uint32(p.Offset/SectorSize))
		binary.LittleEndian.PutUint32(e[12:], uint32(p.Size/SectorSize))
	}
	s[510], s[511] = 0x55, 0xaa
	return s
}

// chs is a sector's cylinder, head and sector for 255 heads of 63 sectors, which is what other tools write. Nothing
// reads it where the 32-bit numbers beside it suffice.
func chs(sector int64) []byte {
	const heads, sectors = 255, 63
	c, h, s := sector/(heads*sectors), sector/sectors%heads, sector%sectors+1
	if c > 1023 {
		c, h, s = 1023, heads-1, sectors
	}
	return []byte{byte(h), byte(s) | byte(c>>8)<<6, byte(c)}
}

// readAt fills b or fails; io.ReaderAt may return io.EOF with a full one.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
