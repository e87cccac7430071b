package link

import (
	"testing"
	"time"
)

// "Works at any clock": kits that begin in different years link, over ICE and DTLS and over TLS, and open a trunk.
func TestKitsOfAllYearsLink(t *testing.T) {
	m, began := newMission(t), time.Now()
	at := func(year int) func(*Config) {
		begins := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		return func(c *Config) { c.Now = func() time.Time { return begins.Add(time.Since(began)) } }
	}
	tcp := func(c *Config) { c.NoICE, c.LinkProtocols = true, []string{"TLS-TCP-FH-NO-ICE"} }
	for _, years := range [][2]int{{1970, 1970}, {1970, 2025}, {1970, 2040}, {2025, 2040}, {2040, 2040}} {
		a, b := m.transport(at(years[0])), m.transport(at(years[1]))
		x, y := linked(t, a, b)
		exchange(t, x, y)
		trunk(t, a, b)
		a, b = m.transport(at(years[0]), tcp), m.transport(at(years[1]), tcp)
		x, y = linked(t, a, b)
		exchange(t, x, y)
	}
}
