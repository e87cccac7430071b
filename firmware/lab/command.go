//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"fieldkit/board/simnet/netns"
)

// ErrFailed is returned by Command when the run itself worked but not every call did.
var ErrFailed = errors.New("not everything in the lab worked")

// dirVariable tells the inner process of a wrapped lab where the outer one looks for the kits.
const dirVariable = "FIELDKIT_LAB_DIR"

// Command is `fieldkit lab`: a demonstration until ctx ends, or with asJSON one measured run whose
// Report it prints. An ordinary user's lab runs in a user namespace; args are then given to the
// program once more, inside it.
func Command(ctx context.Context, o Options, asJSON bool, args []string, out, log io.Writer) error {
	if err := o.validate(); err != nil {
		return err
	}
	dir := os.Getenv(dirVariable)
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "fieldkit-lab-"); err != nil {
			return fmt.Errorf("lab directory: %w", err)
		}
		defer os.RemoveAll(dir)
		if !asJSON {
			o.pages = servePages(ctx, dir, o.Kits)
		}
		if wrapped, err := runWrapped(ctx, o, dir, args, out, log); wrapped {
			return err
		}
	}
	o.Dir = dir
	if !asJSON {
		o.Accounts = append(o.Accounts, guest)
	}
	l, err := New(o)
	if err != nil {
		return err
	}
	defer l.Close()
	if !asJSON {
		return Show(ctx, l, out, l.hints())
	}
	r, err := Measure(ctx, l)
	if err != nil {
		return err
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return err
	}
	if !r.OK() {
		return ErrFailed
	}
	return nil
}

// runWrapped runs the lab as a child in a user namespace where that is needed and permitted.
func runWrapped(ctx context.Context, o Options, dir string, args []string, out, log io.Writer) (bool, error) {
	if o.Net == NetLoopback || netns.Supported() == nil {
		return false, nil
	}
	probe := exec.CommandContext(ctx, "/bin/true")
	netns.Wrap(probe)
	if err := probe.Run(); err != nil {
		if o.Net == NetNamespaces {
			return true, fmt.Errorf("user namespace, which an ordinary user needs for network namespaces: %w", err)
		}
		return false, nil
	}
	inner := exec.Command(o.Tool, args...)
	netns.Wrap(inner)
	inner.Env = append(os.Environ(), dirVariable+"="+dir)
	inner.Stdin, inner.Stdout, inner.Stderr = os.Stdin, out, log
	p, err := launch(place{start: newStarter().start}, inner)
	if err != nil {
		return true, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		return true, p.end(4 * killAfter)
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) && exit.ExitCode() == ExitFailed {
		return true, ErrFailed
	}
	return true, p.err
}

// ExitFailed is the exit status of a run after which Command returned ErrFailed.
const ExitFailed = 3

// guest is the account of whoever tries the lab with a softphone.
const guest = "guest"

// hints say where the pages are and how to join.
func (l *Lab) hints() []string {
	var h []string
	for i, u := range l.pages() {
		if u != "" {
			h = append(h, fmt.Sprintf("Status page of kit %d: %s", kitNumber(i), u))
		}
	}
	h = append(h, l.joinHints()...)
	return append(h, "Ctrl-C ends the lab.")
}

// pages are the addresses of the status pages as this machine's browser reaches them. Inside a user
// namespace the outer process serves them, on the ports that it found free when it began.
func (l *Lab) pages() []string {
	if l.opts.pages != nil {
		return l.opts.pages
	}
	r := make([]string, l.opts.Kits)
	for i := range r {
		r[i] = fmt.Sprintf("http://127.0.0.1:%d/", firstPage+i)
	}
	return r
}

func (l *Lab) joinHints() []string {
	for _, h := range l.mission.Handsets {
		if h.Name != guest {
			continue
		}
		at, err := l.world.join()
		if err != nil {
			return []string{fmt.Sprintf("A softphone of your own: %v.", err)}
		}
		return []string{
			fmt.Sprintf("A softphone of your own: user %s, password %s, server and domain %s (UDP or TCP, port 5060). Then dial %s, or %s.",
				h.Number, h.Password, at, l.mission.Handsets[0].Number, l.mission.Handsets[0].Name),
		}
	}
	return nil
}
