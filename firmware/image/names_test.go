package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"fieldkit/firmware/config"
	"fieldkit/firmware/mission"
)

func TestWordsAreToldApart(t *testing.T) {
	alphabet := strings.Fields("ALFA ALPHA BRAVO CHARLIE DELTA ECHO FOXTROT GOLF HOTEL INDIA JULIETT KILO LIMA MIKE NOVEMBER OSCAR PAPA QUEBEC ROMEO SIERRA TANGO UNIFORM VICTOR WHISKEY XRAY YANKEE ZULU")
	for i, w := range words {
		if slices.Contains(alphabet, w) {
			t.Errorf("%s is a letter: divisions are called so", w)
		}
		if i > 0 && words[i-1] >= w {
			t.Errorf("%s after %s: want each once, in order", w, words[i-1])
		}
		if len(w) < 4 || len(w) > 9 || strings.ToUpper(w) != w {
			t.Errorf("%s: want 4 to 9 capital letters", w)
		}
	}
}

// counter draws 0, 1, 2 … so that a test need not hope.
func counter() func(int) int {
	i := -1
	return func(n int) int { i++; return i % n }
}

func TestNewKitsAreDistinct(t *testing.T) {
	var all []Kit
	for range 40 {
		kits, err := NewKits(all, 20, 0, counter())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, kits...)
	}
	numbers, said := map[int]bool{}, map[string]int{}
	for i, k := range all {
		if numbers[k.Number] || k.Number < mission.FirstKit || k.Number > mission.LastKit {
			t.Errorf("kit %d: number %d given twice, or out of range", i, k.Number)
		}
		numbers[k.Number] = true
		word, _, _ := strings.Cut(k.Name, " ")
		said[word]++
		if k.Name != fmt.Sprintf("%s %d", word, k.Number) {
			t.Errorf("kit %d is called %q", k.Number, k.Name)
		}
		if i < len(words) && said[word] > 1 {
			t.Errorf("kit %d: word %s came again before the others were used", i, word)
		}
		if b, err := kitFile(k, "DE"); err != nil {
			t.Errorf("kit %d: %v", k.Number, err)
		} else if c, err := config.Parse(b); err != nil || c.Kit.Number != k.Number || c.Kit.Name != k.Name || c.Access.Country != "DE" {
			t.Errorf("settings %q: %+v, %v", b, c, err)
		}
	}
	if len(all) != MaxCards {
		t.Fatalf("%d kits", len(all))
	}
	if _, err := NewKits(all, 1, 0, counter()); !errors.Is(err, ErrNoNumber) {
		t.Errorf("one more than there are numbers: %v", err)
	}
}

func TestNewKitsCountUp(t *testing.T) {
	kits, err := NewKits(nil, 3, 411, counter())
	if err != nil || kits[0].Number != 411 || kits[2].Number != 413 {
		t.Errorf("%v, %v", kits, err)
	}
	for _, first := range []int{99, 898, 410} {
		if kits, err := NewKits([]Kit{{412, "MAPLE 412"}}, 3, first, counter()); err == nil {
			t.Errorf("from %d: %v", first, kits)
		}
	}
}

func TestCountries(t *testing.T) {
	if n := len(strings.Fields(countries)); n != 249 {
		t.Errorf("%d countries: ISO 3166-1 has 249", n)
	}
	for in, want := range map[string]string{"": "", "de": "DE", "GB": "GB"} {
		if got, err := checkCountry(in); got != want || err != nil {
			t.Errorf("country %q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"UK", "XX", "D", "DEU", "00", "A ", " A"} {
		if got, err := checkCountry(in); err == nil {
			t.Errorf("country %q: %q", in, got)
		}
	}
}
