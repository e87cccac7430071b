package capture

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Block types of pcapng (draft-ietf-opsawg-pcapng §4) that are read, and the byte-order magic of a section.
const (
	blockSection   = 0x0a0d0d0a // the same in both byte orders
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockSecrets   = 10
	blockEnhanced  = 6

	byteOrderMagic = 0x1a2b3c4d
	secretsTLS     = 0x544c534b // "TLSK": a key log in the NSS format
)

// Bounds on what a capture may make its reader keep.
const (
	maxPacket     = 1 << 20 // bytes of a captured packet, and of a pcapng block
	maxInterfaces = 1 << 10 // in a section of pcapng
)

// blocks passes on the blocks of a pcapng file that describe sections, interfaces and packets, and takes the key logs out of
// it. The rest, names and statistics, would only pile up in the reader behind it.
type blocks struct {
	r          *bufio.Reader
	order      binary.ByteOrder
	interfaces int
	left       int64 // bytes of the current block that are still to be passed on
	secrets    func(KeyLog)
	err        error // why the file was not read to its end; the reader behind may take that for the end
}

// Read reads the blocks that are passed on.
func (b *blocks) Read(p []byte) (int, error) {
	for b.left == 0 {
		if err := b.next(); err != nil {
			return 0, b.fail(err)
		}
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, b.fail(cut(err))
}

func (b *blocks) fail(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return err
}

// next looks at a block, and disposes of one that is not passed on.
func (b *blocks) next() error {
	head, err := b.r.Peek(12)
	if len(head) == 0 {
		return err
	}
	if err != nil {
		return io.ErrUnexpectedEOF
	}
	typ := binary.BigEndian.Uint32(head)
	if typ == blockSection {
		b.interfaces = 0
		switch uint32(byteOrderMagic) {
		case binary.BigEndian.Uint32(head[8:]):
			b.order = binary.BigEndian
		case binary.LittleEndian.Uint32(head[8:]):
			b.order = binary.LittleEndian
		default:
			return fmt.Errorf("%w: section in no byte order", ErrCapture)
		}
	} else if b.order == nil {
		return fmt.Errorf("%w: block outside a section", ErrCapture)
	} else {
		typ = b.order.Uint32(head)
	}
	length := int64(b.order.Uint32(head[4:]))
	if length < 12 || length%4 != 0 {
		return fmt.Errorf("%w: block of %d bytes", ErrCapture, length)
	}
	switch typ {
	case blockInterface:
		if b.interfaces++; b.interfaces > maxInterfaces {
			return fmt.Errorf("%w: more than %d interfaces", ErrCapture, maxInterfaces)
		}
		fallthrough
	case blockSection, blockPacket, blockSimple, blockEnhanced:
		if length > maxPacket {
			return fmt.Errorf("%w: block of %d bytes", ErrCapture, length)
		}
		b.left = length
		return nil
	case blockSecrets:
		if length <= maxPacket {
			return b.keyLog(int(length))
		}
	}
	_, err = io.CopyN(io.Discard, b.r, length)
	return cut(err)
}

// keyLog reads a block of decryption secrets.
func (b *blocks) keyLog(length int) error {
	const head, tail = 8 + 8, 4 // of the block and of the secrets, and the length once more
	block := make([]byte, length)
	if _, err := io.ReadFull(b.r, block); err != nil {
		return cut(err)
	}
	if length < head+tail || b.order.Uint32(block[8:]) != secretsTLS {
		return nil
	}
	size := b.order.Uint32(block[12:])
	if int64(size) > int64(length-head-tail) {
		return fmt.Errorf("%w: secrets of %d bytes in a block of %d", ErrCapture, size, length)
	}
	keys, err := ReadKeyLog(bytes.NewReader(block[head:][:size]))
	if err != nil {
		return err
	}
	b.secrets(keys)
	return nil
}

// cut makes of the end of a file that comes too early an error that is not taken for its end.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
