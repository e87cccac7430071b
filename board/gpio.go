package board

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"periph.io/x/conn/v3/driver/driverreg"
	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/gpio/gpioreg"
	// These two drivers only. The one for the Broadcom chips maps memory at an
	// address that is the GPIO of a Pi 4 and main memory on a Pi 5.
	_ "periph.io/x/host/v3/gpioioctl"
	"periph.io/x/host/v3/sysfs"
)

// Pins names the GPIO lines by what the kernel calls them.
type Pins struct {
	Power, Phones, LinkBlue, LinkYellow, Red string
	Button                                   string // to ground, with the pull-up of the chip
	// Single is an LED of the board itself below /sys/class/leds.
	Single string
}

// DefaultPins are lines that have the same name on every Raspberry Pi with the
// vendor's kernel.
var DefaultPins = Pins{
	Power: "GPIO5", Phones: "GPIO6", LinkBlue: "GPIO13", LinkYellow: "GPIO12", Red: "GPIO16",
	Button: "GPIO17", Single: "ACT",
}

// Open finds the hardware with the given pins; where there is neither GPIO nor
// an LED of the board, it returns a simulated board and says so in the log.
// What is missing of several is not fitted.
func Open(pins Pins, cfg Config) *Board {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	log := cfg.Log
	state, err := driverreg.Init()
	if err != nil {
		log.Warn("GPIO drivers not started", "err", err)
	} else {
		for _, f := range state.Failed {
			log.Warn("GPIO driver failed", "driver", f.D.String(), "err", f.Err)
		}
	}
	hw := findGPIO(pins, log)
	hw.Lamps[Single] = findLED(pins.Single, func(name string) (gpio.PinOut, error) { return sysfs.LEDByName(name) }, log)
	for _, l := range hw.Lamps {
		if l != nil {
			return New(hw, cfg)
		}
	}
	log.Info("no LEDs here: the board is simulated")
	return New(NewSimulated().Hardware(), cfg)
}

// findGPIO takes the pins that exist. One that is busy is fitted, too: what showed the start of the machine has it until
// this program takes over, and Run tries again.
func findGPIO(pins Pins, log *slog.Logger) Hardware {
	hw := Hardware{Name: "gpio"}
	for led, name := range map[LED]string{
		Power: pins.Power, Phones: pins.Phones, LinkBlue: pins.LinkBlue, LinkYellow: pins.LinkYellow, Red: pins.Red,
	} {
		p := gpioreg.ByName(name)
		if p == nil {
			continue
		}
		if err := p.Out(gpio.Low); err != nil && !errors.Is(err, syscall.EBUSY) {
			log.Warn("LED not usable", "led", led.String(), "pin", name, "err", err)
			continue
		}
		hw.Lamps[led] = gpioLamp{p}
	}
	if p := gpioreg.ByName(pins.Button); p != nil {
		b := &gpioButton{pin: p}
		if err := b.prepare(); err != nil && !errors.Is(err, syscall.EBUSY) {
			log.Warn("button not usable", "pin", pins.Button, "err", err)
		} else {
			hw.Button = b
		}
	}
	return hw
}

// otherNames are what kernels call the LED of the board that the vendor's device trees label ACT: before they had labels
// that was led0.
var otherNames = map[string][]string{"ACT": {"led0"}}

// findLED is an LED of the board, nil if there is none. Switched off first: only that has the kernel forget what else it
// lets the LED show, such as the traffic of the card.
func findLED(name string, byName func(string) (gpio.PinOut, error), log *slog.Logger) Lamp {
	if name == "" {
		return nil
	}
	for _, n := range append([]string{name}, otherNames[name]...) {
		led, err := byName(n)
		if err != nil {
			continue
		}
		if err := led.Out(gpio.Low); err != nil {
			log.Warn("LED not usable", "led", n, "err", err)
			continue
		}
		return gpioLamp{led}
	}
	return nil
}

// gpioLamp is an LED between a line and ground.
type gpioLamp struct{ pin gpio.PinOut }

func (g gpioLamp) Set(on bool) error { return g.pin.Out(gpio.Level(on)) }

// gpioButton is a button between a line and ground. Its line may be busy for a while.
type gpioButton struct {
	pin   gpio.PinIn
	ready bool // the line is ours
}

func (g *gpioButton) prepare() error {
	if g.ready {
		return nil
	}
	if err := g.pin.In(gpio.PullUp, gpio.BothEdges); err != nil {
		return fmt.Errorf("button input: %w", err)
	}
	g.ready = true
	return nil
}

func (g *gpioButton) Wait(timeout time.Duration) bool {
	return g.prepare() == nil && g.pin.WaitForEdge(timeout)
}

// Pressed is true as long as the line cannot be read: a button that is down when it is first looked at counts from the
// next time on.
func (g *gpioButton) Pressed() bool { return g.prepare() != nil || g.pin.Read() == gpio.Low }
