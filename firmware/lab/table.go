//go:build linux

package lab

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

// kitView is what one kit said last, or why it said nothing.
type kitView struct {
	number int
	status ui.Status
	err    error
}

// phoneView is what one phone said last.
type phoneView struct {
	account mission.Handset
	kit     int // number
	state   PhoneState
}

// table shows kits and phones in words, a section for each thing that there is.
func table(kits []kitView, phones []phoneView) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 2, 8, 2, ' ', 0)
	var wrong, handsets, streams []string
	fmt.Fprintln(w, "KIT\tNODE-ID\tRING\tLINKED\tJOINED\tMEMORY\tSTATE\tLIGHTS")
	for _, k := range kits {
		s := k.status
		if k.err != nil {
			fmt.Fprintf(w, "%d\t-\t-\t-\t-\t-\tdoes not answer\t-\n", k.number)
			continue
		}
		fmt.Fprintf(w, "%s\t%.8s\t%s\t%s\t%s\t%.1f MB\t%s\t%s\n", kitName(s.Kit), s.Kit.NodeID, plural(len(s.Ring), "kit"), linked(s),
			orDash(s.Kit.JoinedMS, "%.0f ms"), float64(s.Kit.RSSBytes)/1e6, s.Board.State, lights(s.Board))
		for _, c := range s.Health {
			if c.State != "ok" {
				wrong = append(wrong, fmt.Sprintf("%d\t%s: %s\t%s\t%s", k.number, c.Name, c.Cause, c.State, ui.Age(c.SinceS)))
			}
		}
		for _, h := range s.Handsets {
			if h.Registered {
				handsets = append(handsets, fmt.Sprintf("%s\t%s\t%d\t%s %s\t%s", h.Number, h.Name, k.number, h.Contact, h.Transport, ui.Age(h.SinceS)))
			}
		}
		for _, c := range s.Calls {
			for _, m := range c.Media {
				streams = append(streams, fmt.Sprintf("%s → %s\t%d\t%s\t%s\t%d\t%d\t%.1f ms", m.From, m.To, k.number, c.State, ui.Age(c.SinceS), m.Packets, m.Lost, m.JitterMS))
			}
		}
	}
	section := func(head string, rows []string) {
		if len(rows) > 0 {
			fmt.Fprintf(w, "\n%s\n%s\n", head, strings.Join(rows, "\n"))
		}
	}
	slices.Sort(streams) // the way of the voice: the same stream at one kit after the other
	section("KIT\tWHAT IS WRONG\tHOW BAD\tFOR", wrong)
	section("NUMBER\tNAME\tON KIT\tREGISTERED FROM\tFOR", handsets)
	section("VOICE\tAT KIT\tCALL\tFOR\tPACKETS\tLOST\tJITTER", streams)
	section("PHONE\tAT KIT\tSTATE\tSET-UP\tSENT\tRECEIVED\tLOST\tJITTER\tHEARS THE OTHER", phoneRows(phones))
	_ = w.Flush()
	return Printable(b.String())
}

// Printable replaces what would control a terminal: names and contacts come from whoever registers or announces.
func Printable(text string) string {
	return strings.Map(func(c rune) rune {
		if c == '\n' || unicode.IsPrint(c) {
			return c
		}
		return '�'
	}, text)
}

// legend explains what the table does not say by itself.
const legend = "Lights: ● steady, ◍ blinks as it says, ○ off. Link blinks once for each kit linked; single is the only light of a board without the others."

func phoneRows(phones []phoneView) (rows []string) {
	for _, p := range phones {
		m := p.state.Media
		hears := "-"
		if m.Received > 0 {
			hears = map[bool]string{true: "yes, its tone", false: "no"}[m.ToneOK]
		}
		state := p.state.State
		if p.state.Error != "" {
			state += ": " + p.state.Error
		}
		rows = append(rows, fmt.Sprintf("%s %s\t%d\t%s\t%s\t%d\t%d\t%d\t%.1f ms\t%s", p.account.Number, p.account.Name, p.kit, state,
			orDash(ms(p.state.Setup), "%.1f ms"), m.Sent, m.Received, m.Lost, m.JitterMS, hears))
	}
	return rows
}

// kitName is the number, with the name where it says more.
func kitName(k ui.Kit) string {
	if k.Name == "" || k.Name == fmt.Sprintf("Kit %d", k.Number) {
		return fmt.Sprint(k.Number)
	}
	return fmt.Sprintf("%d %s", k.Number, k.Name)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func orDash(v float64, format string) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

func linked(s ui.Status) string {
	n := 0
	for _, k := range s.Kits {
		if k.State == "linked" {
			n++
		}
	}
	return fmt.Sprintf("%d of %d seen", n, len(s.Kits))
}

// lights lists the LEDs with what they show over time: what is lit at this moment says little of one that blinks.
func lights(b ui.Board) string {
	var r []string
	for _, l := range b.LEDs {
		switch l.Pattern {
		case "off":
			r = append(r, "○"+l.Name)
		case "steady":
			r = append(r, "●"+l.Name)
		default:
			r = append(r, "◍"+l.Name+" "+l.Pattern)
		}
	}
	return strings.Join(r, "  ")
}

// clip cuts the lines of text after so many characters; 0 cuts nothing.
func clip(text string, width int) string {
	if width <= 0 {
		return text
	}
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if r := []rune(l); len(r) > width {
			lines[i] = string(r[:width-1]) + "…"
		}
	}
	return strings.Join(lines, "\n")
}
