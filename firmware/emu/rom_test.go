package emu

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"fieldkit/firmware/card"
)

// What the card's own package writes means the same to a reader of the Raspberry Pi's documentation.
func TestBootPartitionOfWhatCardsHave(t *testing.T) {
	for _, committed := range []card.Slot{card.A, card.B} {
		b, err := card.AutobootFor(committed).Render()
		if err != nil {
			t.Fatal(err)
		}
		for tryboot, want := range map[bool]card.Slot{false: committed, true: committed.Other()} {
			if n, err := bootPartition(string(b[:]), tryboot); err != nil || n != int(want) {
				t.Errorf("committed %v, tryboot %v: partition %d, %v, want %d", committed, tryboot, n, err, want)
			}
		}
	}
}

func TestBootPartition(t *testing.T) {
	const both = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"
	for _, c := range []struct {
		name, file string
		tryboot    bool
		want       int // 0 does not boot
	}{
		{"as documented", both, false, 2},
		{"as documented, trial", both, true, 3},
		{"no filter is [all]", "boot_partition=3\n", false, 3},
		{"nothing of another filter", "[pi9]\nboot_partition=3\n[none]\nboot_partition=3\n[all]\nboot_partition=2\n", false, 2},
		{"the last one holds", "boot_partition=3\nboot_partition=2\n", false, 2},
		{"remarks and DOS line ends", "# boot_partition=9\r\nboot_partition=2\r\n", false, 2},
		{"trial without A/B", "boot_partition=2\n[tryboot]\nboot_partition=3\n", true, 0},
		{"empty", "", false, 0},
		{"no number", "boot_partition=two\n", false, 0},
		{"more than a sector", both + strings.Repeat("#", 512), false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, err := bootPartition(c.file, c.tryboot)
			if c.want == 0 {
				if !errors.Is(err, ErrNoBoot) {
					t.Errorf("boots partition %d, %v", n, err)
				}
			} else if err != nil || n != c.want {
				t.Errorf("partition %d, %v, want %d", n, err, c.want)
			}
		})
	}
}

func TestSystemOf(t *testing.T) {
	const config = "gpu_mem=16\nkernel=k.img\n[pi3]\ninitramfs three followkernel\n[pi4]\ninitramfs four followkernel\ncmdline=c.txt\n[pi5]\nkernel=five.img\n[all]\nenable_uart=1\ndtoverlay=a\ndtoverlay=b\n"
	three, err := systemOf(Pi3, config)
	if err != nil {
		t.Fatal(err)
	}
	if three.kernel != "k.img" || three.initramfs != "three" || three.cmdline != "cmdline.txt" || three.dtb != "bcm2710-rpi-3-b.dtb" || !three.uart ||
		!slices.Equal(three.overlays, []string{"overlays/a.dtbo", "overlays/b.dtbo"}) ||
		!slices.Equal(three.firmware, []string{"start_cd.elf", "fixup_cd.dat"}) {
		t.Errorf("Pi 3: %+v", three)
	}
	four, err := systemOf(Pi4, config)
	if err != nil {
		t.Fatal(err)
	}
	if four.initramfs != "four" || four.cmdline != "c.txt" || four.dtb != "bcm2711-rpi-4-b.dtb" || !slices.Equal(four.firmware, []string{"start4cd.elf", "fixup4cd.dat"}) {
		t.Errorf("Pi 4: %+v", four)
	}
	whole, err := systemOf(Pi3, "initramfs i followkernel\n")
	if err != nil || whole.kernel != "kernel8.img" || whole.uart || !slices.Equal(whole.firmware, []string{"start.elf", "fixup.dat"}) {
		t.Errorf("defaults: %+v, %v", whole, err)
	}
	for _, bad := range []string{"", "initramfs i 0x2000000\n", "initramfs i followkernel\nos_prefix=x/\n", "initramfs i followkernel\ndtoverlay=x,y=z\n"} {
		if s, err := systemOf(Pi3, bad); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add("[all]\nboot_partition=2\ninitramfs i followkernel\n")
	f.Add("[\n]=\n=\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		for name := range read(text, func(string) bool { return true }) {
			if strings.ContainsAny(name, "\n") {
				t.Errorf("name %q", name)
			}
		}
		_, _ = bootPartition(text, true)
		_, _ = systemOf(Pi4, text)
	})
}
