package mission

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"fieldkit/board/store"
	"fieldkit/overlay/ident"
)

// FounderItem is the root key of a mission that the kit founded: the kit is the only one that can let others in, by
// pairing (docs/adr/0031). It is not in the mission item, so that no copy of the mission carries it along.
const FounderItem = "founder.key"

// EnrolPort is the TCP port at which a founder enrols, on the link between the two kits that pair.
const EnrolPort = 6090

// EnrolPath is the path of a founder's enrolment server.
const EnrolPath = "/enrol"

// Founder is the root of the mission that the kit with this state directory founded; ErrNoRootKey where it founded none,
// or went over to another.
func Founder(stateDir string, m *Mission) (*ident.Authority, error) {
	s, err := store.Open(stateDir, store.Config{MaxSize: maxFile})
	if err != nil {
		return nil, err
	}
	key, err := s.Load(FounderItem)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoRootKey
	}
	if err != nil {
		return nil, err
	}
	c := *m
	c.Root.Key = string(key)
	return c.Authority()
}

// FounderBook has the accounts of the kits that the founder let in.
func FounderBook(stateDir string) Book { return Book{Path: filepath.Join(stateDir, "paired.accounts")} }

// keepFounderKey saves the root key of a mission that this kit has just founded, before the mission itself is saved: a
// power cut between the two costs a key that nobody needs, and not a mission that can never grow.
func keepFounderKey(s Items, m *Mission) error {
	if err := s.Overwrite(FounderItem, []byte(m.Root.Key)); err != nil {
		return fmt.Errorf("root key of the founded mission: %w", err)
	}
	return nil
}

// forgetFounder erases the root key of a mission that the kit founded and is in no more, and whom it let in there.
func forgetFounder(s *store.Store, stateDir string, m *Mission) error {
	switch _, err := Founder(stateDir, m); {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoRootKey):
	default: // the key of another root, or none at all: of no use to this mission
		if err := errors.Join(s.Overwrite(FounderItem, nil), s.Remove(FounderItem)); err != nil {
			return fmt.Errorf("root key of the mission before: %w", err)
		}
	}
	book := FounderBook(stateDir).Path
	for _, name := range []string{book, book + ".lock"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("accounts of the mission before: %w", err)
		}
	}
	return nil
}
