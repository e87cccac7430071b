// Package emu runs boards in QEMU: it starts a machine, reads its serial console, sees the pins of its header from
// outside, pulls its cables and its plug, and plays the part of the firmware in a Raspberry Pi's ROM, which QEMU does
// not have: choosing the slot of the card, honouring a reboot into the other one.
//
// It is for tests and for `fieldkit emulate`, and no part of what runs on a board. The machines are the Pi 3 and Pi 4
// as far as QEMU knows them (neither has a radio, the Pi 4 has no network) and QEMU's own `virt`, which is faster and
// has network cards and a watchdog that work. What emulation cannot show is in docs/hardware.md.
//
// # Goroutines
//
// A VM owns one goroutine per serial line and one for QMP, which end with it. A Board is used by one goroutine. A
// Cable has one goroutine per plug. Everything that is started is ended by Close, and nothing else is touched.
package emu
