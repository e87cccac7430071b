package update

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/card"
)

// digestOf is what a slot of a card has, compared with release n.
func hasRelease(t *testing.T, c *memoryCard, s card.Slot, n uint64) bool {
	t.Helper()
	return checkSlot(context.Background(), c, s, manifest(t, release(n))) == nil
}

// life goes through an update from release 1 to 2 as often as the power allows, and returns how many boots it took.
// Whatever happens, the committed slot must boot.
func life(t *testing.T, c *memoryCard, items *memoryItems, r *rand.Rand) (boots int) {
	t.Helper()
	trial := false
	for {
		if boots++; boots > 8 {
			t.Fatal("no end")
		}
		s, err := card.Committed(c)
		if err != nil {
			t.Fatalf("boot %d: the card does not boot: %v", boots, err)
		}
		if trial {
			s = s.Other()
		}
		running := uint64(1)
		if hasRelease(t, c, s, 2) {
			running = 2
		} else if !hasRelease(t, c, s, 1) {
			t.Fatalf("boot %d (trial %v): slot %v has no whole system", boots, trial, s)
		}
		k := boot(t, c, items, running, trial, nil)
		stop := k.run(t)
		synctest.Wait()
		if running == 1 && k.View().State != Written {
			_, err := k.Receive(t.Context(), bytes.NewReader(bundle(t, 2)))
			if err != nil && c.left != 0 {
				t.Fatalf("boot %d: %v", boots, err)
			}
		}
		trial = false
		select {
		case kind := <-k.init.reboot:
			trial = kind == initlink.TryBoot
		case <-k.init.committed:
		case <-time.After(10 * time.Minute): // nothing more happens: the power is gone
		}
		synctest.Wait()
		stop()
		if c.left == 0 {
			c.afterCut(r)
			trial = false // the request for a tryboot does not outlive the power
			continue
		}
		if s, err := card.Committed(c); err == nil && !trial && hasRelease(t, c, s, 2) {
			return boots
		}
	}
}

// Power is cut at each operation that reaches the card: the note, each write, each sync, the commit. The kit always comes
// up with a whole system, and a person who sends the update again gets it there.
func TestPowerCutAtEveryWriteLeavesASystemThatBoots(t *testing.T) {
	count := 0
	synctest.Test(t, func(t *testing.T) {
		c := newCard(t, 1)
		c.used = 0
		items := newItems(c.power)
		if boots := life(t, c, items, rand.New(rand.NewPCG(1, 1))); boots != 2 {
			t.Errorf("%d boots without a power cut", boots)
		}
		count = c.used
	})
	if count < 9 {
		t.Fatalf("only %d operations", count)
	}
	for cut := range count + 1 {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%d-%d", cut, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := newCard(t, 1)
					c.left = cut
					life(t, c, newItems(c.power), rand.New(rand.NewPCG(seed, uint64(cut))))
				})
			})
		}
	}
}
