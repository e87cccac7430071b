package emu

import "fmt"

// Registers of the GPIO block of BCM2835 and BCM2711 (BCM2835 ARM Peripherals §6.1): GPFSEL0… give each pin three bits of function,
// of which 001 is an output; GPLEV0 has the level of pins 0 to 31.
const (
	gpfsel0 = 0x00
	gplev0  = 0x34
)

// Pins are the first 28 pins of the header, as seen from outside.
type Pins struct {
	Level  uint32 // a bit per GPIO number
	Output uint32 // those that the machine drives
}

// Lit tells whether the machine drives the pin high.
func (p Pins) Lit(gpio int) bool { return p.Level&p.Output>>gpio&1 == 1 }

// gpioBase is where the machine has its GPIO block; 0 for one that has none.
func (m Machine) gpioBase() uint64 {
	switch m {
	case Pi3:
		return 0x3f200000
	case Pi4:
		return 0xfe200000
	}
	return 0
}

// Pins reads the header of a Pi 3 or Pi 4 without the machine noticing.
func (v *VM) Pins() (Pins, error) {
	base := v.machine.gpioBase()
	if base == 0 {
		return Pins{}, fmt.Errorf("pins: the machine %s has none", v.machine)
	}
	level, err := v.QMP.Word(base + gplev0)
	if err != nil {
		return Pins{}, err
	}
	p := Pins{Level: level}
	for bank := range 3 {
		function, err := v.QMP.Word(base + gpfsel0 + uint64(4*bank))
		if err != nil {
			return Pins{}, err
		}
		p.Output |= outputs(function) << (10 * bank)
	}
	return p, nil
}

// outputs has a bit for each of the ten pins of a GPFSEL register that is an output.
func outputs(function uint32) (r uint32) {
	for i := range 10 {
		if function>>(3*i)&7 == 1 {
			r |= 1 << i
		}
	}
	return r
}
