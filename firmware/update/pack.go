package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"fieldkit/firmware/card"
)

// Pack makes the bundle of an image of a card, .img or .img.zst, on the operator's machine: the slot that boots in it,
// signed, see Sign. It returns what is in it.
func Pack(ctx context.Context, w io.Writer, path string, sign func(blob []byte) ([]byte, error)) (m card.Manifest, err error) {
	img, err := openImage(ctx, path)
	if err != nil {
		return m, fmt.Errorf("image %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	slot, err := card.Committed(img)
	if err != nil {
		return m, fmt.Errorf("image %s: %w", path, err)
	}
	if m, err = card.ManifestOf(img, slot); err != nil {
		return m, fmt.Errorf("image %s: %w", path, err)
	}
	header, err := Sign(m, sign)
	if err != nil {
		return m, err
	}
	return m, WriteBundle(ctx, w, header, img, slot, m.Size)
}

// IsBundle tells by its first bytes whether a file is a bundle already, and reads its header. It believes nothing of it.
func IsBundle(path string) (m card.Manifest, ok bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, false, err
	}
	defer f.Close()
	h, err := card.ReadHeader(f)
	if err != nil {
		return m, false, nil
	}
	return h.Manifest, true, nil
}

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd} // RFC 8878 §3.1.1

// openImage opens an image to be read anywhere: one that is compressed is unpacked into a file that has no name.
func openImage(ctx context.Context, path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	start := make([]byte, len(zstdMagic))
	if _, err := io.ReadFull(f, start); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil || !bytes.Equal(start, zstdMagic) {
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
	defer f.Close()
	z, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	t, err := os.CreateTemp("", "fieldkit-image-*")
	if err != nil {
		return nil, err
	}
	err = os.Remove(t.Name())
	if err == nil {
		_, err = io.Copy(t, io.LimitReader(z, card.Size))
	}
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}
