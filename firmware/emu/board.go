//go:build linux

package emu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Options of a Board.
type Options struct {
	Machine Machine
	Card    string // file with the card, which the board writes to
	Dir     string // for scratch files; it must exist
	Serial  string // of the board, hexadecimal, as its firmware tells the kernel
	Cmdline string // added to the slot's
	Payload Payload
	Bare    bool // boot the payload alone, on the slot's kernel: what the product's time is compared with
	NICs    []NIC

	Watchdog bool
	Memory   int // MiB, as in Config
}

// Board is a board with a card in it. It plays the firmware of a Raspberry Pi, which QEMU does not have: reads
// autoboot.txt, loads the slot's kernel, initial file system and device tree, tells the kernel which slot it is, and
// remembers over a reset that the kernel asked for the trial. A Board is used by one goroutine.
//
// Of the Virt machine, which has no such firmware, it learns of that request from the kernel's last line.
type Board struct {
	o       Options
	vm      *VM
	tryboot bool // the next boot is of the trial
	boots   []Boot
}

// Boot is one start of the board.
type Boot struct {
	Partition int
	Tryboot   bool
	Config    Config
}

// NewBoard makes a board. It is off.
func NewBoard(o Options) *Board { return &Board{o: o} }

// Boots are the board's starts so far, the last one last.
func (b *Board) Boots() []Boot { return b.boots }

// PowerOn loads what the card says and starts the machine. The board must be off.
func (b *Board) PowerOn(ctx context.Context) (*VM, error) {
	if b.vm != nil {
		return nil, errors.New("board: it is on")
	}
	boot := Boot{Tryboot: b.tryboot}
	b.tryboot = false
	if err := b.load(ctx, &boot); err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	vm, err := Start(ctx, boot.Config)
	if err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	b.vm = vm
	b.boots = append(b.boots, boot)
	return vm, nil
}

// PowerCut pulls the plug. The request for a trial is forgotten with the power.
func (b *Board) PowerCut() {
	if b.vm != nil {
		b.vm.Close()
		b.vm, b.tryboot = nil, false
	}
}

// Reset waits until the machine resets itself and starts it again, as the hardware does.
func (b *Board) Reset(ctx context.Context) (*VM, error) {
	if b.vm == nil {
		return nil, errors.New("board: it is off")
	}
	if err := b.vm.Wait(ctx); err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	b.vm.Close()
	asked, err := b.askedForTrial()
	b.vm = nil
	if err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	b.tryboot = asked
	return b.PowerOn(ctx)
}

// Close switches the board off.
func (b *Board) Close() { b.PowerCut() }

// What a kernel does when it is told to reboot with "0 tryboot".
const (
	// setRebootFlags is the property that the Raspberry Pi kernel's firmware driver then sets (RPI_FIRMWARE_SET_REBOOT_FLAGS,
	// include/soc/bcm2835/raspberrypi-firmware.h); QEMU does not know it and says so.
	setRebootFlags = "unhandled tag 0x00038064"
	// restarting is what any kernel prints.
	restarting = "reboot: Restarting system with command '0 tryboot'"
)

func (b *Board) askedForTrial() (bool, error) {
	if b.o.Machine != Virt {
		said, err := os.ReadFile(b.boots[len(b.boots)-1].Config.Trace)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("what the machine asked of its firmware: %w", err)
		}
		return bytes.Contains(said, []byte(setRebootFlags)), nil
	}
	for _, l := range b.vm.Console.Lines() {
		if strings.Contains(l.Text, restarting) {
			return true, nil
		}
	}
	return false, nil
}

// load does what ROM, bootcode.bin and start.elf do.
func (b *Board) load(ctx context.Context, boot *Boot) error {
	card, err := os.Open(b.o.Card)
	if err != nil {
		return err
	}
	defer card.Close()
	first, err := partition(card, 1)
	if err != nil {
		return err
	}
	autoboot, err := b.file(ctx, first, "autoboot.txt")
	if err != nil {
		return err
	}
	if boot.Partition, err = bootPartition(string(autoboot), boot.Tryboot); err != nil {
		return err
	}
	slot, err := partition(card, boot.Partition)
	if err != nil {
		return err
	}
	text, err := b.file(ctx, slot, "config.txt")
	if err != nil {
		return err
	}
	s, err := systemOf(b.o.Machine, string(text))
	if err != nil {
		return err
	}
	if b.o.Machine == Pi3 { // its ROM knows no other way than this file (raspberrypi/rpi-eeprom#818)
		if _, err := b.file(ctx, first, "bootcode.bin"); err != nil {
			return err
		}
	}
	for _, name := range s.firmware {
		if _, err := b.file(ctx, slot, name); err != nil {
			return err
		}
	}
	c := Config{
		Machine: b.o.Machine, Disk: b.o.Card, NICs: b.o.NICs, Watchdog: b.o.Watchdog, Memory: b.o.Memory,
		Kernel: b.scratch("kernel"), Initrd: b.scratch("initrd"), DTB: b.scratch("dtb"),
	}
	for _, f := range []struct{ name, to string }{{s.kernel, c.Kernel}, {s.initramfs, c.Initrd}, {s.dtb, c.DTB}} {
		if f.to == c.DTB && b.o.Machine == Virt {
			continue // it makes its own, see below
		}
		if err := b.copy(ctx, slot, f.name, f.to); err != nil {
			return err
		}
	}
	cmdline, err := b.file(ctx, slot, s.cmdline)
	if err != nil {
		return err
	}
	if err := b.addPayload(&c); err != nil {
		return err
	}
	if b.o.Machine == Virt {
		if err := b.dumpTree(ctx, c); err != nil {
			return err
		}
	} else {
		if err := b.overlay(ctx, slot, c.DTB, s.overlays); err != nil {
			return err
		}
		c.Trace = b.scratch("trace")
		if err := os.Remove(c.Trace); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	console, err := b.consoleName(ctx, c.DTB)
	if err != nil {
		return err
	}
	c.Cmdline = commandLine(string(cmdline), console, c.Cmdline+" "+b.o.Cmdline)
	if err := b.patchTree(ctx, c.DTB, *boot, s.uart || c.Agent); err != nil {
		return err
	}
	boot.Config = c
	return nil
}

func (b *Board) scratch(name string) string { return filepath.Join(b.o.Dir, name) }

// commandLine is the slot's, with the serial line that the firmware puts in the place of serial0, and with more. The
// screen is no console here: the last one named gets what PID 1 prints.
func commandLine(slot, console, more string) string {
	var words []string
	for _, w := range strings.Fields(slot) {
		if w != "console=tty1" {
			words = append(words, strings.Replace(w, "console=serial0", "console="+console, 1))
		}
	}
	return strings.Join(append(words, strings.Fields(more)...), " ")
}

// consoleName is what the kernel calls the PL011, QEMU's first serial line. On a Pi it depends on whether Bluetooth has
// it or the header.
func (b *Board) consoleName(ctx context.Context, tree string) (string, error) {
	if b.o.Machine == Virt {
		return "ttyAMA0", nil
	}
	out, err := exec.CommandContext(ctx, "fdtget", tree, "/aliases", "serial0").Output()
	if err != nil {
		return "", fmt.Errorf("%w: device tree without a serial0: %w", ErrNoBoot, err)
	}
	if strings.HasSuffix(strings.TrimSpace(string(out)), "/serial@7e201000") {
		return "ttyAMA0", nil
	}
	return "ttyAMA1", nil
}

// agentTTY is the machine's second serial line as its kernel calls it.
func (m Machine) agentTTY() string {
	if m == Virt {
		return "ttyAMA1"
	}
	return "ttyS0"
}

// addPayload appends the payload to the initial file system. If it has the agent, the agent is connected.
func (b *Board) addPayload(c *Config) error {
	if len(b.o.Payload) == 0 {
		return nil
	}
	mode := os.O_WRONLY
	if b.o.Bare {
		mode |= os.O_TRUNC
	}
	f, err := os.OpenFile(c.Initrd, mode, 0)
	if err != nil {
		return err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Write(make([]byte, -end&3)) // an archive begins at a multiple of four
	}
	if err == nil {
		err = b.o.Payload.cpio(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	if _, c.Agent = b.o.Payload[agentProgram]; c.Agent {
		c.Cmdline = fmt.Sprintf("rdinit=%s emu.tty=%s", agentProgram, b.o.Machine.agentTTY())
	}
	return nil
}

// file returns a file of the FAT file system at the offset.
func (b *Board) file(ctx context.Context, offset int64, name string) ([]byte, error) {
	to := b.scratch("file")
	if err := b.copy(ctx, offset, name, to); err != nil {
		return nil, err
	}
	return os.ReadFile(to)
}

// copy copies a file of the FAT file system at the offset. The reader is not ours, on purpose.
func (b *Board) copy(ctx context.Context, offset int64, name, to string) error {
	if err := tool(ctx, "mcopy", "-n", "-o", "-i", fmt.Sprintf("%s@@%d", b.o.Card, offset), "::"+name, to); err != nil {
		return fmt.Errorf("%w: %s of the file system at %d: %w", ErrNoBoot, name, offset, err)
	}
	return nil
}

// overlay applies overlays of the slot to the device tree.
func (b *Board) overlay(ctx context.Context, slot int64, tree string, overlays []string) error {
	for _, o := range overlays {
		to := b.scratch("overlay")
		if err := b.copy(ctx, slot, o, to); err != nil {
			return err
		}
		if err := tool(ctx, "fdtoverlay", "-i", tree, "-o", tree+".new", to); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrNoBoot, o, err)
		}
		if err := os.Rename(tree+".new", tree); err != nil {
			return err
		}
	}
	return nil
}

// dumpTree writes the device tree that the machine makes for itself.
func (b *Board) dumpTree(ctx context.Context, c Config) error {
	if err := os.Remove(c.DTB); err != nil && !errors.Is(err, os.ErrNotExist) { // it is written over no file
		return err
	}
	args := []string{"-nodefaults", "-display", "none", "-M", "virt,dumpdtb=" + c.DTB}
	args = append(args, c.virtSize()...)
	args = append(args, "-serial", "null")
	if c.Agent {
		args = append(args, "-serial", "null") // the second line is in the tree only if it is connected
	}
	return tool(ctx, program, args...)
}

// patchTree tells the kernel what the firmware decided (Documentation of the Raspberry Pi, "Device trees, overlays and
// parameters", properties of /chosen/bootloader).
func (b *Board) patchTree(ctx context.Context, file string, boot Boot, uart bool) error {
	tryboot := "0"
	if boot.Tryboot {
		tryboot = "1"
	}
	const node = "/chosen/bootloader"
	commands := [][]string{
		{"-c", "-p", file, node},
		{"-t", "u", file, node, "partition", fmt.Sprint(boot.Partition)},
		{"-t", "u", file, node, "tryboot", tryboot},
	}
	if b.o.Serial != "" {
		commands = append(commands, []string{"-t", "s", file, "/", "serial-number", b.o.Serial})
	}
	if uart && b.o.Machine != Virt {
		commands = append(commands, []string{"-t", "s", file, "/soc/serial@7e215040", "status", "okay"})
	}
	for _, c := range commands {
		if err := tool(ctx, "fdtput", c...); err != nil {
			return err
		}
	}
	return nil
}

// tool runs a program of this host.
func tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	// mtools refuses disks whose geometry it thinks odd; LC_ALL makes its messages the same everywhere.
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1", "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}

// Card is the file with the card. While the board is on, it belongs to the board.
func (b *Board) Card() string { return b.o.Card }
