//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"fieldkit/firmware/emu"
	"fieldkit/firmware/emu/guest"
	"fieldkit/firmware/lab/phone"
	"fieldkit/firmware/mission"
)

// handset is a phone inside a board, in a network namespace of its own.
type handset struct {
	vm      *emu.VM
	at      emu.Place
	device  string // its network interface
	account mission.Handset
	lease   guest.Lease
	process *emu.Process
}

// newHandset makes the place for a handset; it is in no network.
func newHandset(ctx context.Context, t *testing.T, v *emu.VM, account mission.Handset, device string) *handset {
	t.Helper()
	h := &handset{vm: v, account: account, device: device, at: emu.Place{Netns: "/tmp/netns-" + account.Number}}
	_, err := v.Agent.Run(ctx, emu.Place{}, "netns", h.at.Netns)
	must(t, err)
	return h
}

// wired puts the handset on a cable at the kit's handset side.
func (h *handset) wired(ctx context.Context, t *testing.T) {
	t.Helper()
	_, err := h.vm.Agent.Run(ctx, emu.Place{}, "wire", "handset0", h.at.Netns, h.device)
	must(t, err)
	_, err = h.vm.Agent.Run(ctx, h.at, "up", "lo", h.device)
	must(t, err)
}

// getLease gets an address by DHCP; with again the handset asks for the one it has.
func (h *handset) getLease(ctx context.Context, t *testing.T, again bool) guest.Lease {
	t.Helper()
	args := []string{"dhcp"}
	if again {
		args = append(args, "-again", h.lease.Address)
	}
	out, err := h.vm.Agent.Run(ctx, h.at, append(args, h.device)...)
	must(t, err)
	h.lease = guest.Lease{}
	if err := json.Unmarshal([]byte(out), &h.lease); err != nil {
		t.Fatalf("lease %q: %v", out, err)
	}
	return h.lease
}

// begin starts the phone. It registers by itself, says the tone and expects to hear the other.
func (h *handset) begin(ctx context.Context, t *testing.T, tone, expect float64) {
	t.Helper()
	at := h.at
	at.Env = []string{"FIELDKIT_PASSWORD=" + h.account.Password}
	var err error
	h.process, err = h.vm.Agent.Begin(ctx, at, "phone", "-user", h.account.Number, "-local", h.lease.Address,
		"-tone", fmt.Sprint(tone), "-expect", fmt.Sprint(expect))
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("phone %s said:\n%s", h.account.Number, h.process.Output().Tail(40))
		}
	})
	_, err = h.process.Output().Wait(ctx, 0, `"registered"`)
	must(t, err)
}

// heard waits until the phone tells what it measured of a call, after line from of what it said, in which it heard the
// other's tone.
func (h *handset) heard(ctx context.Context, t *testing.T, from int) (m phone.MediaReport) {
	t.Helper()
	eventually(ctx, t, 200*time.Millisecond, func() error {
		for _, l := range h.process.Output().Lines()[from:] {
			var e phone.Event
			if json.Unmarshal([]byte(l.Text), &e) != nil || e.Media == nil {
				continue
			}
			if m = *e.Media; m.ToneOK && m.Received > 100 {
				return nil
			}
		}
		return fmt.Errorf("%s does not hear the other: %+v", h.account.Number, m)
	})
	return m
}

// call has one phone call another, both hear each other's tone, and hang up.
func call(ctx context.Context, t *testing.T, from, to *handset) {
	t.Helper()
	a, b := from.process.Output().Mark(), to.process.Output().Mark()
	must(t, from.process.Input(ctx, fmt.Sprintf(`{"cmd":"call","target":%q}`, to.account.Number)))
	answered, err := from.process.Output().Wait(ctx, a, `"answered"`, `"ended"`, `"error"`)
	must(t, err)
	var e phone.Event
	must(t, json.Unmarshal([]byte(answered.Text), &e))
	if e.Event != "answered" {
		t.Fatalf("call %s → %s: %s", from.account.Number, to.account.Number, answered.Text)
	}
	for _, h := range []struct {
		*handset
		mark int
	}{{from, a}, {to, b}} {
		m := h.heard(ctx, t, h.mark)
		t.Logf("%s hears the other's tone: %d packets, %d lost, jitter %.1f ms", h.account.Number, m.Received, m.Lost, m.JitterMS)
	}
	must(t, from.process.Input(ctx, `{"cmd":"hangup"}`))
	_, err = to.process.Output().Wait(ctx, b, `"ended"`)
	must(t, err)
	t.Logf("call %s → %s: answered after %.0f ms", from.account.Number, to.account.Number, e.SetupMS)
}

// published waits until the kit says that others can find the handset there.
func published(ctx context.Context, t *testing.T, v *emu.VM, at emu.Place, number string) {
	t.Helper()
	eventually(ctx, t, 500*time.Millisecond, func() error {
		s, err := status(ctx, v, at)
		if err != nil {
			return err
		}
		for _, h := range s.Handsets {
			if h.Number == number && h.Registered && h.Published {
				return nil
			}
		}
		return errors.New(number + " is not published")
	})
}
