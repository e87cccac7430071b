package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"fieldkit/firmware/card"
	"fieldkit/firmware/lab"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/update"
	"fieldkit/ui"
)

// Exit codes of `fieldkit update` besides 0, committed, and 1, refused or not sent.
const (
	exitRolledBack = 3
	exitWaiting    = 4 // the kit goes on by itself
)

// What an update ended with that was sent.
var (
	errRolledBack = errors.New("rolled back")
	errWaiting    = errors.New("not ended yet; the kit goes on by itself")
)

const (
	followEvery  = 2 * time.Second
	followAnswer = 5 * time.Second
	defaultKit   = "http://10.73.0.1/"
)

// updateCommand is `fieldkit update`.
type updateCommand struct {
	Kit     string        `arg:"" help:"Address of the kit's page; or the kit's number or name, if this machine is on that kit's Wi-Fi."`
	Image   string        `arg:"" help:"Image of a card, .img or .img.zst; or an update that is signed already." type:"existingfile"`
	Mission string        `short:"m" help:"Mission file with the root key, to sign the image with." type:"existingfile" placeholder:"FILE"`
	Wait    time.Duration `help:"How long to follow what becomes of it: calls can keep a kit from restarting." default:"1h"`
}

// signCommand is `fieldkit sign`.
type signCommand struct {
	Image   string `arg:"" help:"Image of a card, .img or .img.zst." type:"existingfile"`
	Mission string `short:"m" required:"" help:"Mission file with the root key." type:"existingfile" placeholder:"FILE"`
	Out     string `short:"o" required:"" help:"Where the signed update goes." placeholder:"FILE"`
}

// Run signs.
func (c signCommand) Run(ctx context.Context) error {
	f, err := os.Create(c.Out)
	if err != nil {
		return err
	}
	m, err := pack(ctx, f, c.Image, c.Mission)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s (%d), signed\n", c.Out, m.Release.Version, m.Release.Sequence)
	return nil
}

// pack makes the signed update of an image in f, which it closes, and removes when it fails.
func pack(ctx context.Context, f *os.File, image, missionFile string) (m card.Manifest, err error) {
	by, err := mission.Load(missionFile)
	if err == nil {
		m, err = update.Pack(ctx, f, image, by.SignUpdate)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return m, errors.Join(err, os.Remove(f.Name()))
	}
	return m, nil
}

// Run sends the update and follows it.
func (c updateCommand) Run(ctx context.Context) error { return c.run(ctx, os.Stdout) }

func (c updateCommand) run(ctx context.Context, w io.Writer) (err error) {
	path, m, done, err := c.bundle(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	kit, s, err := c.find(ctx)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "kit %d %s runs %s, update to %s\n", s.Kit.Number, lab.Printable(s.Kit.Name), lab.Printable(s.Update.Version), m.Release.Version); err != nil {
		return err
	}
	if err := send(ctx, w, kit, path); err != nil {
		return err
	}
	return follow(ctx, w, kit, m.Release.Sequence, c.Wait, followEvery)
}

// bundle is the signed update as a file: the one that was named, or one made for this, which done removes.
func (c updateCommand) bundle(ctx context.Context) (path string, m card.Manifest, done func() error, err error) {
	none := func() error { return nil }
	m, ok, err := update.IsBundle(c.Image)
	switch {
	case err != nil:
		return "", m, none, err
	case ok && c.Mission != "":
		return "", m, none, fmt.Errorf("%s is signed already", c.Image)
	case ok:
		return c.Image, m, none, nil
	case c.Mission == "":
		return "", m, none, fmt.Errorf("%s is not signed: name the mission file, with --mission", c.Image)
	}
	f, err := os.CreateTemp("", "fieldkit-update-*")
	if err != nil {
		return "", m, none, err
	}
	if m, err = pack(ctx, f, c.Image, c.Mission); err != nil {
		return "", m, none, err
	}
	return f.Name(), m, func() error { return os.Remove(f.Name()) }, nil
}

// find asks the kit how it is. A kit that was named by number or name must be the one whose Wi-Fi this is: the page of no
// other can be reached.
func (c updateCommand) find(ctx context.Context) (kit string, s ui.Status, err error) {
	kit = c.Kit
	named := !strings.Contains(kit, ":") && !strings.Contains(kit, ".") && kit != "localhost"
	if _, err := netip.ParseAddr(kit); err == nil {
		named = false
	}
	if named {
		kit = defaultKit
	}
	if err := fetchJSON(ctx, kit, "/status.json", &s); err != nil {
		return kit, s, err
	}
	if named && c.Kit != strconv.Itoa(s.Kit.Number) && !strings.EqualFold(c.Kit, s.Kit.Name) {
		return kit, s, fmt.Errorf("this is the Wi-Fi of kit %d %s, not of %s", s.Kit.Number, lab.Printable(s.Kit.Name), c.Kit)
	}
	return kit, s, nil
}

// pageURL is an URL of a kit's page.
func pageURL(kit, path string) string {
	if !strings.Contains(kit, "://") {
		kit = "http://" + kit
	}
	return strings.TrimSuffix(kit, "/") + path
}

// counting tells how far the file was sent.
type counting struct {
	io.Reader
	sent, size, shown int64
	w                 io.Writer
}

// Read implements io.Reader.
func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.sent += int64(n)
	if percent := 100 * c.sent / max(c.size, 1); percent >= c.shown+10 {
		c.shown = percent
		_, _ = fmt.Fprintf(c.w, "sent %d %% of %.1f MB\n", percent, float64(c.size)/1e6)
	}
	return n, err
}

func send(ctx context.Context, w io.Writer, kit, path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, pageURL(kit, "/update"), &counting{Reader: f, size: info.Size(), w: w})
	if err != nil {
		return err
	}
	req.ContentLength = info.Size()
	req.Header.Set("Content-Type", update.MediaType)
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(r.Body, 1000)) // no more than a hint
	if r.StatusCode != http.StatusAccepted {
		return fmt.Errorf("refused: %s", lab.Printable(strings.TrimSpace(string(b))))
	}
	var got update.Upload
	if err := json.Unmarshal(b, &got); err != nil || got.State != update.Written {
		return fmt.Errorf("answer of the kit: %s", lab.Printable(string(b)))
	}
	_, err = fmt.Fprintln(w, "written, and read back")
	return err
}

// follow tells each change until the update is committed or rolled back. The kit does not answer while it restarts.
func follow(ctx context.Context, w io.Writer, kit string, sequence uint64, wait, every time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	said := ""
	say := func(what string) {
		if what != said {
			_, _ = fmt.Fprintln(w, lab.Printable(what)) // who follows no more may be gone
			said = what
		}
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var s ui.Status
		asking, end := context.WithTimeout(ctx, followAnswer)
		err := fetchJSON(asking, kit, "/status.json", &s)
		end()
		u := s.Update
		ended := u.Last.Sequence == sequence
		switch state := update.State(u.State); {
		case err != nil:
			say("the kit does not answer: it may be restarting")
		case ended && state == update.Committed:
			say(fmt.Sprintf("committed: %s runs in slot %s", u.Version, u.Slot))
			return nil
		case ended && state == update.RolledBack:
			return fmt.Errorf("%w: %s", errRolledBack, lab.Printable(u.Last.Why))
		case ended && state == update.Refused:
			return fmt.Errorf("refused: %s", lab.Printable(u.Last.Why))
		default:
			say(strings.TrimSuffix(u.State+": "+u.Why, ": "))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%s)", errWaiting, said)
		case <-tick.C:
		}
	}
}

// exitCode tells scripts how an update ended.
func exitCode(err error) int {
	switch {
	case errors.Is(err, errRolledBack):
		return exitRolledBack
	case errors.Is(err, errWaiting):
		return exitWaiting
	}
	return 1
}
