package access

import (
	"errors"
	"strings"
	"testing"
)

func TestChoiceOfTheChannel(t *testing.T) {
	in := func(country string) []Channel { // 12 and 13 may be used where the country is known
		c := channels24()
		if country == "DE" {
			c[11].Passive, c[12].Passive = false, false
			c = append(c, Channel{Number: 36, Frequency: 5180}, Channel{Number: 52, Frequency: 5260, Radar: true})
		}
		return c
	}
	loud := func(frequency int) Heard { return Heard{Frequency: frequency, Signal: -40} }
	faint := func(frequency int) Heard { return Heard{Frequency: frequency, Signal: -90} }
	for _, c := range []struct {
		name  string
		wish  Wish
		heard []Heard
		want  int
		says  string // of why it is another than was asked for
	}{
		{name: "nothing heard", want: 1},
		{name: "nothing heard, another kit", wish: Wish{Seed: 1}, want: 6},
		{name: "nothing heard, a third", wish: Wish{Seed: 5}, want: 11},
		{name: "the quietest", heard: []Heard{loud(2412), loud(2437)}, want: 11},
		{name: "one between two is bad for both", heard: []Heard{loud(2427)}, want: 11},
		{name: "a faint one is better than a loud one", heard: []Heard{faint(2412), loud(2437), loud(2462)}, want: 1},
		{name: "5 GHz is not in the way", heard: []Heard{loud(5180)}, want: 1},
		{name: "stays", wish: Wish{Previous: 6}, heard: []Heard{{Frequency: 2437, Signal: -96}}, want: 6},
		{name: "moves away from noise", wish: Wish{Previous: 6}, heard: []Heard{loud(2437)}, want: 1},
		{name: "does not stay on what nobody chose", wish: Wish{Previous: 3}, want: 1},
		{name: "asked for", wish: Wish{Asked: 3}, heard: []Heard{loud(2422)}, want: 3},
		{name: "13 without a country", wish: Wish{Asked: 13}, heard: []Heard{loud(2412)}, want: 6, says: "while the country is not known"},
		{name: "13 in Germany", wish: Wish{Asked: 13, Country: "DE"}, want: 13},
		{name: "36 in Germany", wish: Wish{Asked: 36, Country: "DE"}, want: 36},
		{name: "52 wants radar to be looked for", wish: Wish{Asked: 52, Country: "DE"}, want: 1, says: "channel 52, asked for, may not be used in country DE by wlan0"},
		{name: "14", wish: Wish{Asked: 14, Country: "DE"}, want: 1, says: "channel 14"},
		{name: "with its station link", wish: Wish{Station: 11, Asked: 1, Previous: 6}, heard: []Heard{loud(2462)}, want: 11},
		{name: "with its station link where nobody may send", wish: Wish{Station: 13, Asked: 3}, want: 3, says: "channel 13, of the link to another kit"},
		{name: "absurd signals", heard: []Heard{{Frequency: 2412, Signal: 1 << 30}, {Frequency: -5, Signal: -1 << 30}}, want: 6},
	} {
		r := builtIn
		r.Channels = in(c.wish.Country)
		got, err := ChooseChannel(r, c.wish, c.heard)
		if err != nil || got.Number != c.want || !got.Usable() || !strings.Contains(got.Instead, c.says) || (c.says == "") != (got.Instead == "") {
			t.Errorf("%s: %+v, %v, want %d", c.name, got, err, c.want)
		}
	}
}

// With the country unknown nothing is sent where it is forbidden anywhere, whatever the radio's firmware would allow.
func TestChannelsWhileTheCountryIsUnknown(t *testing.T) {
	r := builtIn
	for n := range r.Channels {
		r.Channels = channels24()
		r.Channels[n].Passive, r.Channels[n].Disabled = false, false
	}
	r.Channels = append(r.Channels, Channel{Number: 36, Frequency: 5180})
	for _, c := range Allowed(r, "") {
		if c.Number > 11 || c.Frequency > 2462 {
			t.Errorf("%+v", c)
		}
	}
	if n := len(Allowed(r, "")); n != 11 {
		t.Errorf("%d channels", n)
	}
}

func TestNoChannelAtAll(t *testing.T) {
	r := builtIn
	r.Channels = []Channel{{Number: 6, Frequency: 2437, Disabled: true}}
	if c, err := ChooseChannel(r, Wish{}, nil); !errors.Is(err, ErrChannel) {
		t.Errorf("%+v, %v", c, err)
	}
	// Some radio without 1, 6 and 11.
	r.Channels = []Channel{{Number: 3, Frequency: 2422}}
	if c, err := ChooseChannel(r, Wish{Seed: 7}, nil); err != nil || c.Number != 3 {
		t.Errorf("%+v, %v", c, err)
	}
}
