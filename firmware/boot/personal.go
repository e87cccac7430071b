package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"fieldkit/board/store"
	"fieldkit/firmware/card"
	"fieldkit/firmware/config"
	"fieldkit/firmware/erase"
)

// items are what PID 1 keeps on the state partition; *store.Store is one.
type items interface {
	Load(name string) ([]byte, error)
	Save(name string, data []byte) error
}

// takePersonal moves what the card was personalised with from the area before the first partition to the state
// partition, and returns what counts from now on. It goes in steps, of which each leaves a card that the next boot
// understands, so that power may be cut at any moment:
//
//	settings saved → mission saved → both read back → area erased, content first
//
// The area says what is to be moved until it is erased, and nothing of it is erased before all is kept. An area that
// is not whole is one whose erasing was cut off, if there is something kept; else the card was damaged or badly
// written, and it is left as it is, for who looks into it.
//
// With s nil the state is in memory: the area counts and stays. The error is what somebody should know; what is
// returned beside it counts all the same.
func takePersonal(disk card.Disk, s items) (card.Personal, error) {
	p, err := card.ReadPersonal(disk)
	if s == nil {
		if errors.Is(err, card.ErrNoPersonal) {
			err = nil
		}
		return p, err
	}
	switch {
	case err == nil:
		if err := keepPersonal(s, p); err != nil {
			return p, fmt.Errorf("personalisation not taken over: %w", err) // the next boot tries again
		}
	case errors.Is(err, card.ErrNoPersonal):
		return keptPersonal(s)
	case errors.Is(err, card.ErrTorn):
		kept, e := keptPersonal(s)
		if e != nil || len(kept.Kit)+len(kept.Mission) == 0 {
			return kept, errors.Join(err, e)
		}
		p = kept
	default: // the card does not read
		kept, e := keptPersonal(s)
		return kept, errors.Join(err, e)
	}
	if err := card.ErasePersonal(disk); err != nil {
		return p, err
	}
	return p, nil
}

// keepPersonal saves both files, empty ones too: they replace those of an earlier personalisation.
func keepPersonal(s items, p card.Personal) error {
	for _, f := range []struct {
		name string
		data []byte
	}{{config.KeptFile, p.Kit}, {config.KeptMission, p.Mission}} {
		now, err := s.Load(f.name)
		if err != nil || !bytes.Equal(now, f.data) {
			if err := s.Save(f.name, f.data); err != nil {
				return err
			}
			now, err = s.Load(f.name)
		}
		if err != nil {
			return err
		}
		if !bytes.Equal(now, f.data) {
			return fmt.Errorf("%s: read back otherwise than written", f.name)
		}
	}
	return nil
}

// keptPersonal is what an earlier boot took over.
func keptPersonal(s items) (p card.Personal, err error) {
	for _, f := range []struct {
		name string
		into *[]byte
	}{{config.KeptFile, &p.Kit}, {config.KeptMission, &p.Mission}} {
		b, e := s.Load(f.name)
		if e != nil && !errors.Is(e, store.ErrNotFound) {
			err = errors.Join(err, e)
		}
		*f.into = b
	}
	return p, err
}

// Files on the boot partition that are the operator's, and their largest sizes in bytes.
const (
	operatorFile    = "kit.toml"
	operatorMission = "kit.mission"
	maxSettings     = 64 << 10
	maxMission      = 1 << 20
)

// filesOf takes over the personalisation and returns what the daemon is to find, by path: what the card was personalised
// with, and what the operator put on the boot partition. That is read without mounting it, so that nothing is written
// there. The operator's mission file counts before the other one. What cannot be read is left out, and said.
func filesOf(disk card.Disk, kept items) (files map[string][]byte, problems []error) {
	files = map[string][]byte{}
	personal, err := takePersonal(disk, kept)
	if err != nil {
		problems = append(problems, err)
	}
	put := func(path string, data []byte) {
		if len(data) > 0 {
			files[path] = data
		}
	}
	put(config.CardPersonal, personal.Kit)
	put(config.CardMission, personal.Mission)
	for _, f := range []struct {
		name, path string
		limit      int
	}{{operatorFile, config.CardFile, maxSettings}, {operatorMission, config.CardMission, maxMission}} {
		b, err := card.ReadFile(disk, card.Boot, f.name, f.limit)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
		put(f.path, b)
	}
	return files, problems
}

// newBoard tells whether the card was first started in another board than the one with the serial, and notes the
// serial where none is noted. A board without one is any.
func newBoard(s items, serial string) (bool, error) {
	if serial == "" || s == nil {
		return false, nil
	}
	b, err := s.Load(config.KeptBoard)
	switch {
	case err == nil:
		return string(b) != serial, nil
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCorrupt):
		return false, s.Save(config.KeptBoard, []byte(serial))
	}
	return false, err
}

// eraseCard makes a card as new as one that was never personalised. The mark in the state directory is the last that
// goes, so that the next boot does the rest after a power cut.
func eraseCard(disk card.Disk, state string) error {
	if err := card.ErasePersonal(disk); err != nil {
		return err
	}
	_, err := erase.Finish(state)
	return err
}
