package clock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Wherever a kit's clock begins.
var beginnings = map[string]time.Time{
	"1970": time.Date(1970, 1, 1, 0, 1, 0, 0, time.UTC),
	"2025": time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC),
	"2040": time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC),
}

// the is an instant at which the clock is right about how long it has run since a beginning.
func the(now, beginning time.Time) Instant { return Instant{now, now.Sub(beginning)} }

func everywhere(t *testing.T, f func(t *testing.T, start time.Time)) {
	for name, start := range beginnings {
		t.Run(name, func(t *testing.T) { f(t, start) })
	}
}

func TestSourcesRaiseTheClock(t *testing.T) {
	everywhere(t, func(t *testing.T, start time.Time) {
		for _, s := range []Source{GPS, Phone} {
			r := New(the(start, start), start, false)
			if r.Synchronised() || r.Source() != Nobody {
				t.Fatal("synchronised by nobody")
			}
			want := start.Add(90 * 24 * time.Hour)
			if c, err := r.Told(the(start.Add(time.Minute), start), s, want); err != nil || !c.Set.Equal(want) || !r.Synchronised() || r.Source() != s {
				t.Errorf("%s: set to %v, source %s: %v", s, c, r.Source(), err)
			}
			// Then it is known, and a second of difference is none.
			if c, _ := r.Told(the(want, start), s, want.Add(100*time.Millisecond)); c != (Change{}) {
				t.Errorf("%s: set again, to %v", s, c)
			}
		}
	})
}

func TestTheClockIsNeverLowered(t *testing.T) {
	everywhere(t, func(t *testing.T, start time.Time) {
		r := New(the(start, start), start, false)
		now := start.Add(time.Hour) // it ran for an hour: that is certain
		for _, s := range []Source{GPS, Phone} {
			for _, d := range []time.Duration{-2 * time.Minute, -2 * time.Hour, -24 * 365 * time.Hour} {
				if set, err := r.Told(the(now, start), s, now.Add(d)); set != (Change{}) || !errors.Is(err, ErrRefused) {
					t.Errorf("%s, %v earlier: %v %v", s, d, set, err)
				}
			}
		}
		if set := r.Heard(the(now, start), []Claim{{-time.Hour, true}, {-2 * time.Minute, true}, {-time.Hour, false}}); set != (Change{}) {
			t.Errorf("lowered to %v by kits", set)
		}
	})
}

// A receiver that is older than its satellites' calendar is 1024 weeks wrong.
func TestAbsurdTimesAreRefused(t *testing.T) {
	const rollover = 1024 * 7 * 24 * time.Hour
	everywhere(t, func(t *testing.T, start time.Time) {
		r := New(the(start, start), start, false)
		for _, at := range []time.Time{start.Add(rollover), start.Add(-rollover), time.Unix(0, 0).Add(-time.Hour), start.AddDate(60, 0, 0)} {
			for _, s := range []Source{GPS, Phone} {
				if set, err := r.Told(the(start, start), s, at); set != (Change{}) || !errors.Is(err, ErrRefused) {
					t.Errorf("%s: %v believed: %v", s, at, err)
				}
			}
			if set := r.Heard(the(start, start), []Claim{{at.Sub(start), true}}); set != (Change{}) || r.Synchronised() {
				t.Errorf("kits: %v believed", at)
			}
		}
	})
}

// A phone is heard only while nobody better was: one that lies later changes nothing.
func TestAPhoneIsHeardOnce(t *testing.T) {
	start := beginnings["2025"]
	r := New(the(start, start), start, false)
	if _, err := r.Told(the(start, start), Phone, start.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Told(the(start.Add(time.Hour), start), Phone, start.Add(48*time.Hour)); !errors.Is(err, ErrRefused) {
		t.Errorf("a second phone: %v", err)
	}
	r = New(the(start, start), start, true)
	if _, err := r.Told(the(start, start), Phone, start.Add(time.Hour)); !errors.Is(err, ErrRefused) {
		t.Errorf("a phone against a clock chip: %v", err)
	}
}

// What was only told is gone with the power: a lie is not kept.
func TestOnlyWhatIsCertainIsSaved(t *testing.T) {
	everywhere(t, func(t *testing.T, start time.Time) {
		r := New(the(start, start), start, false)
		_, _ = r.Told(the(start, start), Phone, start.AddDate(5, 0, 0))
		r.Heard(the(start, start), []Claim{{time.Hour, true}})
		if c := r.Certain(the(start.Add(time.Minute), start)); !c.Equal(start.Add(time.Minute - 60*time.Millisecond)) {
			t.Errorf("saved would be %v", c)
		}
		r = New(the(start, start), start, false)
		if _, err := r.Told(the(start, start), GPS, start.AddDate(0, 0, 20)); err != nil {
			t.Fatal(err)
		}
		if c := r.Certain(the(start.Add(time.Minute), start)); !c.Equal(start.AddDate(0, 0, 20).Add(time.Minute - 60*time.Millisecond)) {
			t.Errorf("with GPS saved would be %v", c)
		}
	})
}

// A clock that a lie put ahead says so as soon as somebody knows better, and is not trusted any more.
func TestAClockThatIsAhead(t *testing.T) {
	start := beginnings["2025"]
	r := New(the(start, start), start, false)
	lie, err := r.Told(the(start, start), Phone, start.AddDate(5, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	truth := start.Add(24 * time.Hour)
	now := Instant{lie.Set, time.Minute}
	if c, err := r.Told(now, GPS, truth); !errors.Is(err, ErrRefused) || c != (Change{}) || r.Synchronised() || r.Ahead() < 365*24*time.Hour {
		t.Errorf("%v, ahead %v: %v", c, r.Ahead(), err)
	}
	if c := r.Certain(now); !c.Equal(truth) {
		t.Errorf("the next start would begin at %v", c)
	}
}

// A little too far is made good by running slower: no second comes twice.
func TestAClockIsSlowedDown(t *testing.T) {
	start := beginnings["2025"]
	r := New(the(start, start), start, false)
	now := the(start.Add(time.Hour), start)
	if c, err := r.Told(now, GPS, now.Wall.Add(-time.Second)); err != nil || c != (Change{Lose: time.Second}) || !r.Synchronised() {
		t.Errorf("%v: %v", c, err)
	}
	// It is heard no more: an hour later the others are.
	claims := []Claim{{3 * time.Second, true}, {3 * time.Second, true}}
	if c := r.Heard(now, claims); c != (Change{}) || r.Disagreeing() != 2 {
		t.Errorf("against GPS: %v", c)
	}
	now = Instant{now.Wall.Add(lastFix), now.Steady + lastFix}
	if c := r.Heard(now, claims); !c.Set.Equal(now.Wall.Add(3 * time.Second)) {
		t.Errorf("after GPS: %v", c)
	}
}

// cluster runs kits that are all linked to each other, rounds of Heard one after the other. dishonest kits say what they
// like.
type cluster struct {
	start  time.Time
	now    time.Time // true time
	clocks []time.Duration
	rules  []*Rules
	lies   map[int]time.Duration // of the true time
}

func (c *cluster) round() {
	for i, r := range c.rules {
		var claims []Claim
		for j, o := range c.rules {
			if lie, ok := c.lies[j]; ok && j != i {
				claims = append(claims, Claim{lie - c.clocks[i], true})
			} else if j != i {
				claims = append(claims, Claim{c.clocks[j] - c.clocks[i], o.Synchronised()})
			}
		}
		c.do(i, r.Heard(c.instant(i), claims))
	}
	c.now = c.now.Add(10 * time.Second)
}

func (c *cluster) instant(i int) Instant { return Instant{c.now.Add(c.clocks[i]), c.now.Sub(c.start)} }

// do changes a clock; what it is to lose it has lost by the next round.
func (c *cluster) do(i int, ch Change) {
	if !ch.Set.IsZero() {
		c.clocks[i] = ch.Set.Sub(c.now)
	}
	c.clocks[i] -= ch.Lose
}

func kits(start time.Time, behind ...time.Duration) *cluster {
	c := &cluster{start: start, now: start, lies: map[int]time.Duration{}}
	for _, b := range behind {
		c.clocks = append(c.clocks, -b)
		c.rules = append(c.rules, New(Instant{Wall: start.Add(-b)}, start.Add(-b), false))
	}
	return c
}

func (c *cluster) told(t *testing.T, i int, s Source, off time.Duration) {
	t.Helper()
	ch, err := c.rules[i].Told(c.instant(i), s, c.now.Add(off))
	if err != nil {
		t.Fatal(err)
	}
	c.do(i, ch)
}

func (c *cluster) spread(except ...int) (low, high time.Duration) {
	low, high = 1<<62, -1<<62
	for i, o := range c.clocks {
		if len(except) > 0 && except[0] == i {
			continue
		}
		low, high = min(low, o), max(high, o)
	}
	return low, high
}

// "20 kits agree, one GPS or phone browser fixes all."
func TestKitsAgree(t *testing.T) {
	everywhere(t, func(t *testing.T, start time.Time) {
		var behind []time.Duration
		for i := range 20 {
			behind = append(behind, time.Duration(i*i)*time.Hour)
		}
		c := kits(start.AddDate(1, 0, 0), behind...)
		c.clocks[0] = -time.Hour
		for range 2 {
			c.round()
		}
		if low, high := c.spread(); high-low > time.Second {
			t.Errorf("without a source they are %v apart", high-low)
		}
		c.told(t, 7, Phone, 0)
		for range 2 {
			c.round()
		}
		for i, r := range c.rules {
			if !r.Synchronised() || c.clocks[i].Abs() > time.Second {
				t.Errorf("kit %d: %v off, source %s", i, c.clocks[i], r.Source())
			}
		}
	})
}

// A member that lies moves nobody once two kits know the time, and it does not help to lie first while another tells the
// truth.
func TestALyingMember(t *testing.T) {
	start := beginnings["2025"].AddDate(1, 0, 0)
	t.Run("later", func(t *testing.T) {
		c := kits(start, time.Hour, time.Hour, time.Hour, time.Hour)
		c.told(t, 0, Phone, 0)
		c.round()
		c.lies[3] = 5 * 365 * 24 * time.Hour
		for range 20 {
			c.round()
		}
		if low, high := c.spread(3); low.Abs() > time.Second || high.Abs() > time.Second {
			t.Errorf("clocks are %v to %v off", low, high)
		}
		if c.rules[0].Disagreeing() != 1 {
			t.Errorf("%d kits disagree", c.rules[0].Disagreeing())
		}
	})
	t.Run("the only other kit", func(t *testing.T) {
		c := kits(start, time.Hour, time.Hour)
		c.told(t, 0, Phone, 0)
		c.lies[1] = 5 * 365 * 24 * time.Hour
		for range 20 {
			c.round()
		}
		if low, high := c.spread(1); low.Abs() > time.Second || high.Abs() > time.Second {
			t.Errorf("the clock is %v to %v off", low, high)
		}
		if c.rules[0].Disagreeing() != 1 {
			t.Errorf("%d kits disagree", c.rules[0].Disagreeing())
		}
	})
	t.Run("at the same time", func(t *testing.T) {
		c := kits(start, time.Hour, time.Hour, time.Hour, time.Hour)
		c.told(t, 0, GPS, 0)
		c.lies[3] = 5 * 365 * 24 * time.Hour
		for range 20 {
			c.round()
		}
		if low, high := c.spread(3); low.Abs() > time.Second || high.Abs() > time.Second {
			t.Errorf("clocks are %v to %v off", low, high)
		}
	})
	t.Run("as one that does not know", func(t *testing.T) {
		r := New(the(start, start), start, false)
		if set := r.Heard(the(start, start), []Claim{{2 * guessed, false}}); set != (Change{}) {
			t.Errorf("set to %v", set)
		}
	})
}

// Clocks that run differently stay together, and one that runs too fast does not draw the others along.
func TestDrift(t *testing.T) {
	start := beginnings["2025"]
	c := kits(start, 0, 0, 0, 0, 0)
	for i := range c.rules {
		c.told(t, i, Phone, 0)
	}
	for range 1000 {
		for i := range c.clocks {
			c.clocks[i] += time.Duration(i-2) * 6 * time.Millisecond
		}
		c.clocks[4] += time.Second
		c.round()
	}
	if low, high := c.spread(4); high-low > time.Second || high > 2*time.Second {
		t.Errorf("clocks are %v to %v off", low, high)
	}
}

func TestClaimsAreBounded(t *testing.T) {
	start := beginnings["2025"]
	claims := make([]Claim, MaxClaims)
	claims = append(claims, make([]Claim, 10*MaxClaims)...)
	for i := MaxClaims; i < len(claims); i++ {
		claims[i] = Claim{time.Hour, true}
	}
	if set := New(the(start, start), start, false).Heard(the(start, start), claims); set != (Change{}) {
		t.Errorf("set to %v", set)
	}
}

func sentence(body string) string {
	var x byte
	for i := range len(body) {
		x ^= body[i]
	}
	return fmt.Sprintf("$%s*%02X\r\n", body, x)
}

func TestParseRMC(t *testing.T) {
	want := time.Date(2026, 11, 23, 12, 34, 56, 0, time.UTC)
	for in, ok := range map[string]bool{
		sentence("GPRMC,123456.00,A,4807.038,N,01131.000,E,022.4,084.4,231126,003.1,W"): true,
		sentence("GNRMC,123456,A,,,,,,,231126,,,A"):                                     true,
		sentence("GPRMC,123456.00,V,,,,,,,231126,,,N"):                                  false,
		sentence("GPGGA,123456.00,,,,,0,00,99.99,,,,,,"):                                false,
	} {
		got, is, err := ParseRMC(in)
		if is != ok || err != nil || ok && !got.Equal(want) {
			t.Errorf("%q: %v %v %v", in, got, is, err)
		}
	}
	good := sentence("GPRMC,123456.00,A,4807.038,N,01131.000,E,022.4,084.4,231126,003.1,W")
	for i := range len(good) - 2 {
		if _, ok, _ := ParseRMC(good[:i]); ok {
			t.Errorf("%q is taken", good[:i])
		}
	}
	for _, in := range []string{"", "$*00", "$", sentence("GPRMC,256199.00,A,,,,,,,231126,,"), sentence("GPRMC,A"), strings.Replace(good, "4807", "4808", 1), sentence("GPRMC,1,A,,,,,,,1,,")} {
		if _, ok, err := ParseRMC(in); ok || err == nil {
			t.Errorf("%q is taken", in)
		}
	}
}

func TestReadGPS(t *testing.T) {
	base := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var in strings.Builder
	rmc := func(at time.Time) {
		in.WriteString(sentence("GNRMC," + at.Format("150405.00") + ",A,,,,,,," + at.Format("020106") + ",,,A"))
	}
	in.WriteString("\x00\xffnoise\n")
	rmc(base.AddDate(-10, 0, 0)) // the first sentences of a receiver that is just waking up
	for i := range 5 {
		rmc(base.Add(time.Duration(i) * time.Second))
		in.WriteString(sentence("GNGGA,x"))
	}
	rmc(base.AddDate(1, 0, 0)) // and one that jumps
	steady, fixes := time.Unix(0, 0), []time.Time{}
	err := ReadGPS(context.Background(), strings.NewReader(in.String()), func() time.Time {
		steady = steady.Add(time.Second)
		return steady
	}, func(f time.Time) { fixes = append(fixes, f) })
	if err != nil || len(fixes) != 3 || !fixes[0].Equal(base.Add(2*time.Second)) || !fixes[2].Equal(base.Add(4*time.Second)) {
		t.Errorf("fixes %v: %v", fixes, err)
	}
	if err := ReadGPS(context.Background(), strings.NewReader(strings.Repeat("x", 10000)), time.Now, nil); err == nil {
		t.Error("a line without end is read")
	}
}

func FuzzParseRMC(f *testing.F) {
	f.Add(sentence("GPRMC,123456.00,A,4807.038,N,01131.000,E,022.4,084.4,231126,003.1,W"))
	f.Fuzz(func(t *testing.T, s string) {
		if at, ok, err := ParseRMC(s); ok && (err != nil || at.Year() < 1969 || at.Year() > 2068) {
			t.Errorf("%v %v", at, err)
		}
	})
}
