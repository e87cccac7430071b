package mission

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"fieldkit/board/store"
)

// storeMark begins a file that a store keeps, with a checksum that a plain rewrite would break.
var storeMark = []byte("# fieldkit store ")

// Load reads the operator's mission file, or the copy in a kit's state directory.
func Load(path string) (*Mission, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	m, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile+1))
}

// Save replaces the file at path, mode 0600, whole or not at all. A kit's copy in its state directory stays one.
func (m *Mission) Save(path string) error {
	b, err := m.Marshal()
	if err != nil {
		return err
	}
	old, err := readFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if bytes.HasPrefix(old, storeMark) {
		s, err := store.Open(filepath.Dir(path), store.Config{})
		if err != nil {
			return err
		}
		return s.Save(filepath.Base(path), b)
	}
	return replaceFile(path, b)
}

// Create is Save for a file that must not be there yet: overwriting a mission loses its root key for ever.
func (m *Mission) Create(path string) error {
	b, err := m.Marshal()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("new mission file: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("new mission file: %w", err)
	}
	return replaceFile(path, b)
}

func replaceFile(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".mission-*") // mode 0600
	if err != nil {
		return fmt.Errorf("file %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("file %s: %w", path, errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, e := os.Open(dir)
	if e != nil {
		return nil // the file is in place; a directory that cannot be opened cannot be synced
	}
	_ = d.Sync() // not every file system can: a card's FAT may refuse
	return d.Close()
}
