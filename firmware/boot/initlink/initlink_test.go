package initlink

import (
	"encoding/json"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
)

// pair is a Link and the other end of it, which said b.
func pair(t *testing.T, b Boot) (*Link, net.Conn) {
	t.Helper()
	ours, theirs := net.Pipe() // each Write is one Read of a large enough buffer, as with packets
	t.Cleanup(func() { _ = ours.Close(); _ = theirs.Close() })
	go func() { _ = json.NewEncoder(theirs).Encode(Reply{Boot: &b}) }()
	clock := time.Duration(0)
	l, err := New(ours, func() time.Duration { clock += time.Second; return clock })
	if err != nil {
		t.Fatal(err)
	}
	return l, theirs
}

// next reads a request.
func next(t *testing.T, c net.Conn) (r Request) {
	t.Helper()
	b := make([]byte, MaxPacket)
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(b)
	if err == nil {
		err = json.Unmarshal(b[:n], &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRequests(t *testing.T) {
	l, init := pair(t, Boot{Trial: true, Disk: "/dev/mmcblk0", Stages: []Stage{{"kernel", 1}, {"init", 300}}})
	if !l.Trial() || l.Boot().Disk != "/dev/mmcblk0" {
		t.Errorf("boot is %+v", l.Boot())
	}
	yes, no := true, false
	for _, c := range []struct {
		call func()
		want Request
	}{
		{func() { l.Beat(true) }, Request{Beat: &yes}},
		{func() { l.Beat(false) }, Request{Beat: &no}},
		{func() { l.Mark("SIP") }, Request{Mark: &Stage{"SIP", 1000}}},
		{func() { _ = l.Committed() }, Request{Committed: true}},
		{func() { _ = l.Reboot(TryBoot) }, Request{Reboot: TryBoot}},
	} {
		go c.call()
		if got := next(t, init); !reflect.DeepEqual(got, c.want) {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
	}
	want := []Stage{{"kernel", 1}, {"init", 300}, {"SIP", 1000}}
	if got := l.Timeline(); !reflect.DeepEqual(got, want) {
		t.Errorf("timeline %v, want %v", got, want)
	}
}

// Nobody can make the timeline grow, and a part that starts again does not move its mark.
func TestMarksAreBounded(t *testing.T) {
	l, init := pair(t, Boot{})
	go func() {
		b := make([]byte, MaxPacket)
		for {
			if _, err := init.Read(b); err != nil {
				return
			}
		}
	}()
	l.Mark("SIP")
	l.Mark("SIP")
	l.Mark("")
	l.Mark(strings.Repeat("x", MaxName+1))
	if got := l.Timeline(); len(got) != 1 || got[0].At != 1000 {
		t.Errorf("timeline %v", got)
	}
	for i := range 2 * MaxStages {
		l.Mark(strings.Repeat("x", 1+i%MaxName))
	}
	if n := len(l.Timeline()); n != MaxStages {
		t.Errorf("%d stages", n)
	}
}

func TestLightsAreHandedOver(t *testing.T) {
	l, init := pair(t, Boot{})
	for _, free := range []bool{true, false} {
		go func() {
			b := make([]byte, MaxPacket)
			if _, err := init.Read(b); err == nil {
				_ = json.NewEncoder(init).Encode(Reply{Lights: free})
			}
		}()
		if err := l.TakeLights(); (err == nil) != free {
			t.Errorf("reply %v: %v", free, err)
		}
	}
}

// A daemon off the card calls all of it.
func TestNoLink(t *testing.T) {
	l, err := FromEnv()
	if l != nil || err != nil {
		t.Fatal(l, err)
	}
	l.Beat(true)
	l.Mark("SIP")
	if err := errors.Join(l.Committed(), l.TakeLights(), l.Close()); err != nil {
		t.Error(err)
	}
	if l.Trial() || len(l.Timeline()) > 0 {
		t.Error("a kit off the card has booted")
	}
	if err := l.Reboot(Normal); !errors.Is(err, ErrNoInit) {
		t.Errorf("reboot: %v", err)
	}
}

// A PID 1 that hangs or speaks otherwise is an error and not a daemon that hangs too.
func TestNoHello(t *testing.T) {
	for _, said := range []string{"", "{", "{}", `{"lights":true}`, `{"boot":7}`} {
		ours, theirs := net.Pipe()
		go func() {
			if said != "" {
				_, _ = theirs.Write([]byte(said))
			}
			_ = theirs.Close()
		}()
		if l, err := New(ours, SinceKernel); err == nil {
			t.Errorf("%q: %+v", said, l)
		}
	}
	t.Setenv(Env, "none")
	if _, err := FromEnv(); err == nil {
		t.Error("a file descriptor that is no number was taken")
	}
}

// A Boot that is too large for a packet would keep the daemon from ever starting, and part of it is what tools said of a
// card that may hold anything.
func TestTheLargestBootFitsIntoAPacket(t *testing.T) {
	b := Boot{Trial: true, Disk: "/dev/mmcblk0", NewBoard: true, Serial: strings.Repeat("<", 64)}
	for range MaxStages {
		b.Stages = append(b.Stages, Stage{strings.Repeat("\x01", MaxName), 1 << 62})
	}
	for range MaxNotes {
		b.Notes = append(b.Notes, Note{AboutWatchdog, true, strings.Repeat("\x01", MaxText)})
	}
	p, err := json.Marshal(Reply{Boot: &b})
	if err != nil || len(p) > MaxPacket {
		t.Errorf("%d bytes: %v", len(p), err)
	}
}
