//go:build linux

package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"time"
)

// writeTone writes a mono 16-bit WAV file with a sine of hz at half amplitude.
func writeTone(name string, hz float64, d time.Duration) error {
	n := int(d.Seconds() * sampleRate)
	var b bytes.Buffer
	b.WriteString("RIFF")
	for _, v := range []any{
		uint32(36 + 2*n), [4]byte([]byte("WAVE")), [4]byte([]byte("fmt ")), uint32(16), uint16(1), uint16(1),
		uint32(sampleRate), uint32(2 * sampleRate), uint16(2), uint16(16), [4]byte([]byte("data")), uint32(2 * n),
	} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	for i := range n {
		s := 0.5 * math.Sin(2*math.Pi*hz*float64(i)/sampleRate)
		_ = binary.Write(&b, binary.LittleEndian, int16(s*math.MaxInt16))
	}
	return os.WriteFile(name, b.Bytes(), 0o600)
}

// readWAV returns the samples of a mono 16-bit WAV file, also of one whose header was never completed.
func readWAV(name string) ([]float64, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	i := bytes.Index(b, []byte("data"))
	if !bytes.HasPrefix(b, []byte("RIFF")) || i < 0 || i+8 > len(b) {
		return nil, fmt.Errorf("%s is no WAV file", name)
	}
	if bits := binary.LittleEndian.Uint16(b[34:]); bits != 16 {
		return nil, fmt.Errorf("%s has %d bits", name, bits)
	}
	b = b[i+8:]
	s := make([]float64, len(b)/2)
	for i := range s {
		s[i] = float64(int16(binary.LittleEndian.Uint16(b[2*i:]))) / math.MaxInt16
	}
	return s, nil
}

// power is the Goertzel power of hz in s, 1 for a full-scale sine.
func power(s []float64, hz float64) float64 {
	c := 2 * math.Cos(2*math.Pi*hz/sampleRate)
	var a, b float64
	for _, x := range s {
		a, b = x+c*a-b, a
	}
	n := float64(len(s))
	return 4 * (a*a + b*b - c*a*b) / (n * n)
}

// tone is what listen measured.
type tone struct {
	Seconds  float64 // of recording from the first sound to the last
	Present  float64 // share of 20 ms windows in which the wanted tone is most of the energy
	Foreign  float64 // share of windows in which the other tone is heard
	Strength float64 // median amplitude of the wanted tone, 0.5 as played
}

// listen looks for want and for other in a recording, window by window, leaving out silence before and after.
func listen(s []float64, want, other float64) (tone, error) {
	const window = sampleRate / 50
	type slice struct{ rms, want, other float64 }
	var all []slice
	first, last := -1, -1
	for i := 0; i+window <= len(s); i += window {
		w := s[i : i+window]
		var sum float64
		for _, x := range w {
			sum += x * x
		}
		sl := slice{math.Sqrt(sum / window), power(w, want), power(w, other)}
		if sl.rms > 0.02 {
			if first < 0 {
				first = len(all)
			}
			last = len(all)
		}
		all = append(all, sl)
	}
	if first < 0 {
		return tone{}, errors.New("the recording is silent")
	}
	all = all[first : last+1]
	var r tone
	var amplitudes []float64
	for _, sl := range all {
		if sl.want > 0.7*2*sl.rms*sl.rms && sl.rms > 0.1 {
			r.Present++
			amplitudes = append(amplitudes, math.Sqrt(sl.want))
		}
		if sl.other > 0.01 && sl.rms > 0.1 {
			r.Foreign++
		}
	}
	n := float64(len(all))
	r.Seconds, r.Present, r.Foreign = n/50, r.Present/n, r.Foreign/n
	if len(amplitudes) > 0 {
		r.Strength = amplitudes[len(amplitudes)/2]
	}
	return r, nil
}
