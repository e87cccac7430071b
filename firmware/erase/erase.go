// Package erase makes a kit new: it empties the directory of what survives a restart, so that nothing of the mission, the
// keys and the people is left there. Mark is the moment at which it is decided; from then on a power cut changes nothing,
// as whoever starts next finds the mark and calls Finish, which begins again where it has to.
//
// What was in the files is overwritten before they go. What flash keeps in blocks that it has retired, and what a journal
// still holds, is beyond the reach of this package.
//
// It does not know what the files mean, and nobody may use the directory meanwhile: the kit calls Finish when all its
// parts have ended or before they begin, PID 1 of a card before anything is read.
package erase

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Name is that of the mark, and never of anything else in the directory.
const Name = "erase.mark"

// lostFound belongs to the file system, which is not made anew.
const lostFound = "lost+found"

// Mark decides that the directory is to be emptied. When it returns nil, that survives a power cut.
func Mark(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, Name), os.O_WRONLY|os.O_CREATE, 0o600)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("mark for erasing: %w", err)
	}
	return nil
}

// Marked reports whether Mark was called and Finish is not done.
func Marked(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, Name))
	return err == nil
}

// Finish empties the directory if it is marked, and tells whether it was. After an error the mark is still there.
func Finish(dir string) (erased bool, err error) { return finish(dir, os.Remove) }

// finish is Finish; remove is os.Remove but in tests.
func finish(dir string, remove func(string) error) (erased bool, err error) {
	if !Marked(dir) {
		return false, nil
	}
	if err := empty(dir, true, remove); err != nil {
		return true, fmt.Errorf("erasing: %w", err)
	}
	// The last: until here whoever starts next begins again.
	if err := errors.Join(remove(filepath.Join(dir, Name)), syncDir(dir)); err != nil {
		return true, fmt.Errorf("mark for erasing: %w", err)
	}
	return true, nil
}

// empty removes what is in a directory, but for the mark and what is the file system's, which are at the top. It goes on
// past what cannot be removed, and tells it.
func empty(dir string, top bool, remove func(string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if top && (e.Name() == Name || e.Name() == lostFound && e.IsDir()) {
			continue
		}
		var err error
		switch {
		case e.IsDir():
			err = empty(path, false, remove)
		case e.Type().IsRegular():
			err = overwrite(path)
		}
		if err == nil {
			err = remove(path) // of a symbolic link, itself
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, syncDir(dir))...)
}

// overwrite puts zeros in the place of a file's content and waits until they are stored.
func overwrite(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, zeros{}, info.Size()); err != nil {
		return err
	}
	return f.Sync()
}

type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
