package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"fieldkit/firmware/image"
)

// flashCommand is `fieldkit flash IMAGE DEVICE`.
type flashCommand struct {
	Image  string `arg:"" help:"Image of a card, .img or .img.zst." type:"existingfile"`
	Device string `arg:"" help:"The card, as a whole disk such as /dev/sdb. Everything on it is lost."`
	Yes    bool   `short:"y" help:"Do not ask."`
	Large  bool   `help:"Write to a disk of more than 256 GB, too."`
}

// Run writes the card and reads it back.
func (c flashCommand) Run(ctx context.Context) error {
	d, err := image.ThisHost().Inspect(c.Device)
	if err != nil {
		return err
	}
	if err := d.Check(c.Large); err != nil {
		return err
	}
	fmt.Printf("%v: everything on it will be lost.\n", d)
	if !c.Yes {
		if err := confirm(os.Stdin, os.Stdout); err != nil {
			return err
		}
	}
	p := &progressLine{w: os.Stderr, redraw: term.IsTerminal(int(os.Stderr.Fd())), now: time.Now}
	sum, err := image.FlashDisk(ctx, c.Image, d, p.show)
	p.end()
	if err != nil {
		return err
	}
	fmt.Printf("Written and verified, sha256 %s. The card can be taken out.\n", sum)
	return nil
}

var errNotConfirmed = errors.New("nothing was written")

func confirm(in io.Reader, out io.Writer) error {
	fmt.Fprint(out, "Type yes to go on: ")
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != "yes" {
		return errNotConfirmed
	}
	return nil
}

// progressLine is a line of a terminal that says how far something is; elsewhere it is one line in ten percent.
type progressLine struct {
	w      io.Writer
	redraw bool
	now    func() time.Time

	what  string
	start time.Time
	last  time.Time
	tenth int64
}

func (p *progressLine) show(what string, done, total int64) {
	now := p.now()
	if what != p.what {
		p.end()
		p.what, p.start, p.last, p.tenth = what, now, time.Time{}, -1
	}
	finished := done >= total
	if p.redraw && now.Sub(p.last) < 100*time.Millisecond && !finished || !p.redraw && done*10/total == p.tenth {
		return
	}
	p.last, p.tenth = now, done*10/total
	spent := now.Sub(p.start).Seconds()
	line := fmt.Sprintf("%-9s %3d %%", what, done*100/total)
	if p.redraw {
		const width = 30
		n := int(done * width / total)
		line = fmt.Sprintf("\r%-9s [%s%s] %3d %%", what, strings.Repeat("#", n), strings.Repeat(".", width-n), done*100/total)
	}
	if spent > 0.5 {
		line += fmt.Sprintf("  %5.1f MB/s", float64(done)/spent/1e6)
		if !finished {
			line += fmt.Sprintf("  %3.0f s left", spent*float64(total-done)/float64(done))
		}
	}
	if p.redraw {
		line += strings.Repeat(" ", 14) // over what was longer
	} else {
		line += "\n"
	}
	_, _ = io.WriteString(p.w, line)
}

// end leaves the line.
func (p *progressLine) end() {
	if p.redraw && p.what != "" {
		fmt.Fprintln(p.w)
	}
	p.what = ""
}
