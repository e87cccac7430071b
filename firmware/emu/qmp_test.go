package emu

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"testing"
)

// peer plays QEMU: answers each command with the next of the answers.
func peer(t *testing.T, answers ...string) *QMP {
	t.Helper()
	ours, theirs := net.Pipe()
	q := newQMP(ours)
	done := make(chan struct{})
	go q.read()
	go func() {
		defer close(done)
		defer theirs.Close()
		_, _ = fmt.Fprintln(theirs, `{"QMP": {"version": {"qemu": {"major": 10}}, "capabilities": []}}`)
		lines := bufio.NewScanner(theirs)
		for _, a := range answers {
			if !lines.Scan() || !json.Valid(lines.Bytes()) {
				return
			}
			_, _ = fmt.Fprintln(theirs, a)
		}
	}()
	t.Cleanup(func() { _ = ours.Close(); <-done })
	return q
}

func TestQMP(t *testing.T) {
	q := peer(t,
		`{"event": "RESET", "data": {}}`+"\n"+`{"return": {}}`,
		`{"return": "000000003f200034: 0x00020010\r\n"}`,
		`{"error": {"class": "GenericError", "desc": "no such device"}}`,
		`{"return": "Cannot access memory\r\n"}`,
	)
	if _, err := q.Do("qmp_capabilities", nil); err != nil {
		t.Fatal(err)
	}
	if err := q.Await(t.Context(), "RESET"); err != nil || q.Count("RESET") != 1 {
		t.Errorf("event: %v, %d", err, q.Count("RESET"))
	}
	if w, err := q.Word(0x3f200034); err != nil || w != 0x20010 {
		t.Errorf("word %#x, %v", w, err)
	}
	if _, err := q.Do("set_link", map[string]any{"name": "x"}); err == nil {
		t.Error("an error was no error")
	}
	if w, err := q.Word(0); err == nil {
		t.Errorf("no memory: %#x", w)
	}
	if _, err := q.Do("quit", nil); !errors.Is(err, ErrEnded) {
		t.Errorf("a connection that ended: %v", err)
	}
	if err := q.Await(t.Context(), "WATCHDOG"); !errors.Is(err, ErrEnded) {
		t.Errorf("an event that cannot come: %v", err)
	}
}

// BCM2835 ARM Peripherals §6.1: three bits a pin, 001 is an output, 000 an input, the others are alternate functions.
func TestPins(t *testing.T) {
	if o := outputs(1<<15 | 1<<18 | 4<<21 | 7<<24); o != 1<<5|1<<6 {
		t.Errorf("outputs %#b", o)
	}
	p := Pins{Level: 1<<5 | 1<<17, Output: 1<<5 | 1<<6}
	if !p.Lit(5) || p.Lit(6) || p.Lit(17) {
		t.Errorf("%+v", p)
	}
}
