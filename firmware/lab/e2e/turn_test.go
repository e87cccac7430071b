//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v2"

	"fieldkit/firmware/lab"
)

// linkedTo reports how many other kits a kit has links to.
func linkedTo(t *testing.T, k *lab.Kit) (n int) {
	t.Helper()
	for _, o := range status(t, k).Kits {
		if o.State == "linked" {
			n++
		}
	}
	return n
}

// allocate asks a TURN server for an allocation.
func allocate(server netip.AddrPort, user, password string) error {
	c, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		return err
	}
	defer c.Close()
	client, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: server.String(), Conn: c, Username: user, Password: password, RTO: 20 * time.Millisecond,
		LoggerFactory: &logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled, ScopeLevels: map[string]logging.LogLevel{}},
	})
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Listen(); err != nil {
		return err
	}
	relay, err := client.Allocate()
	if err != nil {
		return err
	}
	return relay.Close()
}

// TURN Server Usage (RFC 6940 §9): three kits in a line, each cable a network of its own and nothing forwarded. The two
// ends connect through the one in the middle, and a call between their phones is heard both ways.
func TestTwoKitsThatShareOnlyAThird(t *testing.T) {
	l := newLab(t, lab.Options{Kits: 3, Net: lab.NetLine}, "anna", "boris", "carl", "dora")
	began := time.Now()
	must(t, l.StartKits(t.Context()))
	within(t, time.Minute, l.WaitRing)
	left, middle, right := l.Kits[0], l.Kits[1], l.Kits[2]
	eventually(t, 30*time.Second, func() error {
		for _, k := range l.Kits {
			if n := linkedTo(t, k); n != 2 {
				return fmt.Errorf("kit %d has links to %d kits", k.Number, n)
			}
		}
		return nil
	})
	t.Logf("everybody is linked to everybody after %v", time.Since(began).Round(10*time.Millisecond))
	s := status(t, middle)
	if counter(s, "relay allocations") == 0 || counter(s, "relay relayed") == 0 || counter(s, "relay unauthorized") != 0 {
		t.Errorf("the middle relays nothing: %+v", s.Counters)
	}

	p := phones(t, l, 0, 2, 0, 2)
	before := counter(status(t, middle), "relay relayed")
	took, err := p[0].Call(t.Context(), p[1].Account.Number)
	must(t, err)
	pause(t, 5*time.Second)
	a, b, err := p[0].Hangup(t.Context(), p[1])
	must(t, err)
	relayed := counter(status(t, middle), "relay relayed") - before
	t.Logf("call through the relay: ringing after %v, %d packets relayed; %s: %+v; %s: %+v", took.Round(time.Millisecond), relayed, p[0].Account.Number, a, p[1].Account.Number, b)
	if a.Received < 200 || b.Received < 200 || !a.ToneOK || !b.ToneOK || a.Lost != 0 || b.Lost != 0 {
		t.Errorf("the voice suffered: %+v, %+v", a, b)
	}
	if relayed < 2*200 {
		t.Errorf("the middle relayed %d packets of a call of 5 s", relayed)
	}

	// The middle lies between the others, says so in the overlay, and is found there; the ends do not.
	eventually(t, 30*time.Second, func() error {
		for _, k := range l.Kits {
			s := status(t, k)
			listed, found := counter(s, "relay search listed"), counter(s, "relay search found")
			if k == middle && listed != 2 || k != middle && (listed != 0 || found != 1) {
				return fmt.Errorf("kit %d: %d records listed, %d servers found", k.Number, listed, found)
			}
		}
		return nil
	})

	t.Run("others get no allocation", func(t *testing.T) {
		handset, err := l.Handset(1)
		must(t, err)
		cable := netip.MustParseAddr("192.168.61.2") // the middle's on the cable to the left
		for _, c := range []struct {
			name string
			do   func(func() error) error
			at   netip.Addr
		}{
			{"a handset, at the handsets' address", handset.Do, handset.Server},
			{"a handset, at a cable's address", handset.Do, cable},
			{"a stranger on the cable", left.Do, cable},
		} {
			for _, user := range []string{"", "anna", "0011223344556677"} {
				must(t, c.do(func() error {
					if allocate(netip.AddrPortFrom(c.at, 3478), user, "guessed") == nil {
						return fmt.Errorf("%s has an allocation as %q", c.name, user)
					}
					return nil
				}))
			}
		}
		if n := counter(status(t, middle), "relay unauthorized"); n == 0 {
			t.Error("nobody was counted as unauthorized")
		}
	})

	// Without the middle the ends lose each other, and each goes on serving its own phones.
	middle.Kill()
	began = time.Now()
	for _, k := range []*lab.Kit{left, right} {
		eventually(t, time.Minute, func() error { return ringOf(k, 1) })
	}
	t.Logf("the ends know that they are alone %v after the middle died", time.Since(began).Round(100*time.Millisecond))
	for _, pair := range [][2]*lab.Phone{{p[0], p[2]}, {p[1], p[3]}} {
		_, err := pair[0].Call(t.Context(), pair[1].Account.Number)
		must(t, err)
		pause(t, time.Second)
		_, _, err = pair[0].Hangup(t.Context(), pair[1])
		must(t, err)
	}
	_, err = p[0].Call(t.Context(), p[1].Account.Number)
	if err == nil {
		t.Error("a call got through without a way")
	}
}

// In a line of four the ends are two relays apart: each is relayed by its own neighbour, on the cable in the middle.
func TestEndsOfALineOfFour(t *testing.T) {
	l := newLab(t, lab.Options{Kits: 4, Net: lab.NetLine}, "anna", "boris")
	began := time.Now()
	must(t, l.StartKits(t.Context()))
	within(t, time.Minute, l.WaitRing)
	eventually(t, 30*time.Second, func() error {
		for _, k := range l.Kits {
			if n := linkedTo(t, k); n != 3 {
				return fmt.Errorf("kit %d has links to %d kits", k.Number, n)
			}
		}
		return nil
	})
	t.Logf("everybody is linked to everybody after %v", time.Since(began).Round(10*time.Millisecond))
	p := phones(t, l, 0, 3)
	_, err := p[0].Call(t.Context(), p[1].Account.Number)
	must(t, err)
	pause(t, 3*time.Second)
	a, b, err := p[0].Hangup(t.Context(), p[1])
	must(t, err)
	t.Logf("%s: %+v; %s: %+v", p[0].Account.Number, a, p[1].Account.Number, b)
	if a.Received < 120 || b.Received < 120 || !a.ToneOK || !b.ToneOK || a.Lost != 0 || b.Lost != 0 {
		t.Errorf("the voice suffered: %+v, %+v", a, b)
	}
}
