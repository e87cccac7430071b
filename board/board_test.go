package board

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/gpio/gpioreg"
	"periph.io/x/conn/v3/gpio/gpiotest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// box is hardware with the means to look at it and to press its button.
type box struct {
	hw   Hardware
	lit  func(LED) bool
	move func(down bool)
}

func simulatedBox(*testing.T) box {
	s := NewSimulated()
	return box{s.Hardware(), s.Lit, s.move}
}

// gpioBox is the driver of real pins on pins of periph's test package.
func gpioBox(t *testing.T) box {
	names := Pins{Power: "T0", Phones: "T1", LinkBlue: "T2", LinkYellow: "T3", Red: "T4", Button: "T6"}
	pins := map[string]*gpiotest.Pin{}
	for i, n := range []string{"T0", "T1", "T2", "T3", "T4", "T5", "T6"} {
		p := &gpiotest.Pin{N: n, Num: 1000 + i, EdgesChan: make(chan gpio.Level, 16)}
		if err := gpioreg.Register(p); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = gpioreg.Unregister(p.Name()) })
		pins[n] = p
	}
	hw := findGPIO(names, slog.New(slog.DiscardHandler))
	hw.Lamps[Single] = gpioLamp{pins["T5"]}
	order := map[LED]string{Power: "T0", Phones: "T1", LinkBlue: "T2", LinkYellow: "T3", Red: "T4", Single: "T5"}
	return box{
		hw:  hw,
		lit: func(l LED) bool { return pins[order[l]].Read() == gpio.High },
		move: func(down bool) {
			pins["T6"].EdgesChan <- gpio.Level(!down) // to ground
		},
	}
}

// onBoth runs the same body on the simulated hardware and on GPIO pins.
func onBoth(t *testing.T, body func(t *testing.T, b box)) {
	for name, make := range map[string]func(*testing.T) box{"simulated": simulatedBox, "gpio": gpioBox} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { body(t, make(t)) })
		})
	}
}

func run(t *testing.T, b *Board) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- b.Run(ctx) }()
	<-b.Ready()
	synctest.Wait()
	return func() {
		t.Helper()
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}
}

func litNow(b box) (out []LED) {
	synctest.Wait()
	for l := range ledCount {
		if b.lit(l) {
			out = append(out, l)
		}
	}
	return out
}

func TestBoardShowsWhatTheStateSays(t *testing.T) {
	onBoth(t, func(t *testing.T, b box) {
		brd := New(b.hw, Config{})
		stop := run(t, brd)
		if got := litNow(b); !slices.Equal(got, []LED{Power, Single}) {
			t.Errorf("starting: lit %v", got)
		}
		in := Inputs{Ready: true, Kits: 2, Handsets: 1}
		brd.Update(Inputs{})
		brd.Update(in) // the newest wins
		synctest.Wait()
		// Every LED at every moment of three periods, against the pure patterns.
		lights := in.Lights()
		for i := range int(3 * period / (10 * time.Millisecond)) {
			now := time.Duration(i) * 10 * time.Millisecond
			synctest.Wait()
			for l := range ledCount {
				if got, want := b.lit(l), lights[l].Level(now); got != want {
					t.Fatalf("%v at %v: lit %v, want %v", l, now, got, want)
				}
			}
			if i%500 == 0 {
				brd.Update(in)
			}
			time.Sleep(10 * time.Millisecond)
		}
		s := brd.Snapshot()
		if s.State != Linked || s.Text != "2 kits linked, 1 phone" || s.LEDs["link"] != Blinks(2) || !s.Lit["phones"] {
			t.Errorf("snapshot %+v", s)
		}
		stop()
		if got := litNow(b); got != nil {
			t.Errorf("lit after the end: %v", got)
		}
	})
}

// An LED that lies is worse than none: without news the board shows a fault.
func TestSilentKitIsAFault(t *testing.T) {
	onBoth(t, func(t *testing.T, b box) {
		brd := New(b.hw, Config{StaleAfter: 20 * time.Second})
		defer run(t, brd)()
		brd.Update(Inputs{Ready: true, Handsets: 1})
		time.Sleep(19 * time.Second)
		if got := litNow(b); slices.Contains(got, Red) || !slices.Contains(got, Phones) {
			t.Errorf("before: lit %v", got)
		}
		time.Sleep(time.Second)
		if got := litNow(b); !slices.Contains(got, Red) || slices.Contains(got, Phones) {
			t.Errorf("without news: lit %v", got)
		}
		brd.Update(Inputs{Ready: true, Handsets: 1})
		if got := litNow(b); slices.Contains(got, Red) || !slices.Contains(got, Phones) {
			t.Errorf("with news again: lit %v", got)
		}
	})
}

// Whoever holds the button sees each stage when it is reached, on the LEDs of the box and on the board's own.
func TestHoldingShowsWhatLettingGoDoes(t *testing.T) {
	onBoth(t, func(t *testing.T, b box) {
		brd := New(b.hw, Config{StaleAfter: time.Hour})
		defer run(t, brd)()
		brd.Update(Inputs{Ready: true, Handsets: 1})
		time.Sleep(period)
		b.move(true)
		began := time.Now()
		for _, c := range []struct {
			after time.Duration
			text  string
			lit   []LED
		}{
			{pairHold - 50*time.Millisecond, "alone, 1 phone", []LED{Power, Phones}},
			{pairHold + 50*time.Millisecond, "let go: pair with another kit", []LED{LinkBlue, LinkYellow, Single}},
			{warnHold - 50*time.Millisecond, "let go: pair with another kit", []LED{LinkBlue, LinkYellow, Single}},
			{warnHold + 50*time.Millisecond, "let go now, or everything is erased", []LED{Red, Single}},
			{warnHold + 150*time.Millisecond, "let go now, or everything is erased", nil},
			{eraseHold + 50*time.Millisecond, "let go: erase everything", []LED{Red, Single}},
			{eraseHold + 150*time.Millisecond, "let go: erase everything", []LED{Red, Single}},
			{stuckHold + 450*time.Millisecond, "alone, 1 phone", []LED{Power, Phones}},
		} {
			time.Sleep(c.after - time.Since(began))
			if got, text := litNow(b), brd.Snapshot().Text; !slices.Equal(got, c.lit) || text != c.text {
				t.Errorf("after %v: lit %v, %q, want %v, %q", c.after, got, text, c.lit, c.text)
			}
		}
		b.move(false)
		time.Sleep(time.Second)
		if n := brd.Snapshot().Presses; n != 0 {
			t.Errorf("%d presses of a button that was stuck", n)
		}
	})
}

// Both kits of a pairing show the code from the moment on at which they know it, whatever they showed before.
func TestCodeBeginsWhenItIsKnown(t *testing.T) {
	onBoth(t, func(t *testing.T, b box) {
		brd := New(b.hw, Config{StaleAfter: time.Hour})
		defer run(t, brd)()
		brd.Update(Inputs{Ready: true, Handsets: 1})
		time.Sleep(1234 * time.Millisecond)
		code := CodeOf(431)
		brd.Update(Inputs{Ready: true, Handsets: 1, Pairing: Pairing{Stage: PairComparing, Code: code}})
		for i := range 3000 {
			synctest.Wait()
			at := time.Duration(i) * 10 * time.Millisecond
			if got, want := b.lit(Single), code.Pattern().Level(at); got != want || b.lit(LinkBlue) != want || b.lit(Phones) {
				t.Fatalf("at %v: lit %v, want single LED and link %v", at, litNow(b), want)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := brd.Snapshot().Text; got != "pairing: compare the code "+code.String() {
			t.Errorf("text %q", got)
		}
	})
}

// busyPin is a line that another program has until a time.
type busyPin struct {
	*gpiotest.Pin
	until time.Time
}

func (b busyPin) busy() error {
	if time.Now().Before(b.until) {
		return fmt.Errorf("GPIOLine.Out(): %w", syscall.EBUSY)
	}
	return nil
}

func (b busyPin) Out(l gpio.Level) error {
	if err := b.busy(); err != nil {
		return err
	}
	return b.Pin.Out(l)
}

func (b busyPin) In(p gpio.Pull, e gpio.Edge) error {
	if err := b.busy(); err != nil {
		return err
	}
	return b.Pin.In(p, e)
}

// What showed the start of the machine may still have the lines: they are taken over when they are free, and nothing
// that happened to the button meanwhile counts.
func TestBusyLinesAreTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pins := map[string]*gpiotest.Pin{}
		for i, n := range []string{"B0", "B1"} {
			pins[n] = &gpiotest.Pin{N: n, Num: 1100 + i, EdgesChan: make(chan gpio.Level, 16)}
			if err := gpioreg.Register(busyPin{pins[n], time.Now().Add(3 * time.Second)}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = gpioreg.Unregister(n) })
		}
		brd := New(findGPIO(Pins{Power: "B0", Button: "B1"}, slog.New(slog.DiscardHandler)), Config{StaleAfter: time.Hour})
		defer run(t, brd)()
		if pins["B0"].Read() == gpio.High {
			t.Error("a busy line was set")
		}
		time.Sleep(3*time.Second + 2*lampRetry)
		if pins["B0"].Read() != gpio.High {
			t.Error("the line was not taken over when it was free")
		}
		pins["B1"].EdgesChan <- gpio.Low
		time.Sleep(time.Second)
		pins["B1"].EdgesChan <- gpio.High
		time.Sleep(time.Second)
		if n := brd.Snapshot().Presses; n != 1 {
			t.Errorf("%d presses, want 1", n)
		}
	})
}

// The LED of the board is found under what kernels call it, and taken from what the kernel has it show.
func TestOwnLEDOfTheBoard(t *testing.T) {
	for _, c := range []struct {
		have, name, want string
	}{{"ACT", "ACT", "ACT"}, {"led0", "ACT", "led0"}, {"PWR", "ACT", ""}, {"PWR", "PWR", "PWR"}, {"ACT", "", ""}} {
		pin := &gpiotest.Pin{N: c.have, L: gpio.High}
		lamp := findLED(c.name, func(name string) (gpio.PinOut, error) {
			if name != c.have {
				return nil, errors.New("no such LED")
			}
			return pin, nil
		}, slog.New(slog.DiscardHandler))
		got := ""
		if lamp != nil {
			got = pin.N
		}
		if got != c.want || (lamp != nil) != (pin.L == gpio.Low) {
			t.Errorf("%+v: found %q, level %v", c, got, pin.L)
		}
	}
}

func TestShortPressCountsOut(t *testing.T) {
	onBoth(t, func(t *testing.T, b box) {
		var mu sync.Mutex
		var presses []Press
		brd := New(b.hw, Config{StaleAfter: time.Hour, OnPress: func(p Press) {
			mu.Lock()
			defer mu.Unlock()
			presses = append(presses, p)
		}})
		defer run(t, brd)()
		brd.Update(Inputs{Ready: true, Kits: 4, Handsets: 2, Fault: true, Faults: 1})
		push := func(d time.Duration) {
			b.move(true)
			b.move(false) // the contact bounces
			b.move(true)
			time.Sleep(d)
			b.move(false)
			time.Sleep(2 * debounce)
			synctest.Wait()
		}
		for _, want := range []Page{PageKits, PagePhones, PageFaults, None, PageKits} {
			push(200 * time.Millisecond)
			if got := brd.Snapshot().Page; got != want {
				t.Fatalf("page %q, want %q", got, want)
			}
		}
		// The page of the kits: four blinks on LINK and nothing else but the
		// single LED.
		on, before := 0, b.lit(LinkBlue)
		if before {
			on = 1
		}
		for range int(period / (10 * time.Millisecond)) {
			time.Sleep(10 * time.Millisecond)
			for _, l := range litNow(b) {
				if l != LinkBlue && l != Single {
					t.Fatalf("%v lit while kits are counted", l)
				}
			}
			if now := b.lit(LinkBlue); now != before {
				before = now
				if now {
					on++
				}
			}
		}
		if on < 4 || on > 5 { // the fifth belongs to the next period
			t.Errorf("%d blinks for 4 kits", on)
		}
		time.Sleep(pageTime)
		synctest.Wait()
		if s := brd.Snapshot(); s.Page != None || !b.lit(Red) {
			t.Errorf("the page stays: %+v", s)
		}
		push(pairHold + 100*time.Millisecond)
		push(warnHold + 100*time.Millisecond) // somebody thought better of it
		push(eraseHold + 100*time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		if want := []Press{Short, Short, Short, Short, Short, Pair, Erase}; !slices.Equal(presses, want) {
			t.Errorf("presses %v, want %v", presses, want)
		}
		if brd.Snapshot().Presses != 7 {
			t.Error("presses not counted")
		}
	})
}

var errBurnt = errors.New("burnt out")

type brokenLamp struct{}

func (brokenLamp) Set(bool) error { return errBurnt }

// brokenButton is a line that failed: it returns at once.
type brokenButton struct{ waits *int }

func (b brokenButton) Wait(time.Duration) bool { *b.waits++; return false }
func (b brokenButton) Pressed() bool           { return false }

func TestBrokenPartsLeaveTheRestWorking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim, waits := NewSimulated(), 0
		hw := sim.Hardware()
		hw.Lamps[Power], hw.Lamps[Red] = brokenLamp{}, nil
		hw.Button = brokenButton{&waits}
		b := New(hw, Config{StaleAfter: time.Hour})
		stop := run(t, b)
		b.Update(Inputs{Ready: true, Handsets: 1})
		time.Sleep(time.Minute)
		synctest.Wait()
		if !sim.Lit(Phones) {
			t.Error("good LED dark")
		}
		s := b.Snapshot()
		if _, fitted := s.LEDs["red"]; fitted || s.Errors == 0 {
			t.Errorf("snapshot %+v", s)
		}
		stop()
		if waits > 125 {
			t.Errorf("button asked %d times in a minute", waits)
		}
	})
}

func TestSnapshotAsJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(NewSimulated().Hardware(), Config{})
		defer run(t, b)()
		b.Update(Inputs{Ready: true, Kits: 1})
		b.Press()
		synctest.Wait()
		got, err := json.Marshal(b.Snapshot())
		if err != nil {
			t.Fatal(err)
		}
		want := `{"board":"simulated","state":"linked","text":"1 kit linked, no phone","page":"kits",` +
			`"leds":{"link":"1 blink","link-yellow":"off","phones":"off","power":"off","red":"off","single":"1 blink"},` +
			`"lit":{"link":true,"link-yellow":false,"phones":false,"power":false,"red":false,"single":true},"presses":1,"errors":0}`
		if string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// On a machine without GPIO the board is a simulated one; on one with it, this
// test only looks that Open comes back with something.
func TestOpenAlwaysReturnsABoard(t *testing.T) {
	b := Open(Pins{Power: "no such pin", Button: "no such pin", Single: "no such LED"}, Config{})
	if b.hw.Name != "simulated" {
		t.Errorf("board of %s where no pin exists", b.hw.Name)
	}
}
