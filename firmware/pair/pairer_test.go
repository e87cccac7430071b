//go:build linux

package pair

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Two kits on a cable: pressed, shown the same code, confirmed, one is in the mission of the other.
func TestTwoKitsPair(t *testing.T) {
	for _, c := range []struct {
		name        string
		a, b        Facts
		host, guest int
	}{
		{"both alone", facts(2, true, true), facts(1, true, true), 0, 1},
		{"one has others", facts(1, true, true), facts(2, false, true), 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := kits(t, "", c.a, c.b)
			for _, k := range all {
				k.do("hold")
				k.stage(Searching)
			}
			x, y := all[0].stage(Comparing), all[1].stage(Comparing)
			if x.Code != y.Code || pressed(x.Peer, 0) != c.b || pressed(y.Peer, 0) != c.a {
				t.Fatalf("%+v, %+v", x, y)
			}
			for _, k := range all {
				k.do("tap")
			}
			host, guest := all[c.host], all[c.guest]
			joined := guest.until("joined", func(s said) bool { return s.Joined != "" })
			if want := "the mission of " + []Facts{c.a, c.b}[c.host].Kit; joined.Joined != want {
				t.Errorf("joined %q, want %q", joined.Joined, want)
			}
			host.ends(Paired)
			guest.ends(Paired)
			guest.until("restarted", func(s said) bool { return s.Again })
		})
	}
}

func TestThirdKitOnTheSwitch(t *testing.T) {
	all := kits(t, "", facts(1, true, true), facts(2, true, true), facts(3, true, true))
	for _, k := range all[:2] {
		k.do("hold")
	}
	for _, k := range all[:2] {
		k.stage(Comparing)
	}
	all[0].do("tap")
	all[2].do("hold")
	for _, k := range all {
		k.ends(Crowd)
	}
	// The two try again, while the others may still say that there were too many.
	all[0].do("hold")
	all[1].do("hold")
	if x, y := all[0].stage(Comparing), all[1].stage(Comparing); x.Code != y.Code {
		t.Errorf("codes %d and %d", x.Code, y.Code)
	}
}

func TestPairingsThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		a, b Facts
		why  Why
	}{
		"missions with others": {facts(1, false, true), facts(2, false, true), Foreign},
		"no key":               {facts(1, true, true), facts(2, false, false), Keyless},
	} {
		t.Run(name, func(t *testing.T) {
			all := kits(t, "", c.a, c.b)
			for _, k := range all {
				k.do("hold")
			}
			for _, k := range all {
				k.ends(c.why)
			}
		})
	}
}

// The code is confirmed, and the enrolment refused: both say so, and both can begin again.
func TestEnrolmentIsRefused(t *testing.T) {
	all := kits(t, "fail", facts(1, true, true), facts(2, true, true))
	for _, k := range all {
		k.do("hold")
		k.stage(Searching)
	}
	for _, k := range all {
		k.stage(Comparing)
		k.do("tap")
	}
	all[1].ends(Broken)
	all[0].ends(Broken)
	for _, k := range all {
		k.do("hold")
	}
	for _, k := range all {
		k.stage(Comparing)
	}
}

// address of a kit on its cable.
func (k *kit) address() netip.Addr {
	k.t.Helper()
	var a netip.Addr
	for range 50 {
		_ = k.host.Do(func() error {
			i, err := net.InterfaceByName("eth0")
			if err != nil {
				return err
			}
			addrs, err := i.Addrs()
			for _, x := range addrs {
				if p, err := netip.ParsePrefix(x.String()); err == nil && p.Addr().IsLinkLocalUnicast() {
					a = p.Addr().WithZone(fmt.Sprint(i.Index))
				}
			}
			return err
		})
		if a.IsValid() {
			return a
		}
		time.Sleep(100 * time.Millisecond)
	}
	k.t.Fatal("no address")
	return a
}

// from opens something in the namespace of another kit.
func from[T any](k *kit, open func() (T, error)) T {
	k.t.Helper()
	var x T
	err := k.host.Do(func() (err error) {
		x, err = open()
		return err
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return x
}

// stranger is a socket of somebody on the link who runs no kit.
func (k *kit) stranger() *net.UDPConn {
	conn := from(k, func() (*net.UDPConn, error) { return net.ListenUDP("udp6", &net.UDPAddr{}) })
	k.t.Cleanup(func() { conn.Close() })
	return conn
}

func (k *kit) group() *net.UDPAddr {
	return &net.UDPAddr{IP: Group.AsSlice(), Port: testPort, Zone: k.address().Zone()}
}

// What anybody on the link can send: it keeps nobody from being paired later, and gets nothing.
func TestStrangersOnTheLink(t *testing.T) {
	all := kits(t, "", facts(1, true, true), facts(2, true, true))
	victim, mallory := all[0], all[1]
	target := victim.address()
	dial := func(cfg *tls.Config) error {
		c := from(mallory, func() (net.Conn, error) {
			d := net.Dialer{Timeout: 2 * time.Second}
			c, _ := d.Dial("tcp6", netip.AddrPortFrom(target, testPort).String()) // refused is an answer, too
			return c, nil
		})
		if c == nil {
			return errors.New("refused")
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		if cfg == nil {
			cfg = newSession(t).config()
		}
		tc := tls.Client(c, cfg)
		if err := tc.Handshake(); err != nil {
			return err
		}
		_, err := tc.Read(make([]byte, 1))
		return err
	}
	t.Run("a kit that was not pressed", func(t *testing.T) {
		if err := dial(nil); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("a kit that nobody pressed answers: %v", err)
		}
	})
	conn := mallory.stranger()
	send := func(b []byte) {
		t.Helper()
		var err error
		for range 50 { // while its address is looked for on the link (RFC 4862 §5.4)
			if _, err = conn.WriteTo(b, mallory.group()); !errors.Is(err, syscall.EADDRNOTAVAIL) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Run("replayed announcement", func(t *testing.T) {
		// It is that of a kit that is not there: nobody who sends it has its key.
		victim.do("hold")
		victim.stage(Searching)
		replayed := beacon{id: id(0xff), port: testPort} // higher than any, so that the victim connects
		l := from(mallory, func() (net.Listener, error) { return net.Listen("tcp6", fmt.Sprintf("[::]:%d", testPort)) })
		defer l.Close()
		met := make(chan error, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				met <- err
				return
			}
			defer c.Close()
			s, err := NewSession()
			if err != nil {
				met <- err
				return
			}
			tc := tls.Server(c, s.config())
			if err := tc.Handshake(); err != nil {
				met <- err
				return
			}
			var h hello
			_, err = readFrame(tc, fixed(maxFrame), &h)
			met <- err
		}()
		for range 3 {
			time.Sleep(100 * time.Millisecond)
			send(replayed.encode())
		}
		select {
		case err := <-met:
			if err == nil {
				t.Error("the victim speaks to somebody who has not the key of the announcement")
			}
		case <-time.After(5 * time.Second):
			t.Error("the victim did not connect")
		}
		if victim.last.Stage != Searching {
			t.Errorf("stage %v", victim.last.Stage)
		}
		victim.do("hold")
		victim.ends(Broken)
	})
	t.Run("rubbish and a forged third kit", func(t *testing.T) {
		victim.do("hold")
		victim.stage(Searching)
		for _, b := range [][]byte{nil, []byte("x"), make([]byte, 2000), beacon{id: id(1), port: testPort}.encode()[:20]} {
			send(b)
		}
		victim.do("stats")
		// A kit repeats itself: who searches may not listen on every link yet.
		over := make(chan struct{})
		var repeating sync.WaitGroup
		repeating.Go(func() {
			for tick := time.NewTicker(100 * time.Millisecond); ; <-tick.C {
				select {
				case <-over:
					tick.Stop()
					return
				default:
				}
				_, _ = conn.WriteTo(beacon{id: id(1), port: 1}.encode(), mallory.group())
				_, _ = conn.WriteTo(beacon{id: id(2), port: 1}.encode(), mallory.group())
			}
		})
		defer repeating.Wait()
		defer close(over)
		victim.ends(Crowd)
	})
	t.Run("no handshakes but of the protocol", func(t *testing.T) {
		victim.do("hold")
		victim.stage(Searching)
		time.Sleep(200 * time.Millisecond)
		for name, cfg := range map[string]*tls.Config{
			"HTTPS while nobody is let in": {InsecureSkipVerify: true},
			"no certificate":               {InsecureSkipVerify: true, NextProtos: []string{Protocol}},
		} {
			if err := dial(cfg); err == nil || strings.Contains(err.Error(), "refused") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if victim.last.Stage != Searching {
			t.Errorf("stage %v", victim.last.Stage)
		}
		victim.do("hold")
		victim.ends(Broken)
	})
	t.Run("connections that say nothing", func(t *testing.T) {
		victim.do("hold")
		victim.stage(Searching)
		time.Sleep(200 * time.Millisecond)
		for range 3 * maxStrangers {
			c := from(mallory, func() (net.Conn, error) {
				return net.Dial("tcp6", netip.AddrPortFrom(target, testPort).String())
			})
			defer c.Close()
		}
		time.Sleep(200 * time.Millisecond)
		victim.do("stats")
		refused := victim.until("stats", func(s said) bool { return s.Stats != nil }).Stats.Refused
		if refused < 2*maxStrangers {
			t.Errorf("%d of %d silent connections refused", refused, 3*maxStrangers)
		}
		// And a kit that comes after them is met when they have had their time.
		mallory.do("hold")
		victim.stage(Comparing)
	})
	t.Run("nothing listens afterwards", func(t *testing.T) {
		victim.do("hold")
		victim.ends(Broken)
		time.Sleep(100 * time.Millisecond)
		if err := dial(nil); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%v", err)
		}
	})
}
