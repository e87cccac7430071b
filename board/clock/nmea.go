package clock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// maxSentence bounds a line of a receiver; NMEA 0183 allows 82 characters, some receivers send more.
const maxSentence = 256

var errSentence = errors.New("NMEA sentence")

// ParseRMC reads the time from an RMC sentence of NMEA 0183, "recommended minimum specific GNSS data", of any satellite
// system. ok is false for other sentences, and while the receiver has no fix: its time is a guess then, as the kit's is.
func ParseRMC(line string) (t time.Time, ok bool, err error) {
	line = strings.TrimSpace(line)
	body, sum, found := strings.Cut(strings.TrimPrefix(line, "$"), "*")
	if !found || !strings.HasPrefix(line, "$") || len(line) > maxSentence {
		return t, false, errSentence
	}
	var x byte
	for i := range len(body) {
		x ^= body[i]
	}
	if want, err := strconv.ParseUint(sum, 16, 8); err != nil || byte(want) != x || len(sum) != 2 || body == "" {
		return t, false, fmt.Errorf("%w: checksum", errSentence)
	}
	f := strings.Split(body, ",")
	if len(f[0]) != 5 || f[0][2:] != "RMC" {
		return t, false, nil
	}
	if len(f) < 10 {
		return t, false, fmt.Errorf("%w: %d fields", errSentence, len(f))
	}
	if f[2] != "A" { // V: "navigation receiver warning"
		return t, false, nil
	}
	// Fractions of a second are read wherever there are some.
	t, err = time.Parse("020106 150405", f[9]+" "+f[1])
	if err != nil {
		return t, false, fmt.Errorf("%w: time: %w", errSentence, err)
	}
	return t, true, nil
}

// agreed is how many sentences one after the other must go with the same clock before it is believed.
const agreed = 3

// ReadGPS reads sentences until the reader ends or ctx does, and calls fix with times that several sentences agreed on,
// each as soon as it is read, which is within a second of the time it says. now is a steady clock.
func ReadGPS(ctx context.Context, in io.Reader, now func() time.Time, fix func(time.Time)) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, maxSentence), 4*maxSentence)
	var last, at time.Time
	same := 0
	for ctx.Err() == nil && lines.Scan() {
		t, ok, err := ParseRMC(lines.Text())
		if err != nil || !ok {
			continue // noise of another device, too
		}
		n := now()
		if d := t.Sub(last) - n.Sub(at); same == 0 || d.Abs() > time.Second {
			same = 0
		}
		last, at = t, n
		if same++; same >= agreed {
			fix(t)
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("GPS receiver: %w", err)
	}
	return nil
}
