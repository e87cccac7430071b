package board

import (
	"fmt"
	"log/slog"
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
	if led, err := sysfs.LEDByName(pins.Single); err == nil {
		hw.Lamps[Single] = gpioLamp{led}
	}
	for _, l := range hw.Lamps {
		if l != nil {
			return New(hw, cfg)
		}
	}
	log.Info("no LEDs here: the board is simulated")
	return New(NewSimulated().Hardware(), cfg)
}

// findGPIO takes the pins that exist.
func findGPIO(pins Pins, log *slog.Logger) Hardware {
	hw := Hardware{Name: "gpio"}
	for led, name := range map[LED]string{
		Power: pins.Power, Phones: pins.Phones, LinkBlue: pins.LinkBlue, LinkYellow: pins.LinkYellow, Red: pins.Red,
	} {
		p := gpioreg.ByName(name)
		if p == nil {
			continue
		}
		if err := p.Out(gpio.Low); err != nil {
			log.Warn("LED not usable", "led", led.String(), "pin", name, "err", err)
			continue
		}
		hw.Lamps[led] = gpioLamp{p}
	}
	if p := gpioreg.ByName(pins.Button); p != nil {
		if b, err := newGPIOButton(p); err != nil {
			log.Warn("button not usable", "pin", pins.Button, "err", err)
		} else {
			hw.Button = b
		}
	}
	return hw
}

// gpioLamp is an LED between a line and ground.
type gpioLamp struct{ pin gpio.PinOut }

func (g gpioLamp) Set(on bool) error { return g.pin.Out(gpio.Level(on)) }

// gpioButton is a button between a line and ground.
type gpioButton struct{ pin gpio.PinIn }

func newGPIOButton(p gpio.PinIn) (Button, error) {
	if err := p.In(gpio.PullUp, gpio.BothEdges); err != nil {
		return nil, fmt.Errorf("button input: %w", err)
	}
	return gpioButton{p}, nil
}

func (g gpioButton) Wait(timeout time.Duration) bool { return g.pin.WaitForEdge(timeout) }
func (g gpioButton) Pressed() bool                   { return g.pin.Read() == gpio.Low }
