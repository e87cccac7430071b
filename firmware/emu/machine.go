package emu

import "fmt"

// Machine is a kind of board.
type Machine string

// The machines that the product's kernel runs on in QEMU.
const (
	Pi3  Machine = "raspi3b" // Raspberry Pi 3 B: SD card, USB Ethernet, header
	Pi4  Machine = "raspi4b" // Raspberry Pi 4 B: SD card, header; QEMU gives it no network
	Virt Machine = "virt"    // QEMU's own: virtio disk and network cards, a PCI watchdog; no header
)

// Config is a machine to start.
type Config struct {
	Machine Machine
	Kernel  string // file: an arm64 Image, which may be compressed by gzip
	Initrd  string // file; cpio archives one after another
	DTB     string // file; none for Virt, which makes its own
	Cmdline string // of the kernel. QEMU's first serial line, the PL011, is the console
	Disk    string // raw file: the card; "" is none. Its size must be a power of two on a Pi
	Memory  int    // MiB; 0 is what the Pi has, or 512. A Pi's cannot be changed
	NICs    []NIC

	// Watchdog fits a hardware watchdog that resets the machine. Virt only: on QEMU's Pis the product's would reset it
	// when opened.
	Watchdog bool
	// Agent connects the machine's second serial line, for a guest program in the initrd.
	Agent bool
	// Trace is a file to which QEMU writes what the machine asked of hardware that is not there; "" is none.
	Trace string
}

// NIC is a network card.
type NIC struct {
	MAC   string
	Cable *Cable
}

// arguments are QEMU's. files are the numbers under which QEMU finds the connections it inherits.
func (c Config) arguments(files inherited) ([]string, error) {
	a := []string{
		"-nodefaults", "-display", "none", "-no-reboot", "-M", string(c.Machine),
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", c.Cmdline,
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", files.console), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", files.qmp), "-mon", "chardev=qmp,mode=control",
		// One thread for all of a Pi's cores: with one each, QEMU's Pi 3 hangs in one boot of three before the first line.
		"-accel", "tcg,thread=single",
	}
	if c.Agent {
		a = append(a, "-chardev", fmt.Sprintf("socket,id=agent,fd=%d", files.agent), "-serial", "chardev:agent")
	}
	if c.DTB != "" {
		a = append(a, "-dtb", c.DTB)
	}
	if c.Trace != "" {
		a = append(a, "-d", "unimp", "-D", c.Trace)
	}
	// What the machine had written when the plug was pulled is on the card, in the order of writing; what it had not is not.
	const drive = "file=%s,format=raw,cache=writethrough,"
	card := "virtio-net-pci,romfile=," // nobody boots from it
	switch c.Machine {
	case Virt:
		a = append(a, c.virtSize()...)
		if c.Disk != "" {
			a = append(a, "-drive", fmt.Sprintf(drive+"if=virtio", c.Disk))
		}
		if c.Watchdog {
			a = append(a, "-device", "i6300esb", "-action", "watchdog=reset")
		}
	case Pi3, Pi4:
		card = "usb-net,"
		if c.Disk != "" {
			a = append(a, "-drive", fmt.Sprintf(drive+"if=sd", c.Disk))
		}
		switch {
		case c.Watchdog:
			return nil, fmt.Errorf("machine %s: QEMU's watchdog resets it when it is opened", c.Machine)
		case c.Machine == Pi4 && len(c.NICs) > 0:
			return nil, fmt.Errorf("machine %s: QEMU gives it no network", c.Machine)
		case len(c.NICs) > 1:
			return nil, fmt.Errorf("machine %s: one network card", c.Machine)
		}
	default:
		return nil, fmt.Errorf("machine %q: not known", c.Machine)
	}
	for i, n := range c.NICs {
		if n.Cable == nil {
			return nil, fmt.Errorf("network card %s: no cable", n.MAC)
		}
		back := fmt.Sprintf("stream,id=net%d,server=off,addr.type=fd,addr.str=%d", i, files.nics[i])
		a = append(a, "-netdev", back, "-device", fmt.Sprintf("%snetdev=net%d,id=nic%d,mac=%s", card, i, i, n.MAC))
	}
	return a, nil
}

// virtSize is what a Virt machine is made of; its device tree depends on it.
func (c Config) virtSize() []string {
	memory := c.Memory
	if memory == 0 {
		memory = 512
	}
	return []string{"-cpu", "cortex-a53", "-smp", "1", "-m", fmt.Sprint(memory)}
}

// inherited are file numbers in QEMU.
type inherited struct {
	console, qmp, agent int
	nics                []int // by the index of the card
}
