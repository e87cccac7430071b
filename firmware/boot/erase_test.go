package boot

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"fieldkit/board/store"
	"fieldkit/firmware/card"
	"fieldkit/firmware/config"
	"fieldkit/firmware/erase"
)

// A card that is erased knows nothing of what it was personalised with, whenever the power is cut meanwhile: as long as
// there is anything, there is the mark, and the next boot goes on.
func TestErasedCardIsNeutral(t *testing.T) {
	area, err := card.EncodePersonal(card.Personal{Kit: []byte("[kit]\nnumber = 104\n"), Mission: bytes.Repeat([]byte("mission "), 800)})
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	steps := int(card.PersonalSize/card.SectorSize) + 2 // writes of sectors, and two syncs
	for _, left := range []int{0, 1, 2, steps / 2, steps - 3, steps - 2, steps - 1, steps, -1} {
		disk := newFlash(card.PersonalOffset + card.PersonalSize)
		copy(disk.stored[card.PersonalOffset:], area)
		state := t.TempDir()
		kept, err := store.Open(filepath.Join(state, "card"), store.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(
			kept.Save(config.KeptFile, []byte("[kit]\n")), kept.Save(config.KeptMission, []byte("mission")),
			os.WriteFile(filepath.Join(state, "identity.key"), []byte("key"), 0o600), erase.Mark(state),
		); err != nil {
			t.Fatal(err)
		}
		disk.power.left = left
		err = eraseCard(disk, state)
		if (err == nil) != (left < 0 || left >= steps) {
			t.Fatalf("power for %d steps: %v", left, err)
		}
		if err != nil && !erase.Marked(state) {
			t.Errorf("power for %d steps: the mark is gone", left)
		}
		disk.power.left = -1
		disk.flush(func() bool { return r.IntN(2) == 0 })
		if err != nil {
			if err := eraseCard(disk, state); err != nil {
				t.Fatal(err)
			}
		}
		left, err := os.ReadDir(state)
		if err != nil || len(left) != 0 {
			t.Errorf("left of the state: %v, %v", left, err)
		}
		p, err := takePersonal(disk, kept)
		if err != nil || len(p.Kit)+len(p.Mission) > 0 || len(bytes.Trim(disk.stored, "\x00")) > 0 {
			t.Errorf("still personalised: %+v, %v", p, err)
		}
	}
}
