//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"fieldkit/firmware/card"
	"fieldkit/firmware/emu"
	"fieldkit/firmware/image"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/update"
	"fieldkit/ui"
)

// newc is an archive for the kernel's early user space with one file in it.
func newc(name string, mode int, data []byte) []byte {
	var b bytes.Buffer
	pad := func() { b.Write(make([]byte, -b.Len()&3)) }
	for _, e := range []struct {
		name string
		mode int
		data []byte
	}{{name, 0o100000 | mode, data}, {"TRAILER!!!", 0, nil}} {
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
			1, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, 0, 0, len(e.name)+1, 0, e.name)
		pad()
		b.Write(e.data)
		pad()
	}
	return b.Bytes()
}

// newSystem makes the signed update of a system that is newer by steps and differs from the product in its release, and
// in the files that more has over the product's own.
func newSystem(t *testing.T, m *mission.Mission, steps uint64, more map[string][]byte) (path string, r card.Release) {
	t.Helper()
	dir := t.TempDir()
	img, initrd, release := filepath.Join(dir, "card.img"), filepath.Join(dir, card.InitrdFile), filepath.Join(dir, card.ReleaseFile)
	must(t, copySparse(filepath.Join(product.image(t, image.KernelPi), image.ImageFile), img))
	f, err := os.Open(img)
	must(t, err)
	r, err = card.ReadRelease(f, card.A)
	must(t, err, f.Close())
	r.Sequence += steps
	r.Version = fmt.Sprintf("newer-%d", steps)
	r.Boards += " linux,dummy-virt" // what QEMU's own machine calls itself
	text, err := r.Encode()
	must(t, err)

	slot := fmt.Sprintf("%s@@%d", img, card.SlotA.Offset)
	mtools := func(args ...string) {
		cmd := exec.Command("mcopy", append([]string{"-o", "-i", slot}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", cmd.Args, err, out)
		}
	}
	mtools("::"+card.InitrdFile, initrd)
	system, err := os.ReadFile(initrd)
	must(t, err)
	files := map[string][]byte{strings.TrimPrefix(card.RuntimeRelease, "/"): text}
	for name, b := range more {
		files[name] = b
	}
	for name, b := range files {
		system = append(system, make([]byte, -len(system)&3)...)
		system = append(system, newc(name, 0o755, b)...)
	}
	must(t, os.WriteFile(initrd, system, 0o600), os.WriteFile(release, text, 0o600))
	mtools(initrd, "::"+card.InitrdFile)
	mtools(release, "::"+card.ReleaseFile)

	path = filepath.Join(dir, "update")
	out, err := os.Create(path)
	must(t, err)
	_, err = update.Pack(t.Context(), out, img, m.SignUpdate)
	must(t, err, out.Close())
	must(t, os.Remove(img))
	return path, r
}

// up waits until the board can be asked.
func up(ctx context.Context, t *testing.T, v *emu.VM) *emu.VM {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := v.Agent.Up(ctx)
	must(t, err)
	return v
}

// updateOf waits until the kit says that its update is in one of the states.
func updateOf(ctx context.Context, t *testing.T, v *emu.VM, states ...update.State) (u ui.Update) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	eventually(ctx, t, time.Second, func() error {
		s, err := status(ctx, v, emu.Place{})
		if err != nil {
			return err
		}
		for _, want := range states {
			if u = s.Update; u.State == string(want) {
				return nil
			}
		}
		return fmt.Errorf("update is %+v", u)
	})
	return u
}

// post sends a file of the board to the kit in it and returns the first line of the answer: to write a slot takes a while.
func post(ctx context.Context, t *testing.T, v *emu.VM, path string) string {
	t.Helper()
	p, err := v.Agent.Begin(ctx, emu.Place{}, "post", path, update.MediaType, page+"update")
	must(t, err)
	l, err := p.Output().Wait(ctx, 0, "")
	must(t, err)
	return l.Text
}

// sendUpdate uploads a file of the board to the kit in it, and waits until the kit restarts into it.
func sendUpdate(ctx context.Context, t *testing.T, b *emu.Board, old *emu.VM, path string) *emu.VM {
	t.Helper()
	began := time.Now()
	if a := post(ctx, t, old, path); !strings.HasPrefix(a, "202 ") {
		t.Fatalf("the update was answered with %s", a)
	}
	t.Logf("%s written and read back in %.1f s", path, time.Since(began).Seconds())
	v, err := b.Reset(ctx)
	must(t, err)
	showOnFailure(t, v)
	if last := b.Boots()[len(b.Boots())-1]; !last.Tryboot {
		t.Fatalf("it restarted, and not to try: partition %d", last.Partition)
	}
	t.Logf("trial begins after %.1f s", time.Since(began).Seconds())
	return v
}

func committedSlot(t *testing.T, img string) card.Slot {
	t.Helper()
	f, err := os.Open(img)
	must(t, err)
	s, err := card.Committed(f)
	must(t, err, f.Close())
	return s
}

// A system that does not start, one that hangs and one of which a part does not work are tried once and left again by
// themselves, and the kit says why. A good one is committed, and boots from then on.
func TestUpdates(t *testing.T) {
	t.Parallel()
	ctx := limit(t, 15*time.Minute)
	m, err := mission.New("valley", mission.Options{})
	must(t, err)
	foreign, err := mission.New("valley", mission.Options{})
	must(t, err)
	payload := withAgent(t)
	send := func(m *mission.Mission, steps uint64, more map[string][]byte) (string, card.Release) {
		file, r := newSystem(t, m, steps, more)
		payload["/updates/"+r.Version] = file
		return "/updates/" + r.Version, r
	}
	crash, crashing := send(m, 10, map[string][]byte{"init": []byte("no program\n")})
	good, newer := send(m, 20, nil)
	hang, hanging := send(m, 30, nil)
	unwell, ailing := send(m, 35, nil)
	strange, _ := send(foreign, 40, nil)

	img := newCard(t, filepath.Join(product.image(t, image.KernelPi), image.ImageFile), personal(t, m, 101, "[update]\ntrial = 60\n"))
	b := newBoard(t, emu.Options{Machine: emu.Virt, Memory: 1024, Card: img, Serial: "00000000cafe0101", Payload: payload})
	v := up(ctx, t, on(ctx, t, b))
	if u := updateOf(ctx, t, v, update.Idle); u.Slot != "A" || u.Trial {
		t.Fatalf("%+v", u)
	}
	if a := post(ctx, t, v, strange); !strings.HasPrefix(a, "403 ") {
		t.Errorf("another mission's update was answered with %s", a)
	}

	t.Log("a system that does not start")
	sendUpdate(ctx, t, b, v, crash)
	v, err = b.Reset(ctx) // the kernel panics and resets
	must(t, err)
	showOnFailure(t, v)
	if u := updateOf(ctx, t, up(ctx, t, v), update.RolledBack); u.Slot != "A" || u.Last.Sequence != crashing.Sequence || !strings.Contains(u.Last.Why, "did not start") {
		t.Fatalf("%+v", u)
	}
	if s := committedSlot(t, img); s != card.A {
		t.Fatalf("slot %v is committed", s)
	}

	t.Log("a good system")
	v = up(ctx, t, sendUpdate(ctx, t, b, v, good))
	if u := updateOf(ctx, t, v, update.Committed); u.Slot != "B" || u.Version != newer.Version || u.Last.Sequence != newer.Sequence {
		t.Fatalf("%+v", u)
	}
	if s := committedSlot(t, img); s != card.B {
		t.Fatalf("slot %v is committed", s)
	}

	t.Log("a system that hangs")
	v = up(ctx, t, sendUpdate(ctx, t, b, v, hang))
	if u := updateOf(ctx, t, v, update.Trying); u.Slot != "A" || !u.Trial || u.Version != hanging.Version {
		t.Fatalf("%+v", u)
	}
	out, err := v.Agent.Run(ctx, emu.Place{}, "daemon")
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	must(t, err)
	must(t, v.Agent.Signal(ctx, pid, syscall.SIGSTOP))
	v, err = b.Reset(ctx)
	must(t, err)
	showOnFailure(t, v)
	if u := updateOf(ctx, t, up(ctx, t, v), update.RolledBack); u.Slot != "B" || u.Last.Sequence != hanging.Sequence {
		t.Fatalf("%+v", u)
	}

	t.Log("a system of which a part does not work")
	v = up(ctx, t, sendUpdate(ctx, t, b, v, unwell))
	updateOf(ctx, t, v, update.Trying)
	h, err := v.Agent.Begin(ctx, emu.Place{}, "hold", mission.Server+":53")
	must(t, err)
	out, err = v.Agent.Run(ctx, emu.Place{}, "daemon")
	must(t, err)
	pid, err = strconv.Atoi(strings.TrimSpace(out))
	must(t, err)
	must(t, v.Agent.Signal(ctx, pid, syscall.SIGKILL)) // its port is taken when PID 1 starts it again
	_, err = h.Output().Wait(ctx, 0, "holding")
	must(t, err)
	v, err = b.Reset(ctx)
	must(t, err)
	showOnFailure(t, v)
	if u := updateOf(ctx, t, up(ctx, t, v), update.RolledBack); u.Slot != "B" || u.Last.Sequence != ailing.Sequence || !strings.Contains(u.Last.Why, "parts/dns") {
		t.Fatalf("%+v", u)
	}

	// It does not try that again by itself, and the committed one is what boots from now on.
	b.PowerCut()
	v = up(ctx, t, on(ctx, t, b))
	if u := updateOf(ctx, t, v, update.RolledBack); u.Slot != "B" || u.Trial || u.Sequence != newer.Sequence {
		t.Errorf("after a power cut: %+v", u)
	}
	if a := post(ctx, t, v, crash); !strings.HasPrefix(a, "409 ") {
		t.Errorf("an older update was answered with %s", a)
	}
}

// A Pi tells its firmware by a flag that it wants the other slot once, and is told by its device tree that it got it.
func TestUpdateOfAPi(t *testing.T) {
	ctx := limit(t, 10*time.Minute)
	m, err := mission.New("valley", mission.Options{})
	must(t, err)
	payload := withAgent(t)
	good, newer := newSystem(t, m, 20, nil)
	payload["/updates/good"] = good
	img := newCard(t, filepath.Join(product.image(t, image.KernelPi), image.ImageFile), personal(t, m, 101, ""))
	b := newBoard(t, emu.Options{Machine: emu.Pi3, Card: img, Cmdline: raspiArgs, Serial: "00000000cafe0101", Payload: payload})
	v := up(ctx, t, on(ctx, t, b))
	updateOf(ctx, t, v, update.Idle)
	v = up(ctx, t, sendUpdate(ctx, t, b, v, "/updates/good"))
	if u := updateOf(ctx, t, v, update.Committed); u.Slot != "B" || u.Version != newer.Version {
		t.Fatalf("%+v", u)
	}
	if s := committedSlot(t, img); s != card.B {
		t.Errorf("slot %v is committed", s)
	}
}
