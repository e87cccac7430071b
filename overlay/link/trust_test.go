package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/dtls/v2"

	"fieldkit/overlay/ident"
)

// refusals collects what OnRefused is told.
type refusals struct {
	mu  sync.Mutex
	got []error
}

func (r *refusals) hook(c *Config) {
	c.OnRefused = func(addr netip.AddrPort, reason error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.got = append(r.got, fmt.Errorf("%v: %w", addr, reason))
	}
}

// await waits until a refusal for the reason was reported.
func (r *refusals) await(t *testing.T, reason error) {
	t.Helper()
	for end := time.Now().Add(8 * time.Second); ; <-time.After(2 * time.Millisecond) {
		r.mu.Lock()
		for _, err := range r.got {
			if errors.Is(err, reason) && strings.Contains(err.Error(), "127.0.0.1:") {
				r.mu.Unlock()
				return
			}
		}
		got := r.got
		r.mu.Unlock()
		if time.Now().After(end) {
			t.Fatalf("reported %v, want %v", got, reason)
		}
	}
}

func quick(c *Config) { c.HandshakeTimeout, c.ConnectTimeout = 700*time.Millisecond, time.Second }

// "The nodes MUST verify that the certificate presented in the handshake matches the identity of the other peer as found
// in the Attach message" (RFC 6940 §6.5.1.13): a kit of another mission is refused by who meets it, in both directions
// and on both ways in, and the status page is told.
func TestStrangerIsRefused(t *testing.T) {
	t.Parallel()
	t.Run("bootstrap, stranger listens", func(t *testing.T) {
		t.Parallel()
		var r refusals
		ours, stranger := newMission(t).transport(quick, r.hook), newMission(t).transport(quick)
		_, err := ours.Bootstrap(testContext(t, 5*time.Second), netip.AddrPortFrom(loopback, stranger.Port()))
		if !errors.Is(err, ErrUntrusted) {
			t.Errorf("bootstrap: %v", err)
		}
		r.await(t, ErrUntrusted)
	})
	t.Run("bootstrap, stranger that does not look dials", func(t *testing.T) {
		t.Parallel()
		var r refusals
		ours, other := newMission(t).transport(quick, r.hook), newMission(t)
		_, err := bareDial(t, ours.Port(), func(c *dtls.Config) { c.Certificates = []tls.Certificate{other.identity().TLSCertificate()} })
		if err == nil {
			t.Error("a stranger has a link")
		}
		r.await(t, ErrUntrusted)
	})
	for _, offers := range []bool{true, false} {
		t.Run(fmt.Sprintf("attach, stranger offers %v", offers), func(t *testing.T) {
			t.Parallel()
			var r refusals
			ours, stranger := newMission(t).transport(quick, r.hook), newMission(t).transport(quick)
			o, a := ours, stranger
			if offers {
				o, a = stranger, ours
			}
			x, y := attach(testContext(t, 5*time.Second), o, a, (*Attempt).Connect)
			if x.err == nil || y.err == nil {
				t.Errorf("linked: %v, %v", x.err, y.err)
			}
			if offers { // the stranger is the server: we, the client, see its certificate
				r.await(t, ErrUntrusted)
			} else { // it sees ours first and leaves with an alert
				r.await(t, ErrHandshake)
			}
		})
	}
}

// A stranger that does not check certificates itself gets to show its own to our server.
func TestStrangerThatAcceptsEverybodyIsRefused(t *testing.T) {
	t.Parallel()
	m, other := newMission(t), newMission(t)
	var r refusals
	ours := m.transport(quick, r.hook)
	stranger := other.transport(quick)
	stranger.cfg.Trust = m.trust // believes in our mission, holds a certificate of its own
	x, y := attach(testContext(t, 5*time.Second), ours, stranger, (*Attempt).Connect)
	if !errors.Is(x.err, ErrUntrusted) || y.err == nil {
		t.Errorf("offerer %v, answerer %v", x.err, y.err)
	}
	r.await(t, ErrUntrusted)
}

func TestWrongNodeIDIsRefused(t *testing.T) {
	t.Parallel()
	m := newMission(t)
	for _, offererLies := range []bool{true, false} {
		var r refusals
		a, b, c := m.transport(quick, r.hook), m.transport(quick, r.hook), m.identity().NodeID()
		offerer, answerer := a.id(), b.id()
		if offererLies {
			offerer = c
		} else {
			answerer = c
		}
		x, y := attachAs(testContext(t, 5*time.Second), a, b, offerer, answerer, (*Attempt).Connect)
		if !errors.Is(errors.Join(x.err, y.err), ErrWrongPeer) || x.err == nil || y.err == nil {
			t.Errorf("offerer lies %v: %v, %v", offererLies, x.err, y.err)
		}
		r.await(t, ErrWrongPeer)
	}
}

func TestOwnNodeIDIsRefused(t *testing.T) {
	t.Parallel()
	m := newMission(t)
	id := m.identity()
	same := func(c *Config) { c.Identity = id }
	a, b := m.transport(quick, same), m.transport(quick, same)
	if _, err := a.Bootstrap(testContext(t, 5*time.Second), netip.AddrPortFrom(loopback, b.Port())); !errors.Is(err, ErrSelf) {
		t.Errorf("bootstrap to a copy of ourselves: %v", err)
	}
}

func TestRevokedIsRefused(t *testing.T) {
	t.Parallel()
	m := newMission(t)
	bad := m.transport(quick)
	trust, err := ident.NewTrust(testOverlay, m.trust.NodeIDLength(), rootsOf(m.auth), idsOf(bad))
	if err != nil {
		t.Fatal(err)
	}
	var r refusals
	ours := m.transport(quick, r.hook, func(c *Config) { c.Trust = trust })
	if _, err := bad.Bootstrap(testContext(t, 5*time.Second), netip.AddrPortFrom(loopback, ours.Port())); err == nil {
		t.Error("a bad node has a link")
	}
	r.await(t, ident.ErrRevoked)
}

// bareDial is a DTLS client of the library's, without our checks, at a bootstrap port.
func bareDial(t *testing.T, port uint16, change func(*dtls.Config)) (*dtls.Conn, error) {
	t.Helper()
	cfg := bareConfig(newMission(t))
	change(cfg)
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	g := newGuard(c.Write, nil, c.LocalAddr(), c.RemoteAddr(), new(guardStats)) // for its read deadline
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, maxDatagram)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			_, _ = g.in.Write(buf[:n])
		}
	}()
	t.Cleanup(func() { _ = c.Close(); <-done })
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := dtls.ClientWithContext(ctx, g, cfg)
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

func TestUnsafeClientsAreRefused(t *testing.T) {
	t.Parallel()
	m := newMission(t)
	for _, c := range []struct {
		name   string
		change func(*dtls.Config)
		reason error
	}{
		{"no certificate", func(c *dtls.Config) { c.Certificates = nil }, ErrNoCert},
		{"AES-GCM only", func(c *dtls.Config) {
			c.CustomCipherSuites = nil
			c.CipherSuites = []dtls.CipherSuiteID{dtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
		}, ErrCipherSuite},
		{"the library's defaults", func(c *dtls.Config) { c.CustomCipherSuites, c.CipherSuites = nil, nil }, ErrCipherSuite},
		{"no extended master secret", func(c *dtls.Config) { c.ExtendedMasterSecret = dtls.DisableExtendedMasterSecret }, ErrHandshake},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var r refusals
			tr := m.transport(quick, r.hook)
			_, err := bareDial(t, tr.Port(), func(cfg *dtls.Config) {
				cfg.Certificates = []tls.Certificate{m.identity().TLSCertificate()}
				c.change(cfg)
			})
			r.await(t, c.reason)
			if err == nil && !errors.Is(c.reason, ErrNoCert) { // a client is done before the server has seen that there is none
				t.Error("the handshake was finished")
			}
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			if _, err := tr.Accept(ctx); err == nil {
				t.Error("a link was accepted")
			}
		})
	}
}

// The hook cannot be made to flood the status page.
func TestRefusalsAreRateLimited(t *testing.T) {
	now, told := epoch, 0
	tr := &Transport{refusals: newBucket(refusalRate, refusalBurst)}
	tr.cfg = Config{Log: discard, Now: func() time.Time { return now }, OnRefused: func(netip.AddrPort, error) { told++ }}
	for range 1000 {
		tr.refuse(netip.AddrPort{}, ErrUntrusted)
	}
	if told != refusalBurst || tr.stats.refused.Load() != 1000 || tr.stats.refusedUnreported.Load() != 1000-refusalBurst {
		t.Errorf("told %d of 1000 at once", told)
	}
	now = now.Add(time.Second)
	for range 10 {
		tr.refuse(netip.AddrPort{}, ErrUntrusted)
	}
	if told != refusalBurst+refusalRate {
		t.Errorf("told %d a second later", told-refusalBurst)
	}
}
