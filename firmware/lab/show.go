//go:build linux

package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Show runs the lab as a demonstration: kits, phones, calls that are made again when they end, and a
// table of all that, until ctx ends: once a second on a terminal, every five seconds where nobody can watch it change.
func Show(ctx context.Context, l *Lab, out io.Writer, hints []string) error {
	s := screen{out: out, hints: hints}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.terminal = f
	}
	fmt.Fprintf(out, "Starting %s on %s.\n", plural(l.opts.Kits, "kit"), l.Describe())
	if err := l.StartKits(ctx); err != nil {
		return err
	}
	// The lab may be closed once this returns: nobody starts a phone or calls any more then.
	var others sync.WaitGroup
	defer others.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	others.Go(func() { failed <- l.demonstrate(ctx, &others) })
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			if err != nil && ctx.Err() == nil {
				return err
			}
			failed = nil
			continue
		case <-every.C:
		}
		if s.terminal == nil && n%5 != 2 {
			continue
		}
		t := table(l.view(ctx))
		if ctx.Err() != nil {
			return nil // the kits are not gone: they were not asked any more
		}
		if err := s.show(t); err != nil {
			return err
		}
	}
}

// screen is where the table goes.
type screen struct {
	out      io.Writer
	terminal *os.File // nil: no terminal
	hints    []string
	shown    bool
}

func (s *screen) show(t string) error {
	hints := strings.Join(append([]string{legend}, s.hints...), "\n")
	if s.terminal == nil {
		if !s.shown {
			t += "\n" + hints + "\n"
		}
		s.shown = true
		_, err := io.WriteString(s.out, "\n"+t)
		return err
	}
	width, _, err := term.GetSize(int(s.terminal.Fd()))
	if err != nil {
		width = 0
	}
	text := clip(t, width) + "\n" + hints
	// Over what is there, each line cleared to its end: a screen that is cleared first flickers.
	text = "\x1b[H" + strings.ReplaceAll(text, "\n", "\x1b[K\n") + "\x1b[K\n\x1b[J"
	if !s.shown {
		text = "\x1b[2J" + text
	}
	s.shown = true
	_, err = io.WriteString(s.out, text)
	return err
}

// view is what all kits and phones say now.
func (l *Lab) view(ctx context.Context) (kits []kitView, phones []phoneView) {
	for _, k := range l.Kits {
		s, err := k.Status(ctx)
		kits = append(kits, kitView{k.Number, s, err})
	}
	for _, p := range l.phones() {
		phones = append(phones, phoneView{p.Account, kitNumber(p.Kit), p.Snapshot()})
	}
	return kits, phones
}

// demonstrate keeps one call up between each pair of phones.
func (l *Lab) demonstrate(ctx context.Context, others *sync.WaitGroup) error {
	if err := l.StartPhones(ctx); err != nil {
		return err
	}
	for i := range l.opts.Calls {
		a, b := l.Phones[2*i], l.Phones[2*i+1]
		others.Go(func() {
			for ctx.Err() == nil {
				if _, err := a.Call(ctx, b.Account.Number); err == nil {
					_ = a.WaitIdle(ctx)
				}
				_ = pause(ctx, 3*time.Second)
			}
		})
	}
	return nil
}
