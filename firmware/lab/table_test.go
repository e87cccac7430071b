//go:build linux

package lab

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"fieldkit/firmware/mission"
	"fieldkit/ui"
)

func sampleKits() []kitView {
	return []kitView{
		{number: 101, status: ui.Status{
			Kit:  ui.Kit{NodeID: "0123456789abcdef0123456789abcdef", Number: 101, Name: "Kit 101", JoinedMS: 1234.4, RSSBytes: 21.5e6},
			Ring: []string{"a", "b"},
			Kits: []ui.Neighbour{{State: "linked"}, {State: "stranger"}},
			Handsets: []ui.Handset{
				{Number: "10101", Name: "anna", Contact: "sip:10101@10.73.1.1:5060", Transport: "udp", Registered: true, SinceS: 61},
				{Number: "10102", Name: "guest"},
			},
			Calls: []ui.Call{{State: "answered", SinceS: 5, Media: []ui.Stream{
				{From: "10201", To: "10101", Packets: 249, Lost: 1, JitterMS: 0.25},
				{From: "10101", To: "10201", Packets: 250},
			}}},
			Board: ui.Board{State: "1 kit linked, 1 phone", LEDs: []ui.LED{
				// Blinking, and dark at this very moment.
				{Name: "power", Pattern: "steady", Lit: true}, {Name: "link", Pattern: "1 blink"}, {Name: "red", Pattern: "off"},
			}},
			Health: []ui.Check{{Name: "strangers", State: "warn", Cause: "1 refused", SinceS: 30}, {Name: "overlay", State: "ok", Cause: "unused"}},
		}},
		{number: 102, err: errors.New("connection refused")},
		{number: 103, status: ui.Status{Kit: ui.Kit{NodeID: "ffff", Number: 103, Name: "Hut"}, Ring: []string{"c"}}},
	}
}

// row is the line of text that begins with the words, its columns apart by one space.
func row(t *testing.T, text, begin string) string {
	t.Helper()
	for _, line := range strings.Split(text, "\n") {
		if line = regexp.MustCompile(` {2,}`).ReplaceAllString(strings.TrimSpace(line), " | "); strings.HasPrefix(line, begin) {
			return line
		}
	}
	t.Fatalf("no line begins with %q:\n%s", begin, text)
	return ""
}

func TestTable(t *testing.T) {
	text := table(sampleKits(), []phoneView{
		{mission.Handset{Number: "10101", Name: "anna"}, 101, PhoneState{State: "talking", Setup: 52 * time.Millisecond, Media: Media{Sent: 250, Received: 249, Lost: 1, JitterMS: 0.3, ToneOK: true}}},
		{mission.Handset{Number: "10201", Name: "boris"}, 102, PhoneState{State: "talking", Media: Media{Received: 3}}},
		{mission.Handset{Number: "10301", Name: "carla"}, 103, PhoneState{State: "unregistered", Error: "no answer"}},
	})
	for begin, want := range map[string]string{
		"101 | 0123": "101 | 01234567 | 2 kits | 1 of 2 seen | 1234 ms | 21.5 MB | 1 kit linked, 1 phone | ●power | ◍link 1 blink | ○red",
		"102 |":      "102 | - | - | - | - | - | does not answer | -",
		// Never joined, and with a name that somebody gave it.
		"103 Hut":                  "103 Hut | ffff | 1 kit | 0 of 0 seen | - | 0.0 MB",
		"101 | strangers":          "101 | strangers: 1 refused | warn | 30 s",
		"10101 | anna":             "10101 | anna | 101 | sip:10101@10.73.1.1:5060 udp | 61 s",
		"10201 → 10101":            "10201 → 10101 | 101 | answered | 5 s | 249 | 1 | 0.2 ms",
		"10101 → 10201":            "10101 → 10201 | 101 | answered | 5 s | 250 | 0 | 0.0 ms",
		"10101 anna | 101 | talk":  "10101 anna | 101 | talking | 52.0 ms | 250 | 249 | 1 | 0.3 ms | yes, its tone",
		"10201 boris | 102 | talk": "10201 boris | 102 | talking | - | 0 | 3 | 0 | 0.0 ms | no",
		"10301 carla | 103":        "10301 carla | 103 | unregistered: no answer | - | 0 | 0 | 0 | 0.0 ms | -",
	} {
		if got := row(t, text, begin); !strings.HasPrefix(got, want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	for _, absent := range []string{"unused", "guest"} { // what is well, and who is not registered
		if strings.Contains(text, absent) {
			t.Errorf("%q is in\n%s", absent, text)
		}
	}
}

// A heading over nothing says that something is missing.
func TestTableHasNoEmptySections(t *testing.T) {
	text := table([]kitView{{number: 101, status: ui.Status{Kit: ui.Kit{Number: 101}}}}, nil)
	for _, head := range []string{"WRONG", "NUMBER", "VOICE", "PHONE"} {
		if strings.Contains(text, head) {
			t.Errorf("%q is in\n%s", head, text)
		}
	}
	if !strings.Contains(text, "101") {
		t.Errorf("no kit in\n%s", text)
	}
}

func TestLinesAreCutToTheTerminal(t *testing.T) {
	const text = "●●●●●●●●\n12345\n123456\n"
	got := clip(text, 5)
	if want := "●●●●…\n12345\n1234…\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !utf8.ValidString(got) {
		t.Errorf("%q is cut within a character", got)
	}
	if clip(text, 0) != text {
		t.Error("cut without a width")
	}
}

// A contact is what a handset says; it must not move the cursor of whoever looks at the table.
func TestTableControlsNoTerminal(t *testing.T) {
	kits := sampleKits()
	kits[0].status.Handsets[0].Contact = "sip:a\x1b[2J\u009b@b\r\x07"
	kits[0].status.Kit.Name = "K\x1b]0;title\x07"
	text := table(kits, []phoneView{{state: PhoneState{State: "unregistered", Error: "\x1bc"}}})
	for _, c := range text {
		if c != '\n' && !unicode.IsPrint(c) {
			t.Errorf("%q is in\n%q", c, text)
		}
	}
	if !strings.Contains(text, "sip:a") {
		t.Errorf("no contact in\n%s", text)
	}
}
