//go:build linux

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/card"
	"fieldkit/firmware/emu"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/update"
	"fieldkit/ui"
)

// cuts is how many power cuts a run makes; make soak makes a hundred.
func cuts(t *testing.T) int {
	t.Helper()
	n := 20
	if s := os.Getenv("FIELDKIT_CUTS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		must(t, err)
	}
	return n
}

// until follows a board through its resets until the time is over, and cuts the power then.
func until(ctx context.Context, t *testing.T, b *emu.Board, v *emu.VM, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cut := time.NewTimer(d)
	defer cut.Stop()
	for {
		select {
		case <-cut.C:
			b.PowerCut()
			return
		case <-v.Ended():
			var err error
			v, err = b.Reset(ctx)
			must(t, err)
		}
	}
}

// serving waits until the kit serves, and returns what it then says of itself.
func serving(ctx context.Context, t *testing.T, v *emu.VM) (s ui.Status) {
	t.Helper()
	_, err := v.Console.Wait(ctx, 0, lineReady)
	must(t, err)
	eventually(ctx, t, 200*time.Millisecond, func() error {
		var err error
		s, err = status(ctx, v, emu.Place{})
		return err
	})
	return s
}

// The power is cut at random moments: of the first boot, of others, while a phone registers, while an update is written,
// tried and committed. Every time the board boots again from a whole system, and knows all that it had told anybody: who it is,
// which mission it is of, which phone registered here. The seed is told, and FIELDKIT_SEED repeats it.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	n := cuts(t)
	ctx := limit(t, time.Duration(n)*40*time.Second+2*time.Minute)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("FIELDKIT_SEED"); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		must(t, err)
	}
	t.Logf("FIELDKIT_SEED=%d, %d cuts", seed, n)
	random := rand.New(rand.NewPCG(seed, 0))
	within := func(d time.Duration) time.Duration { return time.Duration(random.Int64N(int64(d))) }

	m, err := mission.New("valley", mission.Options{})
	must(t, err)
	anna, err := m.AddHandset("Anna", 101)
	must(t, err)
	bundle, newer := newSystem(t, m, 10, nil)
	payload := withAgent(t)
	payload["/updates/new"] = bundle
	p := personal(t, m, 101, "")

	type life struct {
		board *emu.Board
		node  string // that was told to somebody
	}
	fresh := func() *life {
		return &life{board: newBoard(t, emu.Options{Machine: emu.Virt, Card: newCard(t, cardImage(t), p), Payload: payload, Serial: "00000000cafe0101"})}
	}
	k := fresh()
	span := 10 * time.Second // of a boot; known better after the first whole one
	done := 0
	// whole boots to the end, checks that nothing is lost, and leaves the board on.
	whole := func() (*emu.VM, ui.Status) {
		began := time.Now()
		v := on(ctx, t, k.board)
		s := serving(ctx, t, v)
		span = time.Since(began)
		if k.node != "" && s.Kit.NodeID != k.node {
			t.Fatalf("after %d cuts: it was %s and is %s", done, k.node, s.Kit.NodeID)
		}
		k.node = s.Kit.NodeID
		if s.Kit.Founded || s.Kit.Number != 101 || s.Kit.Mission != m.Name {
			t.Fatalf("after %d cuts: %+v", done, s.Kit)
		}
		for _, c := range s.Problems() {
			if strings.HasPrefix(c.Name, "card/") && c.Name != "card/watchdog" {
				t.Fatalf("after %d cuts: %+v", done, c)
			}
		}
		return v, s
	}
	cut := func(what string, v *emu.VM, d time.Duration) {
		t.Helper()
		until(ctx, t, k.board, v, d)
		done++
		t.Logf("cut %d: %s, after %.2f s", done, what, d.Seconds())
	}
	for round := 0; done < n; round++ {
		switch round % 3 {
		case 0: // a new card
			k.board.Close()
			k = fresh()
			cut("first boot", on(ctx, t, k.board), within(span))
			cut("first boot, again", on(ctx, t, k.board), within(span))
			v, _ := whole()
			cut("in use", v, within(time.Second))
		case 1: // a phone registers; what is written down is a second behind what the phone was told
			v, _ := whole()
			h := newHandset(ctx, t, v, anna, "eth9")
			h.wired(ctx, t)
			h.getLease(ctx, t, false)
			h.begin(ctx, t, 440, 0)
			cut("a phone registered", v, 3*time.Second+within(time.Second))
			cut("boot", on(ctx, t, k.board), within(span))
			v, _ = whole()
			eventually(ctx, t, 200*time.Millisecond, func() error {
				s, err := status(ctx, v, emu.Place{})
				if err != nil {
					return err
				}
				for _, h := range s.Handsets {
					if h.Number == anna.Number && h.Registered {
						return nil
					}
				}
				return fmt.Errorf("the registration is lost: %+v", s.Handsets)
			})
			cut("in use", v, within(time.Second))
		case 2: // an update arrives
			v, s := whole()
			if s.Update.Sequence == newer.Sequence {
				continue // it is in already
			}
			_, err := v.Agent.Begin(ctx, emu.Place{}, "post", "/updates/new", update.MediaType, page+"update")
			must(t, err)
			cut("update", v, within(6*span))
			before, err := os.Open(k.board.Card())
			must(t, err)
			slot, err := card.Committed(before)
			must(t, err, before.Close())
			v, s = whole()
			if s.Update.Slot != slot.String() || s.Update.Trial {
				t.Fatalf("slot %v was committed, and it runs %+v", slot, s.Update)
			}
			cut("in use", v, within(time.Second))
		}
	}
	v, s := whole()
	v.PullPlug()
	t.Logf("%d cuts, and it is still kit %d, %s", done, s.Kit.Number, s.Kit.NodeID)
}
