package card

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// A bundle is a slot as it travels: magic, manifest and signature, each with its length before it, then the slot's
// bytes, zstd-compressed. What the signature is, and who may sign, is the update's to decide: here it is bytes. It
// covers Signed(manifest), and the manifest has the hash of the slot.
const (
	bundleMagic  = "KITSLOT1"
	MaxManifest  = 32 << 10 // bytes
	MaxSignature = 64 << 10 // bytes
)

// Manifest is what a bundle says of the slot in it.
type Manifest struct {
	Release Release `json:"release"`
	Size    int64   `json:"size"`   // bytes of the slot, uncompressed, up to its last one in use
	SHA256  string  `json:"sha256"` // of these bytes, lower-case hexadecimal
}

// Validate checks that the manifest can be one of a slot with this layout.
func (m Manifest) Validate() error {
	if err := m.Release.Validate(); err != nil {
		return err
	}
	if m.Size <= 0 || m.Size > SlotA.Size || m.Size%SectorSize != 0 {
		return fmt.Errorf("%w: manifest: size %d", ErrInvalid, m.Size)
	}
	if b, err := hex.DecodeString(m.SHA256); err != nil || len(b) != sha256.Size || hex.EncodeToString(b) != m.SHA256 {
		return fmt.Errorf("%w: manifest: sha256 %q", ErrInvalid, m.SHA256)
	}
	return nil
}

// Header is what stands before the slot in a bundle.
type Header struct {
	Raw       []byte // the manifest as it was signed
	Manifest  Manifest
	Signature []byte
}

// Signed is what a signature of a bundle covers: the manifest under a name of its own, so that no signature made for
// another purpose fits.
func Signed(manifest []byte) []byte {
	return append([]byte("fieldkit slot manifest 1\x00"), manifest...)
}

// EncodeManifest is the manifest as it is to be signed.
func EncodeManifest(m Manifest) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(m)
}

// AppendHeader appends the header of a bundle; the compressed slot follows it.
func AppendHeader(b, manifest, signature []byte) ([]byte, error) {
	if len(manifest) > MaxManifest || len(signature) > MaxSignature || len(signature) == 0 {
		return nil, fmt.Errorf("%w: bundle: manifest of %d bytes, signature of %d", ErrInvalid, len(manifest), len(signature))
	}
	b = append(b, bundleMagic...)
	for _, part := range [][]byte{manifest, signature} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b, nil
}

// ReadHeader reads the header of a bundle and leaves r at the compressed slot. The signature is not verified.
func ReadHeader(r io.Reader) (Header, error) {
	var magic [len(bundleMagic)]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil {
		return Header{}, short(err)
	}
	if string(magic[:]) != bundleMagic {
		return Header{}, fmt.Errorf("%w: not an update", ErrInvalid)
	}
	var parts [2][]byte
	for i, limit := range [2]uint32{MaxManifest, MaxSignature} {
		var n [4]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return Header{}, short(err)
		}
		size := binary.BigEndian.Uint32(n[:])
		if size == 0 || size > limit {
			return Header{}, fmt.Errorf("%w: bundle: part of %d bytes", ErrInvalid, size)
		}
		parts[i] = make([]byte, size)
		if _, err := io.ReadFull(r, parts[i]); err != nil {
			return Header{}, short(err)
		}
	}
	h := Header{Raw: parts[0], Signature: parts[1]}
	if err := json.Unmarshal(h.Raw, &h.Manifest); err != nil {
		return Header{}, fmt.Errorf("%w: manifest: %w", ErrInvalid, err)
	}
	return h, h.Manifest.Validate()
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: bundle: cut off", ErrInvalid)
	}
	return err
}

// SlotReader reads a slot of a card or an image up to its last byte that is not zero, rounded up to 64 KiB, and says
// how many bytes that are: what is behind need not travel nor be written.
func SlotReader(disk io.ReaderAt, s Slot) (io.Reader, int64, error) {
	if !s.Valid() {
		return nil, 0, fmt.Errorf("%w: slot %d", ErrInvalid, s)
	}
	const step = 64 << 10
	p := s.Partition()
	b, zero := make([]byte, step), make([]byte, step)
	size := p.Size
	for ; size > 0; size -= step {
		if err := readAt(disk, b, p.Offset+size-step); err != nil {
			return nil, 0, fmt.Errorf("slot %v: %w", s, err)
		}
		if !bytes.Equal(b, zero) {
			break
		}
	}
	if size == 0 {
		return nil, 0, fmt.Errorf("%w: slot %v is empty", ErrInvalid, s)
	}
	return bufio.NewReaderSize(io.NewSectionReader(disk, p.Offset, size), step), size, nil
}

// ManifestOf makes the manifest of a slot of a card or an image.
func ManifestOf(disk io.ReaderAt, s Slot) (Manifest, error) {
	release, err := ReadRelease(disk, s)
	if err != nil {
		return Manifest{}, err
	}
	r, size, err := SlotReader(disk, s)
	if err != nil {
		return Manifest{}, err
	}
	h := sha256.New()
	if n, err := io.Copy(h, r); err != nil || n != size {
		return Manifest{}, fmt.Errorf("slot %v: %d of %d bytes: %w", s, n, size, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return Manifest{Release: release, Size: size, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}
