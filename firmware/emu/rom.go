package emu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ErrNoBoot is a card that a Pi's own firmware would not boot.
var ErrNoBoot = errors.New("card does not boot")

const sector = 512

// partition reads where primary partition n, 1 to 4, of the card begins, in bytes.
func partition(card *os.File, n int) (int64, error) {
	var mbr [sector]byte
	if _, err := card.ReadAt(mbr[:], 0); err != nil {
		return 0, fmt.Errorf("partition table: %w", err)
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa || n < 1 || n > 4 {
		return 0, fmt.Errorf("%w: partition %d: no such in the partition table", ErrNoBoot, n)
	}
	entry := mbr[446+16*(n-1):]
	if t := entry[4]; t != 0x0b && t != 0x0c && t != 0x0e && t != 0x06 {
		return 0, fmt.Errorf("%w: partition %d: type %#x is no FAT", ErrNoBoot, n, t)
	}
	return int64(binary.LittleEndian.Uint32(entry[8:])) * sector, nil
}

// bootPartition is what autoboot.txt says
// (https://www.raspberrypi.com/documentation/computers/config_txt.html, "The autoboot.txt file"): the file may be one
// sector long, knows the filters [all], [none] and [tryboot], and without tryboot_a_b a reboot into the trial is not
// about partitions.
func bootPartition(autoboot string, tryboot bool) (int, error) {
	if len(autoboot) > sector {
		return 0, fmt.Errorf("%w: autoboot.txt has %d bytes, of which the firmware reads one sector", ErrNoBoot, len(autoboot))
	}
	settings := read(autoboot, func(filter string) bool {
		return filter == "all" || filter == "tryboot" && tryboot
	})
	if tryboot && settings["tryboot_a_b"] != "1" {
		return 0, fmt.Errorf("%w: autoboot.txt: a trial was asked for, and there is no tryboot_a_b=1", ErrNoBoot)
	}
	n, err := strconv.Atoi(settings["boot_partition"])
	if err != nil {
		return 0, fmt.Errorf("%w: autoboot.txt: boot_partition %q", ErrNoBoot, settings["boot_partition"])
	}
	return n, nil
}

// overlay is the one setting that may be there more than once.
const overlay = "dtoverlay"

// read is the settings of a file in the format of config.txt that hold, the last of each; of overlays all, one a line. A
// filter is in force until the next one. "initramfs FILE followkernel" is a setting without an equals sign.
func read(text string, holds func(filter string) bool) map[string]string {
	r := make(map[string]string)
	in := true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			in = holds(line[1 : len(line)-1])
			continue
		}
		if !in || line == "" || line[0] == '#' {
			continue
		}
		if value, ok := strings.CutPrefix(line, overlay+"="); ok {
			r[overlay] = strings.TrimPrefix(r[overlay]+"\n"+strings.TrimSpace(value), "\n")
		} else if name, value, ok := strings.Cut(line, "="); ok {
			r[strings.TrimSpace(name)] = strings.TrimSpace(value)
		} else if name, value, ok := strings.Cut(line, " "); ok {
			r[name] = strings.TrimSpace(value)
		}
	}
	return r
}

// system is what a slot says it is made of: names of files in it.
type system struct {
	kernel, initramfs, cmdline, dtb string
	overlays                        []string // of the device tree
	firmware                        []string // which the boot needs and QEMU does not run
	uart                            bool     // the mini UART is switched on
}

// systemOf is what the firmware of machine m makes of a slot's config.txt.
func systemOf(m Machine, config string) (system, error) {
	settings := read(config, func(filter string) bool {
		switch filter {
		case "all":
			return true
		case "pi3":
			return m == Pi3
		case "pi4":
			return m == Pi4
		}
		return false
	})
	for _, name := range []string{"os_prefix", "include", "start_file", "fixup_file"} {
		if settings[name] != "" {
			return system{}, fmt.Errorf("config.txt: %s is more than this firmware can", name)
		}
	}
	s := system{kernel: settings["kernel"], cmdline: settings["cmdline"], dtb: settings["device_tree"], uart: settings["enable_uart"] == "1"}
	for o := range strings.Lines(settings[overlay]) {
		if strings.ContainsAny(o, ",") {
			return system{}, fmt.Errorf("config.txt: %s with parameters is more than this firmware can", o)
		}
		s.overlays = append(s.overlays, "overlays/"+strings.TrimSpace(o)+".dtbo")
	}
	if s.kernel == "" {
		s.kernel = "kernel8.img"
	}
	if s.cmdline == "" {
		s.cmdline = "cmdline.txt"
	}
	name, where, _ := strings.Cut(settings["initramfs"], " ")
	if name == "" || where != "followkernel" {
		return system{}, fmt.Errorf("%w: config.txt: initramfs %q", ErrNoBoot, settings["initramfs"])
	}
	s.initramfs = name
	// The cut-down firmware is the one for the least memory.
	cut := ""
	if settings["gpu_mem"] == "16" || settings["start_cd"] == "1" {
		cut = "cd"
	}
	switch m {
	case Pi4:
		s.firmware = []string{"start4" + cut + ".elf", "fixup4" + cut + ".dat"}
		if s.dtb == "" {
			s.dtb = "bcm2711-rpi-4-b.dtb"
		}
	default:
		if cut != "" {
			cut = "_" + cut
		}
		s.firmware = []string{"start" + cut + ".elf", "fixup" + cut + ".dat"}
		if s.dtb == "" {
			s.dtb = "bcm2710-rpi-3-b.dtb"
		}
	}
	return s, nil
}
