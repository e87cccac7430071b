package card

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Personal is what makes a card out of the neutral image one of a mission: settings and the mission file. It holds
// secrets: the mission's root key, or at least the Wi-Fi passphrase.
type Personal struct {
	Kit     []byte // kit.toml; empty is none
	Mission []byte // the mission file; empty is none
}

// MaxPersonal is how many bytes both files of a Personal may have together.
const MaxPersonal = int(PersonalSize) - personalHeader - 8

// What ReadPersonal finds instead of a Personal.
var (
	ErrNoPersonal = errors.New("no personalisation")           // a neutral or an erased card
	ErrTorn       = errors.New("personalisation not complete") // torn, half erased, or not of this version
)

// The area: magic, version, length and SHA-256 of the content, then the content: each file with its length before it.
const (
	personalMagic   = "KITPERSO"
	personalVersion = 1
	personalHeader  = 8 + 4 + 4 + sha256.Size
)

// EncodePersonal is the personalisation area, PersonalSize bytes long.
func EncodePersonal(p Personal) ([]byte, error) {
	if len(p.Kit)+len(p.Mission) > MaxPersonal {
		return nil, fmt.Errorf("%w: personalisation of %d bytes, more than %d", ErrInvalid, len(p.Kit)+len(p.Mission), MaxPersonal)
	}
	b := make([]byte, personalHeader, PersonalSize)
	for _, f := range [][]byte{p.Kit, p.Mission} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	content := b[personalHeader:]
	sum := sha256.Sum256(content)
	copy(b, personalMagic)
	binary.BigEndian.PutUint32(b[8:], personalVersion)
	binary.BigEndian.PutUint32(b[12:], uint32(len(content)))
	copy(b[16:], sum[:])
	return b[:PersonalSize], nil
}

// DecodePersonal reads the area. An area that begins with zeros is ErrNoPersonal, one that is not whole is ErrTorn.
func DecodePersonal(b []byte) (Personal, error) {
	if len(b) < personalHeader {
		return Personal{}, fmt.Errorf("%w: %d bytes", ErrTorn, len(b))
	}
	if !bytes.Equal(b[:8], []byte(personalMagic)) {
		if allZero(b[:personalHeader]) {
			return Personal{}, ErrNoPersonal
		}
		return Personal{}, fmt.Errorf("%w: unknown magic", ErrTorn)
	}
	if v := binary.BigEndian.Uint32(b[8:]); v != personalVersion {
		return Personal{}, fmt.Errorf("%w: version %d", ErrTorn, v)
	}
	n := binary.BigEndian.Uint32(b[12:])
	if int64(n) > int64(len(b)-personalHeader) {
		return Personal{}, fmt.Errorf("%w: length %d", ErrTorn, n)
	}
	content := b[personalHeader:][:n]
	if sum := sha256.Sum256(content); !bytes.Equal(sum[:], b[16:personalHeader]) {
		return Personal{}, fmt.Errorf("%w: checksum", ErrTorn)
	}
	var files [2][]byte
	for i := range files {
		if len(content) < 4 {
			return Personal{}, fmt.Errorf("%w: file %d", ErrTorn, i)
		}
		n := binary.BigEndian.Uint32(content)
		content = content[4:]
		if int64(n) > int64(len(content)) {
			return Personal{}, fmt.Errorf("%w: file %d of %d bytes", ErrTorn, i, n)
		}
		files[i], content = bytes.Clone(content[:n]), content[n:]
	}
	if len(content) != 0 {
		return Personal{}, fmt.Errorf("%w: %d bytes too many", ErrTorn, len(content))
	}
	return Personal{Kit: files[0], Mission: files[1]}, nil
}

// ReadPersonal reads the area of a card.
func ReadPersonal(disk io.ReaderAt) (Personal, error) {
	b := make([]byte, PersonalSize)
	if err := readAt(disk, b, PersonalOffset); err != nil {
		return Personal{}, fmt.Errorf("personalisation: %w", err)
	}
	return DecodePersonal(b)
}

// WritePersonal personalises a card or an image.
func WritePersonal(disk Disk, p Personal) error {
	b, err := EncodePersonal(p)
	if err != nil {
		return err
	}
	if _, err := disk.WriteAt(b, PersonalOffset); err != nil {
		return fmt.Errorf("personalisation: %w", err)
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("personalisation: %w", err)
	}
	return nil
}

// ErasePersonal overwrites the area with zeros: first the content, then the header, each stored before it goes on.
// After a power cut between, ReadPersonal still says ErrTorn, and erasing is done again; it never says ErrNoPersonal
// while content is left. The flash below may keep old copies that no reader of the card's interface sees.
func ErasePersonal(disk Disk) error {
	zero := make([]byte, PersonalSize)
	for _, part := range [][2]int64{{SectorSize, PersonalSize}, {0, SectorSize}} {
		if _, err := disk.WriteAt(zero[part[0]:part[1]], PersonalOffset+part[0]); err != nil {
			return fmt.Errorf("erasing of the personalisation: %w", err)
		}
		if err := disk.Sync(); err != nil {
			return fmt.Errorf("erasing of the personalisation: %w", err)
		}
	}
	return nil
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
