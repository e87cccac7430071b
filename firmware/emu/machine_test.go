package emu

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	cable := NewCable()
	nic := NIC{MAC: "02:00:00:00:00:01", Cable: cable}
	files := inherited{console: 3, qmp: 4, agent: 5, nics: []int{6, 7}}
	for _, c := range []struct {
		name string
		c    Config
		want string // "" is an error
	}{
		{"Pi 3", Config{Machine: Pi3, NICs: []NIC{nic}, Disk: "c"}, "usb-net,netdev=net0"},
		{"all of a Pi's cores on one thread", Config{Machine: Pi4}, "tcg,thread=single"},
		{"what was written stays written", Config{Machine: Virt, Disk: "c"}, "cache=writethrough"},
		{"two cards", Config{Machine: Virt, NICs: []NIC{nic, nic}}, "addr.type=fd,addr.str=7"},
		{"watchdog", Config{Machine: Virt, Watchdog: true}, "i6300esb"},
		{"Pi 4 with a network", Config{Machine: Pi4, NICs: []NIC{nic}}, ""},
		{"Pi 3 with two", Config{Machine: Pi3, NICs: []NIC{nic, nic}}, ""},
		{"Pi with a watchdog", Config{Machine: Pi3, Watchdog: true}, ""},
		{"card without a cable", Config{Machine: Virt, NICs: []NIC{{}}}, ""},
		{"no such board", Config{Machine: "raspi9"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			args, err := c.c.arguments(files)
			if c.want == "" {
				if err == nil {
					t.Errorf("%v", args)
				}
			} else if err != nil || !slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, c.want) }) {
				t.Errorf("%v %v", args, err)
			}
		})
	}
}

// The archive as Documentation/driver-api/early-userspace/buffer-format.rst has it: 110 bytes of header, name and data each
// filled up to a multiple of four, a directory before what is in it, the trailer last.
func TestPayloadIsAnArchive(t *testing.T) {
	f := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f, []byte("seven b"), 0o600); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := (Payload{"/a/b/c": f, "/a/d": f}).cpio(&b); err != nil {
		t.Fatal(err)
	}
	var names []string
	for rest := b.Bytes(); len(rest) > 0; {
		if len(rest) < 110 || string(rest[:6]) != "070701" {
			t.Fatalf("after %v: %q", names, rest[:min(len(rest), 110)])
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(rest[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		mode, size, length := field(1), field(6), field(11)
		name := string(rest[110 : 110+length-1])
		at := (110 + length + 3) &^ 3
		if data := string(rest[at : at+size]); mode == 0o100755 && data != "seven b" {
			t.Errorf("%s: %q", name, data)
		}
		names = append(names, name)
		rest = rest[(at+size+3)&^3:]
	}
	if want := []string{"a", "a/b", "a/b/c", "a/d", "TRAILER!!!"}; !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	if err := (Payload{"/x": f + ".no"}).cpio(&b); err == nil {
		t.Error("a file that is not there")
	}
}

// What the firmware makes of the slot's command line: the serial line by the kernel's name for it, and no screen.
func TestCommandLine(t *testing.T) {
	got := commandLine("console=serial0,115200 console=tty1 rdinit=/init quiet\n", "ttyAMA0", " a=b  c ")
	if want := "console=ttyAMA0,115200 rdinit=/init quiet a=b c"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
