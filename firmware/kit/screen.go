package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fieldkit/board/access"
)

// screen is the terminal of a screen that somebody plugged into the board. Not the serial console, and not the log: what
// it is told is for who stands in front of it.
const screen = "/dev/tty1"

// tellScreen writes to a screen, whenever it changes, what a person needs to join: a kit that founded its mission drew
// a passphrase that is nowhere else to be read.
func tellScreen(path string, text func() string) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("screen: %w", err)
		}
		ready()
		if err != nil { // a board without one
			<-ctx.Done()
			return ctx.Err()
		}
		defer f.Close()
		tick := time.NewTicker(accessPoll)
		defer tick.Stop()
		for told := ""; ; {
			if now := text(); now != told {
				if _, err := f.WriteString(now); err != nil {
					return fmt.Errorf("screen: %w", err)
				}
				told = now
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	}
}

// screenText is what the screen is told; "" while there is nothing to join.
func (k *Kit) screenText(a access.Status) string {
	if !a.Enabled {
		return ""
	}
	s := k.accessSettings()
	var b strings.Builder
	fmt.Fprintf(&b, "\n  %s, number %d, mission %s\n", plain(k.name), k.number, plain(k.mission.Load().Name))
	fmt.Fprintf(&b, "  Wi-Fi       %s\n  passphrase  %s\n  page        http://%s/\n\n", plain(s.SSID), plain(s.Passphrase), k.cfg.Handset.Address)
	return b.String()
}

// plain leaves out of a name what a terminal might obey.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
