package boot

import (
	"testing"
	"time"
)

func TestFloor(t *testing.T) {
	day := func(s string) time.Time {
		d, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	none, made := time.Time{}, day("2026-11-23")
	for _, c := range []struct {
		name                     string
		clock, made, chip, saved time.Time
		want                     time.Time
	}{
		{"a board without a clock", day("1970-01-01"), made, none, none, made},
		{"one that ran before", day("1970-01-01"), made, none, day("2027-03-01"), day("2027-03-01")},
		{"one with a clock", day("1970-01-01"), made, day("2031-05-01"), day("2027-03-01"), day("2031-05-01")},
		{"a clock whose battery is empty", day("2000-01-01"), made, day("2000-01-01"), day("2027-03-01"), day("2027-03-01")},
		{"a clock that lies", day("2099-01-01"), made, day("2099-01-01"), day("2027-03-01"), day("2027-03-01")},
		{"a saved time that lies", day("1970-01-01"), made, none, day("2200-01-01"), made},
		{"the kernel set it", day("2030-01-01"), made, day("2030-01-01"), none, day("2030-01-01")},
		{"an image from a drawer", day("1970-01-01"), made, none, day("2040-01-01"), day("2040-01-01")},
		{"an image that does not say when it was made", day("1970-01-01"), none, none, day("2027-03-01"), day("2027-03-01")},
		{"nobody knows", day("1970-01-01"), none, none, none, day("1970-01-01")},
	} {
		at, set := floor(c.clock, c.made, c.chip, c.saved)
		if !at.Equal(c.want) || set == c.want.Equal(c.clock) {
			t.Errorf("%s: %v, set %v", c.name, at, set)
		}
	}
	// "works at any clock from 1970 to 2040": never before the image was made, never lower by another source.
	for year := 1970; year <= 2040; year++ {
		for saved := 1970; saved <= 2040; saved++ {
			clock, kept := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(saved, 1, 1, 0, 0, 0, 0, time.UTC)
			at, _ := floor(clock, made, kept)
			if at.Before(made) || at.Before(clock) || at.Before(kept) {
				t.Fatalf("clock %v, saved %v: %v", clock, kept, at)
			}
		}
	}
}

func TestParseTimes(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
	}{{"1700000000\n", 1700000000}, {"0", 0}, {"-5", 0}, {"", 0}, {"x", 0}, {"4294967296", 0}, {"99999999999999999999", 0}} {
		if got := parseEpoch([]byte(c.text)); got.IsZero() != (c.want == 0) || c.want != 0 && got.Unix() != c.want {
			t.Errorf("%q: %v", c.text, got)
		}
	}
	for text, want := range map[string]string{"2027-03-01T10:00:00.5Z\n": "2027-03-01T10:00:00.5Z", "2027": "", "": ""} {
		got := parseSaved([]byte(text))
		if want == "" && !got.IsZero() || want != "" && got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}
