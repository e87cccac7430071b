package mission

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"fieldkit/overlay/enrol"
)

// Book is the file of the accounts that may enrol in a mission, beside the mission file. Several programs may use it at
// once: the server, and whoever adds an account meanwhile.
type Book struct{ Path string }

// BookOf is the book of the mission file at path.
func BookOf(path string) Book { return Book{Path: path + ".accounts"} }

// Update is enrol.Book's: under a lock, and with the file replaced whole or not at all.
func (b Book) Update(change func(old []byte) (kept []byte, err error)) (err error) {
	lock, err := os.OpenFile(b.Path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }() // which unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("accounts: lock: %w", err)
	}
	old, err := b.read()
	if err != nil {
		return fmt.Errorf("accounts: %w", err)
	}
	kept, err := change(old)
	if err != nil || kept == nil {
		return err
	}
	return replaceFile(b.Path, kept)
}

func (b Book) read() ([]byte, error) {
	info, err := os.Stat(b.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Size() > enrol.MaxBook:
		return nil, fmt.Errorf("%s: %d bytes, more than %d", b.Path, info.Size(), enrol.MaxBook)
	}
	return os.ReadFile(b.Path)
}

// AddAccount makes an account with a drawn password: a kit's, or where user names are given, a user's.
func (b Book) AddAccount(name string, users []string, nodes int) (secret string, err error) {
	secret = password()
	return secret, enrol.Add(b, enrol.Account{Name: name, Users: users, Kit: len(users) == 0, MaxNodeIDs: nodes}, secret)
}
