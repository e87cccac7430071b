package update

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"fieldkit/firmware/card"
)

const (
	chunk = 256 << 10 // bytes written and read at a time: whole sectors, and whole blocks of a card's flash
	// maxWindow bounds what a stranger's stream can make the decoder keep, in bytes. RFC 8878 §3.1.1.1.2: "it's
	// recommended for decoders to support values of Window_Size up to 8 MB".
	maxWindow = 8 << 20
)

// slack is how much larger than what is in it a bundle may be, in bytes: frames, and blocks that do not compress.
const slack = 1 << 20

// writeSlot writes the slot of a bundle, whose header was read already, and returns when the card has it: what is read
// back has the digest of the manifest and the release that it names. It touches nothing but the slot. Each time that
// some of it is written, progress is told how many bytes.
func writeSlot(ctx context.Context, disk card.Disk, slot card.Slot, m card.Manifest, body io.Reader, progress func(int)) error {
	z, err := zstd.NewReader(io.LimitReader(body, m.Size+slack), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return fmt.Errorf("decoder of the update: %w", err)
	}
	defer z.Close()
	part := slot.Partition()
	sum := sha256.New()
	b := make([]byte, chunk)
	for done := int64(0); done < m.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := b[:min(chunk, m.Size-done)]
		if _, err := io.ReadFull(z, c); err != nil {
			return bodyError(err)
		}
		sum.Write(c)
		if _, err := disk.WriteAt(c, part.Offset+done); err != nil {
			return fmt.Errorf("slot %v: %w", slot, err)
		}
		done += int64(len(c))
		progress(len(c))
	}
	switch n, err := io.ReadFull(z, b[:1]); {
	case n > 0:
		return fmt.Errorf("%w: more than the %d bytes that it says", ErrTooLarge, m.Size)
	case !errors.Is(err, io.EOF):
		return bodyError(err)
	}
	if got := digest(sum); got != m.SHA256 {
		return fmt.Errorf("%w: SHA-256 %s, the manifest says %s", ErrDamaged, got, m.SHA256)
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("slot %v: %w", slot, err)
	}
	return checkSlot(ctx, disk, slot, m)
}

func digest(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// bodyError tells an end that came too early, and what is no Zstandard, from a connection that failed.
func bodyError(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends before the slot does", ErrTruncated)
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return fmt.Errorf("%w: it wants more memory than %d bytes: %w", ErrTooLarge, maxWindow, err)
	case errors.Is(err, zstd.ErrMagicMismatch), errors.Is(err, zstd.ErrCRCMismatch), errors.Is(err, zstd.ErrReservedBlockType),
		errors.Is(err, zstd.ErrCompressedSizeTooBig), errors.Is(err, zstd.ErrBlockTooSmall), errors.Is(err, zstd.ErrUnexpectedBlockSize),
		errors.Is(err, zstd.ErrFrameSizeExceeded), errors.Is(err, zstd.ErrFrameSizeMismatch), errors.Is(err, zstd.ErrUnknownDictionary):
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return fmt.Errorf("update: %w", err)
}

// checkSlot reads a slot from the card and compares it with what it should be.
func checkSlot(ctx context.Context, disk io.ReaderAt, slot card.Slot, m card.Manifest) error {
	sum := sha256.New()
	if err := copySlot(ctx, sum, disk, slot, m.Size); err != nil {
		return err
	}
	if got := digest(sum); got != m.SHA256 {
		return fmt.Errorf("%w: slot %v reads as SHA-256 %s and should as %s: the card may be failing", ErrDamaged, slot, got, m.SHA256)
	}
	r, err := card.ReadRelease(disk, slot)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if r != m.Release {
		return fmt.Errorf("%w: it is release %s (%d), the manifest says %s (%d)", ErrDamaged, r.Version, r.Sequence, m.Release.Version, m.Release.Sequence)
	}
	return nil
}

// copySlot copies the first size bytes of a slot.
func copySlot(ctx context.Context, w io.Writer, disk io.ReaderAt, slot card.Slot, size int64) error {
	b := make([]byte, chunk)
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := b[:min(chunk, size-done)]
		if n, err := disk.ReadAt(c, slot.Partition().Offset+done); n < len(c) {
			return fmt.Errorf("slot %v: %w", slot, errors.Join(err, io.ErrUnexpectedEOF))
		}
		if _, err := w.Write(c); err != nil {
			return err
		}
		done += int64(len(c))
	}
	return nil
}

// WriteBundle writes a bundle: a header as Sign made it, and the slot that it is for, of a card or an image.
func WriteBundle(ctx context.Context, w io.Writer, header []byte, disk io.ReaderAt, slot card.Slot, size int64) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	// The fastest level: a kit makes it anew for each neighbour, and a slot's kernel and initramfs are compressed already.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return fmt.Errorf("encoder of the update: %w", err)
	}
	if err := copySlot(ctx, z, disk, slot, size); err != nil {
		return errors.Join(err, z.Close())
	}
	return z.Close()
}
