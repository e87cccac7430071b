package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"fieldkit/firmware/card"
)

// Progress is told how far Flash is: done of total bytes of what it is doing.
type Progress func(what string, done, total int64)

// What a Progress is told that Flash does.
const (
	Writing   = "writing"
	Verifying = "verifying"
)

const flashChunk = 1 << 20

// ErrVerify is a card that does not give back what was written to it.
var ErrVerify = errors.New("the card does not hold what was written to it: it is broken, or not as large as it says")

// Flash writes an image, .img or .img.zst, to a disk of size bytes, reads it back and compares. It returns the SHA-256
// of the image.
//
// The first MiB, with the partition table, is zeroed first and written last: a card whose writing was cut off does not
// look like one of a kit. The last MiB of the disk is zeroed, too, because a copy of an earlier partition table may be
// there. What is between the image and that is left as it is; a kit does not look there.
func Flash(ctx context.Context, image string, disk card.Disk, size int64, progress Progress) (sum string, err error) {
	if size < card.Size {
		return "", fmt.Errorf("%w: %d bytes, and %d are needed", ErrRefused, size, card.Size)
	}
	in, closed, err := openImage(image)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, closed()) }()

	first, b, zero := make([]byte, flashChunk), make([]byte, flashChunk), make([]byte, flashChunk)
	if _, err := io.ReadFull(in, first); err != nil {
		return "", fmt.Errorf("image %s: %w", image, err)
	}
	if err := card.CheckMBR(bytes.NewReader(first)); err != nil {
		return "", fmt.Errorf("%s is not the image of a card: %w", image, err)
	}
	write := func(b []byte, at int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := disk.WriteAt(b, at); err != nil {
			return fmt.Errorf("writing at %d MB: %w", at/1e6, err)
		}
		return nil
	}
	if err := errors.Join(write(zero, 0), disk.Sync()); err != nil {
		return "", err
	}
	if end := (size - flashChunk) / flashChunk * flashChunk; end >= card.Size {
		if err := errors.Join(write(zero, end), write(zero[:(size-end-flashChunk)/card.SectorSize*card.SectorSize], end+flashChunk)); err != nil {
			return "", err
		}
	}
	want := sha256.New()
	want.Write(first)
	for at := int64(flashChunk); at < card.Size; at += flashChunk {
		if _, err := io.ReadFull(in, b); err != nil {
			return "", fmt.Errorf("image %s: at %d MB: %w", image, at/1e6, err)
		}
		want.Write(b)
		if err := write(b, at); err != nil {
			return "", err
		}
		progress(Writing, at+flashChunk, card.Size)
	}
	if n, err := in.Read(b[:1]); n > 0 || !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("image %s: larger than %d bytes, or damaged: %w", image, card.Size, errors.Join(err, card.ErrInvalid))
	}
	if err := disk.Sync(); err != nil {
		return "", fmt.Errorf("writing: %w", err)
	}
	if err := errors.Join(write(first, 0), disk.Sync()); err != nil {
		return "", err
	}

	got := sha256.New()
	for at := int64(0); at < card.Size; at += flashChunk {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if _, err := disk.ReadAt(b, at); err != nil {
			return "", fmt.Errorf("reading back at %d MB: %w", at/1e6, err)
		}
		got.Write(b)
		progress(Verifying, at+flashChunk, card.Size)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return "", ErrVerify
	}
	return hex.EncodeToString(want.Sum(nil)), nil
}
