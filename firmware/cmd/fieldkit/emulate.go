package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"fieldkit/firmware/card"
	"fieldkit/firmware/emu"
	"fieldkit/firmware/image"
)

// emulateCommand is `fieldkit emulate`.
type emulateCommand struct {
	Image   string `arg:"" optional:"" help:"Image of a card, build/card/card.img if not given. It is not changed: the board gets a copy." type:"existingfile"`
	Machine string `help:"Board: ${enum}." enum:"raspi3b,raspi4b,virt" default:"raspi3b"`
	Keep    string `help:"Keep the board's card in this file, and go on with it if it is there." placeholder:"FILE"`
}

// Run boots the image on this machine and shows its console and its LEDs until Ctrl-C.
func (c emulateCommand) Run(ctx context.Context) (err error) {
	if c.Image == "" { // no default of the tag, which kong leaves out for files
		c.Image = filepath.Join("build", "card", image.ImageFile)
		if _, err := os.Stat(c.Image); err != nil {
			return fmt.Errorf("%w: make image builds it", err)
		}
	}
	dir, err := os.MkdirTemp("", "fieldkit-emulate-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	disk := c.Keep
	if disk == "" {
		disk = filepath.Join(dir, "card.img")
	}
	if _, err := os.Stat(disk); err != nil {
		if err := copyCard(c.Image, disk); err != nil {
			return err
		}
	}
	o := emu.Options{Machine: emu.Machine(c.Machine), Card: disk, Dir: dir, Serial: "00000000e0000001"}
	if o.Machine == emu.Virt {
		o.Watchdog = true
	} else {
		o.Cmdline = "fieldkit.watchdog=0" // opening QEMU's resets the machine
	}
	return emu.Show(ctx, os.Stdout, emu.NewBoard(o))
}

// copyCard copies an image. The copy has the size of the layout, which emulated card readers take.
func copyCard(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	if info.Size() != card.Size {
		return fmt.Errorf("%s: %d bytes, and an image has %d", from, info.Size(), card.Size)
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(dst, src); err != nil {
		_ = dst.Close()
		return fmt.Errorf("copy of %s: %w", from, err)
	}
	return dst.Close()
}
