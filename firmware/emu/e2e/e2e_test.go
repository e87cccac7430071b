//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/card"
	"fieldkit/firmware/emu"
	"fieldkit/firmware/emu/guest"
	"fieldkit/firmware/image"
	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

// tailLines is how much of a console a test that failed shows.
const tailLines = 120

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// limit bounds a test so that it can still say what was wrong before the run of all tests is cut off.
func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	end := time.Now().Add(d)
	if last, ok := t.Deadline(); ok && last.Add(-10*time.Second).Before(end) {
		end = last.Add(-10 * time.Second)
	}
	ctx, cancel := context.WithDeadline(t.Context(), end)
	t.Cleanup(cancel)
	return ctx
}

// eventually polls until f returns nil.
func eventually(ctx context.Context, t *testing.T, every time.Duration, f func() error) {
	t.Helper()
	var last error // that is not merely that the time is over
	for {
		err := f()
		if err == nil {
			return
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			t.Fatalf("%v: %v", ctx.Err(), last)
		}
	}
}

// built is an image, built when the first test asks for it.
type built struct {
	once sync.Once
	dir  string
	err  error
}

var (
	product = &built{}
	// radios is the product on a kernel with simulated radios, which the product's own does not have.
	radios = &built{}
	agent  = &built{}
)

// image builds with the kernel and returns the directory of what image.Build writes.
func (b *built) image(t *testing.T, kernel string) string {
	t.Helper()
	b.once.Do(func() {
		root, err := image.Root(".")
		if err != nil {
			b.err = err
			return
		}
		b.dir = filepath.Join(root, "build", "emulated-"+kernel)
		// Not of this test: the next one uses it, too.
		r, err := image.Build(context.Background(), image.Options{Source: root, Out: b.dir, Cache: filepath.Join(root, ".cache", "image"), Kernel: kernel})
		if b.err = err; err == nil {
			t.Logf("image with the %s kernel built in %.1f s", kernel, r.Took.Seconds())
		}
	})
	must(t, b.err)
	return b.dir
}

// program builds the agent and returns its file.
func (b *built) program(t *testing.T) string {
	t.Helper()
	b.once.Do(func() {
		root, err := image.Root(".")
		if err != nil {
			b.err = err
			return
		}
		b.dir = filepath.Join(root, "build", "emulated-agent")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.dir, "./firmware/emu/guest/agent")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm64")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("agent: %w: %s", err, out)
		}
	})
	must(t, b.err)
	return b.dir
}

// newCard is a copy of an image, personalised unless p is nothing.
func newCard(t *testing.T, img string, p card.Personal) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "card.img")
	must(t, copySparse(img, to))
	if len(p.Kit)+len(p.Mission) == 0 {
		return to
	}
	d, err := os.OpenFile(to, os.O_RDWR, 0)
	must(t, err)
	must(t, card.WritePersonal(d, p), d.Close())
	return to
}

// copySparse copies a file without the holes in it: an image is mostly zeros.
func copySparse(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		begin, err := src.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		if at, err = src.Seek(begin, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err := dst.Seek(begin, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(dst, io.NewSectionReader(src, begin, at-begin)); err != nil {
			return err
		}
	}
}

// personal is a kit of the mission.
func personal(t *testing.T, m *mission.Mission, number int, more string) card.Personal {
	t.Helper()
	f := filepath.Join(t.TempDir(), "kit.mission")
	must(t, m.Save(f))
	b, err := os.ReadFile(f)
	must(t, err)
	return card.Personal{Mission: b, Kit: fmt.Appendf(nil, "[kit]\nnumber = %d\nname = \"Kit %d\"\n%s", number, number, more)}
}

// newBoard makes a board that is closed with the test, and whose last console is shown if the test fails.
func newBoard(t *testing.T, o emu.Options) *emu.Board {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	b := emu.NewBoard(o)
	t.Cleanup(b.Close)
	return b
}

// withAgent is a payload with the agent in it.
func withAgent(t *testing.T) emu.Payload {
	t.Helper()
	return emu.Payload{guest.Program: agent.program(t)}
}

// on powers a board on.
func on(ctx context.Context, t *testing.T, b *emu.Board) *emu.VM {
	t.Helper()
	v, err := b.PowerOn(ctx)
	must(t, err)
	showOnFailure(t, v)
	return v
}

func showOnFailure(t *testing.T, v *emu.VM) {
	t.Cleanup(func() {
		if t.Failed() {
			select {
			case <-v.Ended():
				t.Logf("the machine ended: %v", v.Wait(context.Background()))
			default:
			}
			t.Logf("the console said at last:\n%s", v.Console.Tail(tailLines))
		}
	})
}

// page is where the status page of a kit answers inside the board.
const page = "http://10.73.0.1/"

// status is what a kit says of itself, asked from inside the board.
func status(ctx context.Context, v *emu.VM, at emu.Place) (ui.Status, error) {
	var s ui.Status
	out, err := v.Agent.Run(ctx, at, "get", page+"status.json")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s)
}

func contains(lines []emu.Line, text string) bool {
	for _, l := range lines {
		if strings.Contains(l.Text, text) {
			return true
		}
	}
	return false
}
