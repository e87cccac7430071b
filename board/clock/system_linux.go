package clock

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Set sets the system's clock.
func Set(t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("clock not set: %w", err)
	}
	return nil
}

// Slow makes the system's clock lose d, at most a minute, without ever going back: it runs slower by 500 millionths
// (adjtime(3)).
func Slow(d time.Duration) error {
	t := unix.Timex{Modes: unix.ADJ_OFFSET_SINGLESHOT}
	assign(&t.Offset, -min(d, slewed).Microseconds())
	if _, err := unix.Adjtimex(&t); err != nil {
		return fmt.Errorf("clock not slowed down: %w", err)
	}
	return nil
}

// assign is for fields whose size is that of the machine's words.
func assign[T int32 | int64](field *T, v int64) { *field = T(v) }

// Kept reports whether some other program keeps the system's clock in step with a source that it trusts.
func Kept() bool {
	state, err := unix.Adjtimex(&unix.Timex{})
	return err == nil && state != unix.TIME_ERROR
}

// chip is the board's clock, a battery-backed one.
const chip = "/dev/rtc0"

// ReadChip reads the board's clock chip; the error is fs.ErrNotExist where there is none.
func ReadChip() (time.Time, error) {
	f, err := os.Open(chip)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	r, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		return time.Time{}, fmt.Errorf("clock chip: %w", err)
	}
	return time.Date(int(r.Year)+1900, time.Month(r.Mon+1), int(r.Mday), int(r.Hour), int(r.Min), int(r.Sec), 0, time.UTC), nil
}

// SetChip sets the board's clock chip.
func SetChip(t time.Time) error {
	f, err := os.Open(chip)
	if err != nil {
		return err
	}
	defer f.Close()
	t = t.UTC()
	r := unix.RTCTime{
		Year: int32(t.Year() - 1900), Mon: int32(t.Month() - 1), Mday: int32(t.Day()), Hour: int32(t.Hour()), Min: int32(t.Minute()), Sec: int32(t.Second()),
	}
	if err := unix.IoctlSetRTCTime(int(f.Fd()), &r); err != nil {
		return fmt.Errorf("clock chip not set: %w", err)
	}
	return nil
}

// Receivers are the serial devices that may be GPS receivers: those that present themselves as modems on USB.
func Receivers() []string {
	found, err := filepath.Glob("/dev/ttyACM*")
	if err != nil {
		return nil
	}
	return found[:min(len(found), 4)]
}

// OpenReceiver opens a serial device for reading. Nothing is ever sent: it may be no receiver at all.
func OpenReceiver(path string) (io.ReadCloser, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("GPS receiver %s: %w", path, err)
	}
	raw, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		// A terminal that echoes would talk to the device.
		raw.Iflag, raw.Oflag, raw.Lflag = 0, 0, 0
		raw.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B9600
		raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
		err = unix.IoctlSetTermios(fd, unix.TCSETS, raw)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("GPS receiver %s: %w", path, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}
