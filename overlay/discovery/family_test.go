package discovery

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/grandcat/zeroconf"
)

// On an interface whose IPv4 addresses are refused, as those of the handsets are, nobody is asked over IPv4 and no such
// address is announced.
func TestFamiliesOfRefusedAddresses(t *testing.T) {
	handsets := netip.MustParsePrefix("10.73.0.0/16")
	use := func(a netip.Addr) bool { return !handsets.Contains(a) }
	for _, c := range []struct {
		name      string
		addrs     []string
		want      zeroconf.IPType
		announced []string // nil: what the interface has
	}{
		{"cable", []string{"169.254.1.1/16", "fe80::1/64"}, zeroconf.IPv4AndIPv6, nil},
		{"IPv4 alone", []string{"169.254.1.1/16"}, zeroconf.IPv4, nil},
		{"handsets' interface", []string{"10.73.0.1/16", "fe80::1/64", "fd00::1/64"}, zeroconf.IPv6, []string{"fe80::1", "fd00::1"}},
		{"handsets' interface without IPv6", []string{"10.73.0.1/16"}, 0, []string{}},
	} {
		s := &station{cfg: Config{UseAddr: use}}
		for _, a := range c.addrs {
			s.ifc.Addrs = append(s.ifc.Addrs, netip.MustParsePrefix(a))
		}
		got, err := s.families()
		if got != c.want || (err == nil) != (c.want != 0) {
			t.Errorf("%s: asked over %v, %v", c.name, got, err)
		}
		if a := s.announced(); c.announced != nil && !slices.Equal(a, c.announced) || c.announced == nil && a != nil {
			t.Errorf("%s: announced %v", c.name, a)
		}
	}
}
