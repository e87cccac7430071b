package kit

import (
	"slices"
	"testing"

	"fieldkit/ui"
)

func TestWords(t *testing.T) {
	for name, want := range map[string]string{
		"Dropped": "dropped", "TooLarge": "too large", "links_made": "links made", "ServerTransactions": "server transactions",
		"RTT": "rtt", "NoTTL": "no ttl", "X": "x", "": "",
	} {
		if got := words(name); got != want {
			t.Errorf("words(%q) = %q, want %q", name, got, want)
		}
	}
}

// Every number that a package counts is on the page without anybody listing it; what is no number is not.
func TestCountersListWhatAPackageCounts(t *testing.T) {
	type inner struct{ Stale, Unknown uint64 }
	got := counters("sip ", struct {
		Received   uint64
		Open       int
		Below      int
		Ratio      float64
		Name       string
		hidden     uint64
		Digest     inner
		TooLarge32 uint32
	}{Received: 1, Open: 2, Below: -1, Ratio: 0.5, Name: "x", hidden: 9, Digest: inner{Stale: 3, Unknown: 4}, TooLarge32: 5})
	want := []ui.Counter{
		{Name: "sip received", Value: 1}, {Name: "sip open", Value: 2},
		{Name: "sip digest stale", Value: 3}, {Name: "sip digest unknown", Value: 4}, {Name: "sip too large32", Value: 5},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
