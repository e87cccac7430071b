//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"fieldkit/board/store"
	"fieldkit/firmware/lab"
)

func noCalls(l *lab.Lab) error {
	for _, k := range l.Kits {
		if !k.Running() {
			continue
		}
		s, err := k.Status(context.Background())
		if err != nil {
			return err
		}
		if len(s.Calls) > 0 {
			return fmt.Errorf("kit %d still has %d calls", k.Number, len(s.Calls))
		}
	}
	return nil
}

// phones starts one of the lab's own phones per account, on kits 0, 1, … in turn, and waits for them.
func phones(t *testing.T, l *lab.Lab, kits ...int) []*lab.Phone {
	t.Helper()
	var r []*lab.Phone
	for i, k := range kits {
		p, err := l.StartPhone(k, l.Mission().Handsets[i].Name)
		must(t, err)
		r = append(r, p)
	}
	for _, p := range r {
		within(t, 20*time.Second, p.WaitRegistered)
	}
	return r
}

func TestKitThatDiesLeavesOtherCallsAlone(t *testing.T) {
	l := running(t, lab.Options{Kits: 3}, "anna", "boris")
	p := phones(t, l, 0, 1)
	_, err := p[0].Call(t.Context(), p[1].Account.Number)
	must(t, err)
	pause(t, 2*time.Second)
	l.Kits[2].Kill()
	// The two that are left notice and become a ring of two while the call goes on.
	within(t, 15*time.Second, l.WaitRing)
	pause(t, 3*time.Second)
	a, b, err := p[0].Hangup(t.Context(), p[1])
	must(t, err)
	t.Logf("%s: %+v, %s: %+v", p[0].Account.Number, a, p[1].Account.Number, b)
	if a.Lost != 0 || b.Lost != 0 || a.Received < 200 || b.Received < 200 || !a.ToneOK || !b.ToneOK {
		t.Errorf("the call between the other two suffered: %+v, %+v", a, b)
	}
	for _, k := range l.Kits[:2] {
		if s := status(t, k).Board.State; s == "" || !strings.Contains(s, "lost") {
			t.Errorf("kit %d shows %q after the loss of a kit", k.Number, s)
		}
	}
}

// Whoever calls a phone whose kit died is told soon: the registration is still there, but the connection between
// the kits, which was opened before, leads nowhere.
func TestCallToAPhoneOfADeadKitFailsSoon(t *testing.T) {
	l := running(t, lab.Options{Kits: 3}, "anna", "boris")
	p := phones(t, l, 0, 1)
	_, err := p[0].Call(t.Context(), p[1].Account.Number)
	must(t, err)
	_, _, err = p[0].Hangup(t.Context(), p[1])
	must(t, err)
	pause(t, 3*time.Second) // bindings are saved soon after a change, not at once
	l.Kits[1].Kill()
	within(t, 20*time.Second, l.WaitRing)
	began := time.Now()
	refused(t, p[0], p[1].Account.Number, 480)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the caller was left without an answer for %v", took.Round(time.Millisecond))
	}
	must(t, l.Kits[1].Restart())
	within(t, 30*time.Second, l.WaitRing)
	began = time.Now()
	eventually(t, 5*time.Second, func() error {
		_, err := p[0].Call(t.Context(), p[1].Account.Number)
		return err
	})
	t.Logf("reachable %v after the ring was whole", time.Since(began).Round(time.Millisecond))
	_, _, err = p[0].Hangup(t.Context(), p[1])
	must(t, err)
}

func TestStrangersKitIsRefusedAndReported(t *testing.T) {
	l := newLab(t, lab.Options{Kits: 4}, "anna", "boris")
	for range 2 {
		_, err := l.StartKit(t.Context())
		must(t, err)
	}
	within(t, time.Minute, l.WaitRing)
	mission := l.Kits[:2]
	for _, c := range []struct{ name, overlay, reason string }{
		{"with a mission of another name", "", "another mission"},
		{"that calls its mission as ours", l.Mission().Overlay, "refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			stranger, err := l.StartStranger(c.overlay)
			must(t, err)
			id := ""
			eventually(t, 10*time.Second, func() error {
				s, err := stranger.Status(context.Background())
				id = s.Kit.NodeID
				return err
			})
			for _, k := range mission {
				eventually(t, 20*time.Second, func() error {
					for _, n := range status(t, k).Kits {
						if n.NodeID == id && n.State == "stranger" && strings.Contains(n.Reason, c.reason) {
							return nil
						}
					}
					return fmt.Errorf("kit %d does not report the stranger %s: %+v", k.Number, id, status(t, k).Kits)
				})
				if n := len(status(t, k).Ring); n != 2 {
					t.Errorf("kit %d has a ring of %d with a stranger about", k.Number, n)
				}
			}
			if s := status(t, stranger); len(s.Ring) != 1 {
				t.Errorf("the stranger is in a ring of %d", len(s.Ring))
			}
		})
	}
	// The mission works as before.
	p := phones(t, l, 0, 1)
	_, err := p[0].Call(t.Context(), p[1].Account.Number)
	must(t, err)
	_, _, err = p[0].Hangup(t.Context(), p[1])
	must(t, err)
}

func TestRestartKeepsIdentityAndBindings(t *testing.T) {
	l := running(t, lab.Options{Kits: 2}, "anna", "boris")
	p := phones(t, l, 0, 1)
	before := status(t, l.Kits[1])
	for _, how := range []string{"stopped", "killed"} {
		if how == "killed" {
			pause(t, 3*time.Second) // bindings are saved soon after a change, not at once
			l.Kits[1].Kill()
		} else {
			must(t, l.Kits[1].Stop())
		}
		must(t, l.Kits[1].Restart())
		within(t, 30*time.Second, l.WaitRing)
		after := status(t, l.Kits[1])
		if after.Kit.NodeID != before.Kit.NodeID || after.Kit.Number != before.Kit.Number {
			t.Fatalf("%s: the kit came back as %s", how, after.Kit.NodeID)
		}
		// The phone did not register again meanwhile: its binding was kept, and published again.
		h := registered(t, l.Kits[1], p[1].Account.Number)
		if h.SinceS < 1 && how == "killed" {
			t.Errorf("%s: the binding is new: %+v", how, h)
		}
		eventually(t, 20*time.Second, func() error {
			_, err := p[0].Call(t.Context(), p[1].Account.Number)
			return err
		})
		_, _, err := p[0].Hangup(t.Context(), p[1])
		must(t, err)
	}
}

// storageTime is the time that a kit keeps above all it stored with.
func storageTime(t *testing.T, k *lab.Kit) uint64 {
	t.Helper()
	s, err := store.Open(k.State(), store.Config{})
	must(t, err)
	var b []byte
	eventually(t, 5*time.Second, func() (err error) { b, err = s.Load("storage-time"); return err }) // with the first Store
	ms, err := strconv.ParseUint(string(b), 10, 64)
	must(t, err)
	return ms
}

// "Any attempt to store a data value with a storage time before that of a value already stored at this location
// MUST generate an Error_Data_Too_Old error" (RFC 6940 §7). A kit whose clock went back stores on all the same.
func TestRestartKeepsStorageTimesWhateverTheClockSays(t *testing.T) {
	l := running(t, lab.Options{Kits: 2}, "anna", "boris")
	p := phones(t, l, 0, 1)
	restarted := l.Kits[1]
	var last uint64
	grown := func(when string) {
		t.Helper()
		now := storageTime(t, restarted)
		if now < last {
			t.Errorf("%s: the storage time went from %d to %d", when, last, now)
		}
		last = now
	}
	back := func(when string) {
		t.Helper()
		must(t, restarted.Restart())
		within(t, 30*time.Second, l.WaitRing)
		registered(t, restarted, p[1].Account.Number)
		eventually(t, 20*time.Second, func() error {
			_, err := p[0].Call(t.Context(), p[1].Account.Number)
			return err
		})
		_, _, err := p[0].Hangup(t.Context(), p[1])
		must(t, err)
		grown(when)
		for _, k := range l.Kits {
			s := status(t, k)
			if n := counter(s, "overlay storage too old"); n != 0 {
				t.Errorf("%s: kit %d refused %d values as too old", when, k.Number, n)
			}
			if counter(s, "overlay storage stores")+counter(s, "overlay storage replicas") == 0 {
				t.Errorf("%s: kit %d stored nothing", when, k.Number)
			}
		}
	}
	grown("at first")
	must(t, restarted.Stop())
	// As if the kit had lived a day ahead of its clock until now.
	const day = 24 * time.Hour
	s, err := store.Open(restarted.State(), store.Config{})
	must(t, err)
	last += uint64(day.Milliseconds())
	must(t, s.Save("storage-time", strconv.AppendUint(nil, last, 10)))
	back("a day ahead")
	// Now its clock is a day behind what it stored, and no goodbye took that back.
	restarted.Kill()
	back("a day behind")
	if ahead := int64(storageTime(t, restarted)) - time.Now().UnixMilli(); ahead < (day - 2*time.Hour).Milliseconds() {
		t.Errorf("the storage time is %v ahead of the clock", time.Duration(ahead)*time.Millisecond)
	}
}

func TestHowCallsEnd(t *testing.T) {
	l := running(t, lab.Options{Kits: 2}, "anna", "boris", "carla", "dora")
	must2 := func(p *lab.Phone, err error) *lab.Phone {
		t.Helper()
		must(t, err)
		within(t, 20*time.Second, p.WaitRegistered)
		return p
	}
	a := must2(l.StartPhone(0, "anna"))
	for kit, where := range []string{"same kit", "other kit"} {
		answers := must2(l.StartPhone(kit, "boris"))
		busy := must2(l.StartPhoneThat(lab.IsBusy, kit, "carla"))
		rings := must2(l.StartPhoneThat(lab.Rings, kit, "dora"))
		t.Run(where+"/by number, caller hangs up", func(t *testing.T) {
			_, err := a.Call(t.Context(), answers.Account.Number)
			must(t, err)
			_, _, err = a.Hangup(t.Context(), answers)
			must(t, err)
		})
		t.Run(where+"/by name, callee hangs up", func(t *testing.T) {
			_, err := a.Call(t.Context(), answers.Account.Name)
			must(t, err)
			_, _, err = answers.Hangup(t.Context(), a)
			must(t, err)
		})
		t.Run(where+"/busy", func(t *testing.T) { refused(t, a, busy.Account.Number, 486) })
		t.Run(where+"/cancelled", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			failed := make(chan error, 1)
			go func() { _, err := a.Call(ctx, rings.Account.Number); failed <- err }()
			within(t, 10*time.Second, rings.WaitRinging)
			cancel()
			if err := <-failed; err == nil {
				t.Error("a call that was cancelled was answered")
			}
			within(t, 5*time.Second, rings.WaitIdle)
			within(t, 5*time.Second, a.WaitIdle)
		})
		for _, p := range []*lab.Phone{answers, busy, rings} {
			must(t, p.Quit()) // takes its registration back, and the account turns up on the next kit
		}
	}
	t.Run("nobody has the number", func(t *testing.T) { refused(t, a, "89999", 404) })
	t.Run("the phone is off", func(t *testing.T) { refused(t, a, l.Mission().Handsets[1].Number, 480) })
	eventually(t, 5*time.Second, func() error { return noCalls(l) })
}

// refused calls and expects a final response with that status.
func refused(t *testing.T, from *lab.Phone, to string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	_, err := from.Call(ctx, to)
	var r *lab.RefusedError
	if !errors.As(err, &r) || r.Code != code {
		t.Errorf("call to %s ended with %v, want %d", to, err, code)
	}
}

// The person at the other end of a call whose kit dies is not left holding a silent phone.
func TestCallEndsWithItsKit(t *testing.T) {
	l := running(t, lab.Options{Kits: 2}, "anna", "boris")
	p := phones(t, l, 0, 1)
	for _, caller := range []int{0, 1} { // the phone that is left has called, then has been called
		eventually(t, 20*time.Second, func() error {
			_, err := p[caller].Call(t.Context(), p[1-caller].Account.Number)
			return err
		})
		// Two seconds of voice: by then the kit has saved its bindings, too.
		within(t, 10*time.Second, func(ctx context.Context) error { return p[0].WaitMedia(ctx, 100) })
		l.Kits[1].Kill()
		within(t, 20*time.Second, p[0].WaitIdle)
		if calls := status(t, l.Kits[0]).Calls; len(calls) != 0 {
			t.Errorf("the kit that is left still has the call: %+v", calls)
		}
		must(t, l.Kits[1].Restart())
		within(t, 30*time.Second, l.WaitRing)
		within(t, 20*time.Second, func(ctx context.Context) error { return l.WaitReachable(ctx, p[1]) })
		_, _, _ = p[1].Hangup(t.Context(), p[1]) // it believes in the call still
		within(t, 10*time.Second, p[1].WaitIdle)
	}
}
