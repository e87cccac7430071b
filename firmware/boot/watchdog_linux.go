package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// watchdogTimeout in seconds is about the most that the one of a Raspberry Pi can.
const watchdogTimeout = 15

// watchdog resets the board unless it is fed. A nil one is none.
type watchdog struct{ f *os.File }

// openWatchdog starts it.
func openWatchdog(path string) (*watchdog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	w := &watchdog{f}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogTimeout); err != nil && !errors.Is(err, unix.ENOTTY) && !errors.Is(err, unix.EOPNOTSUPP) {
		// It runs by now, with a time of its own, and wants to be fed.
		return w, fmt.Errorf("timeout of the watchdog: %w", err)
	}
	return w, nil
}

func (w *watchdog) feed() error {
	if w == nil {
		return nil
	}
	_, err := w.f.Write([]byte{0})
	return err
}

// stop has it end: a board that is switched off must not be reset. It may be one that cannot be stopped.
func (w *watchdog) stop() error {
	if w == nil {
		return nil
	}
	_, err := w.f.WriteString("V") // "magic close", Documentation/watchdog/watchdog-api.rst
	return errors.Join(err, w.f.Close())
}
