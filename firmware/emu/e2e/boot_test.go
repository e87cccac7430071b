//go:build linux

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"fieldkit/firmware/card"
	"fieldkit/firmware/emu"
	"fieldkit/firmware/image"
	"fieldkit/ui"
)

// raspiArgs keep the product from the watchdog of QEMU's Pis, which resets them when it is opened.
const raspiArgs = "fieldkit.watchdog=0"

// Lines of the board's log.
const (
	lineInit  = "msg=boot stage=init"
	lineReady = `msg=boot stage="status page"`
	lineSIP   = "msg=boot stage=SIP"
)

// GPIO numbers of the LEDs, as the box is wired (docs/hardware.md).
const (
	gpioPower  = 5
	gpioPhones = 6
	gpioLink   = 13
	gpioRed    = 16
)

func cardImage(t *testing.T) string {
	t.Helper()
	return filepath.Join(product.image(t, image.KernelPi), image.ImageFile)
}

// A card boots on a Pi 3 and a Pi 4 without anything typed, and the LEDs on the header tell so: power alone from the
// first moment of the product on, then the blink of PHONES, once it serves. How long that takes is told beside what the bare
// kernel takes on the same machine.
func TestBoardsBoot(t *testing.T) {
	for _, m := range []emu.Machine{emu.Pi3, emu.Pi4} {
		t.Run(string(m), func(t *testing.T) {
			ctx := limit(t, 3*time.Minute)
			img := newCard(t, cardImage(t), card.Personal{})
			o := emu.Options{Machine: m, Card: img, Cmdline: raspiArgs, Serial: "00000000cafe0001", Payload: withAgent(t), Bare: true}
			bare := newBoard(t, o)
			v := on(ctx, t, bare)
			l, err := v.Console.Wait(ctx, 0, "emu: bare kernel ready")
			must(t, err)
			kernel := l.At.Sub(v.Started)
			bare.Close()

			o.Bare = false
			v = on(ctx, t, newBoard(t, o))
			seen := make(map[string]time.Duration) // when the pins first showed it
			told := make(map[string]time.Duration) // when the log first told it
			for seen["alone"] == 0 {
				if ctx.Err() != nil {
					t.Fatalf("not alone but %v", seen)
				}
				p, err := v.Pins()
				must(t, err)
				at := time.Since(v.Started)
				first := func(m map[string]time.Duration, what string, is bool) {
					if is && m[what] == 0 {
						m[what] = at
					}
				}
				first(seen, "starting", p.Lit(gpioPower) && !p.Lit(gpioPhones))
				first(seen, "alone", p.Lit(gpioPower) && p.Lit(gpioPhones))
				first(seen, "linked or fault", p.Lit(gpioLink) || p.Lit(gpioRed))
				lines := v.Console.Lines()
				first(told, "init", contains(lines, lineInit))
				first(told, "ready", contains(lines, lineReady))
				first(told, "SIP", contains(lines, lineSIP))
				select {
				case <-time.After(20 * time.Millisecond):
				case <-v.Ended():
					t.Fatal("the machine ended")
				}
			}
			if seen["starting"] == 0 || seen["starting"] > seen["alone"] || seen["linked or fault"] != 0 {
				t.Errorf("LEDs: %v", seen)
			}
			if seen["alone"] < told["SIP"]-time.Second {
				t.Errorf("the LEDs said that it serves %v before it did", told["SIP"]-seen["alone"])
			}
			l, err = v.Console.Wait(ctx, 0, lineReady)
			must(t, err)
			ready := l.At.Sub(v.Started)
			t.Logf("%s: bare kernel %.1f s; LEDs %.2f, handsets can register and see the page %.2f times that (%.1f s)",
				m, kernel.Seconds(), seen["starting"].Seconds()/kernel.Seconds(), ready.Seconds()/kernel.Seconds(), ready.Seconds())
			if ready > 6*kernel {
				t.Errorf("ready after %v, more than six times the bare kernel's %v", ready, kernel)
			}
			var s ui.Status
			eventually(ctx, t, time.Second, func() error {
				var err error
				s, err = status(ctx, v, emu.Place{})
				if err == nil && s.Kit.NodeID == "" {
					err = fmt.Errorf("no Node-ID")
				}
				return err
			})
			if s.Board.Kind != "gpio" || s.Update.Slot != "A" || len(s.Boot) < 8 {
				t.Errorf("board %q, slot %q, timeline %v", s.Board.Kind, s.Update.Slot, s.Boot)
			}
			for _, c := range s.Problems() {
				if c.State == "fault" {
					t.Errorf("fault: %+v", c)
				}
			}
			for _, b := range s.Boot {
				t.Logf("  %6d ms %s", b.AtMS, b.Stage)
			}
		})
	}
}
