//go:build linux

package e2e

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fieldkit/firmware/card"
	"fieldkit/firmware/emu"
)

// A daemon that hangs is no daemon: PID 1 stops feeding the watchdog, which resets the board, and the kit is there again.
func TestWatchdogBitesAHungDaemon(t *testing.T) {
	t.Parallel()
	ctx := limit(t, 3*time.Minute)
	b := newBoard(t, emu.Options{Machine: emu.Virt, Card: newCard(t, cardImage(t), card.Personal{}), Watchdog: true, Payload: withAgent(t)})
	v := on(ctx, t, b)
	_, err := v.Console.Wait(ctx, 0, lineReady)
	must(t, err)
	first, err := status(ctx, v, emu.Place{})
	must(t, err)
	select { // longer than any watchdog waits: a healthy kit is not bitten
	case <-time.After(20 * time.Second):
	case <-v.Ended():
		t.Fatalf("a healthy kit was reset; events: %d WATCHDOG", v.QMP.Count("WATCHDOG"))
	}
	out, err := v.Agent.Run(ctx, emu.Place{}, "daemon")
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	must(t, err)
	must(t, v.Agent.Signal(ctx, pid, syscall.SIGSTOP))
	hung := time.Now()
	must(t, v.QMP.Await(ctx, "WATCHDOG"))
	t.Logf("bitten %.0f s after the daemon hung", time.Since(hung).Seconds())
	v, err = b.Reset(ctx)
	must(t, err)
	showOnFailure(t, v)
	_, err = v.Console.Wait(ctx, 0, lineReady)
	must(t, err)
	again, err := status(ctx, v, emu.Place{})
	must(t, err)
	if again.Kit.NodeID != first.Kit.NodeID {
		t.Errorf("it was %s and is %s", first.Kit.NodeID, again.Kit.NodeID)
	}
}
