package sipusage_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fieldkit/overlay/sipusage"
)

// "GRUUs do not require storing data in the Overlay Instance. Rather, when a Peer needs to route a message to a GRUU in
// the same P2P overlay, it simply uses the destination list and connects to that Peer." (RFC 7904 §6)
func TestGRUULeadsToItsKit(t *testing.T) {
	w := newWorld(t, 2)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(2)
		a, b := w.phones[0], w.phones[1]
		uri, err := b.usage.GRUU("sip:al ice@" + domain)
		if err == nil {
			t.Errorf("GRUU of a name that is none: %s", uri)
		}
		if uri, err = b.usage.GRUU("sip:alice@" + domain); err != nil || !strings.HasPrefix(uri, "alice@"+domain+";gr=") || strings.Contains(uri[len("alice@"+domain+";gr="):], "=") {
			t.Fatalf("%s, %v", uri, err)
		}
		w.check("nothing is stored", a, "alice")
		for _, form := range []string{uri, "sip:" + uri, "sips:" + strings.Replace(uri, ";", ";x=1;", 1)} {
			got, err := a.usage.Lookup(t.Context(), form)
			if err != nil || len(got) != 1 || got[0].Node != b.ID() || got[0].AOR != "alice@"+domain {
				t.Errorf("%s: %v, %v", form, got, err)
			}
		}
		if _, err := a.usage.Trunk(t.Context(), b.ID()); err != nil {
			t.Error(err)
		}
		// A destination list that ends in the wildcard leads nowhere.
		if got, err := a.usage.Lookup(t.Context(), "alice@"+domain+";gr=ARD/////////////////////"); !errors.Is(err, sipusage.ErrAOR) {
			t.Errorf("to the wildcard Node-ID: %v, %v", got, err)
		}
	})
}

// "AOR domain not supported by overlay?" (RFC 7904 §4.1): it is not looked for here.
func TestForeignDomainIsNotLookedUp(t *testing.T) {
	w := newWorld(t, 1)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.start(w.phones[0])
		for _, aor := range []string{"alice@elsewhere.example", "alice@elsewhere.example;gr=ARAAAQIDBAUGBwgJCgsMDQ4P"} {
			if got, err := w.phones[0].usage.Lookup(t.Context(), aor); !errors.Is(err, sipusage.ErrForeign) {
				t.Errorf("%s: %v, %v", aor, got, err)
			}
		}
	})
}

// "A callee MAY choose to listen on both SIP and SIPS ports and accept calls from either SIP scheme, or select a single
// one." (RFC 7904 §5.1)
func TestKitThatTakesSIPSOnlyIsReached(t *testing.T) {
	w := newWorld(t, 2)
	synctest.Test(t, func(t *testing.T) {
		w.t = t
		defer w.end()
		w.run(2)
		a, b := w.phones[0], w.phones[1]
		b.Node.HandleApp(sipusage.Application, nil)
		tr, err := a.usage.Trunk(t.Context(), b.ID())
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.SendMessage([]byte("hello")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if got := b.messages(); len(got) != 1 || got[0] != "hello" {
			t.Errorf("heard %q", got)
		}
		_ = tr.Close()
		time.Sleep(10 * time.Second)
		b.Node.HandleApp(sipusage.ApplicationSIPS, nil)
		if _, err := a.usage.Trunk(t.Context(), b.ID()); err == nil {
			t.Error("trunk to a kit that takes no calls")
		}
	})
}
