package phone

import "math"

const (
	toneAmplitude = 8000 // of 32767: -12 dBFS, what people speak at

	// toneShare of a frame's energy must be at the expected frequency. G.711
	// leaves 38 dB between a tone and its own noise; half a period too many in
	// 20 ms costs a few per cent; a second tone as loud as the first halves it.
	toneShare = 0.8
	// toneFloor is the mean square below which a frame is silence (RMS 100, -50 dBFS).
	toneFloor = 100 * 100
	// toneFrames and toneMost: that many frames are needed for a judgement, and
	// that share of them must be the tone.
	toneFrames = 25
	toneMost   = 0.95
)

// oscillator makes a tone without a seam between frames.
type oscillator struct{ phase, step float64 }

func newOscillator(hertz float64) *oscillator {
	return &oscillator{step: 2 * math.Pi * hertz / sampleRate}
}

func (o *oscillator) fill(samples []int16) {
	for i := range samples {
		samples[i] = int16(toneAmplitude * math.Sin(o.phase))
		o.phase = math.Mod(o.phase+o.step, 2*math.Pi)
	}
}

// goertzel returns the share of the samples' energy that is at a frequency, 0
// to about 1, and their mean square.
func goertzel(samples []int16, hertz float64) (share, meanSquare float64) {
	if len(samples) == 0 {
		return 0, 0
	}
	coefficient := 2 * math.Cos(2*math.Pi*hertz/sampleRate)
	var s1, s2, energy float64
	for _, v := range samples {
		x := float64(v)
		s1, s2 = x+coefficient*s1-s2, s1
		energy += x * x
	}
	if energy == 0 {
		return 0, 0
	}
	n := float64(len(samples))
	power := s1*s1 + s2*s2 - coefficient*s1*s2 // |X|²
	return 2 * power / (n * energy), energy / n
}

// ear judges frame by frame, so that lost packets cost their own frames only.
type ear struct {
	hertz         float64
	frames, tones uint64
}

func (e *ear) hear(samples []int16) {
	e.frames++
	if share, level := goertzel(samples, e.hertz); share >= toneShare && level >= toneFloor {
		e.tones++
	}
}

// ok: the expected tone and no other was heard, all along.
func (e *ear) ok() bool {
	return e.hertz > 0 && e.frames >= toneFrames && float64(e.tones) >= toneMost*float64(e.frames)
}
