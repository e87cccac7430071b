//go:build linux

package emu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// headerLEDs are the pins of the LEDs on the header, as the box is wired.
var headerLEDs = []struct {
	gpio int
	name string
}{{5, "POWER"}, {6, "PHONES"}, {13, "LINK"}, {12, "LINK yellow"}, {16, "RED"}}

// Show boots a board and prints what its console says, and each change of the LEDs on its header, until ctx ends or the
// board is off. The board starts again when it resets. The end of ctx is no error.
func Show(ctx context.Context, out io.Writer, b *Board) error {
	defer b.Close()
	v, err := b.PowerOn(ctx)
	for err == nil {
		boot := b.Boots()[len(b.Boots())-1]
		if _, err := fmt.Fprintf(out, "-- power on: partition %d, trial %v\n", boot.Partition, boot.Tryboot); err != nil {
			return err
		}
		if err := show(ctx, out, v); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		v, err = b.Reset(ctx)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// show prints until the machine ends.
func show(ctx context.Context, out io.Writer, v *VM) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	printed, lit := 0, ""
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
			return nil
		case <-v.Ended():
			ended = true
		case <-tick.C:
		}
		lines, first := v.Console.From(printed)
		for _, l := range lines {
			if _, err := fmt.Fprintf(out, "%7.2f  %s\n", l.At.Sub(v.Started).Seconds(), l.Text); err != nil {
				return err
			}
		}
		printed = first + len(lines)
		if v.machine.gpioBase() == 0 || ended {
			continue
		}
		p, err := v.Pins()
		if errors.Is(err, ErrEnded) {
			continue
		}
		if err != nil {
			return err
		}
		var on []string
		for _, l := range headerLEDs {
			if p.Lit(l.gpio) {
				on = append(on, l.name)
			}
		}
		if now := strings.Join(on, " "); now != lit {
			lit = now
			if _, err := fmt.Fprintf(out, "%7.2f  LEDs: %s\n", time.Since(v.Started).Seconds(), lit); err != nil {
				return err
			}
		}
	}
	return nil
}
