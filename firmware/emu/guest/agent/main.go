//go:build linux

// Command agent runs inside an emulated board and does what a test asks of it over the board's second serial line. The
// kernel starts it first; it starts itself beside, and then becomes the product's first process, so that the product
// boots as it always does. Where the board has no product, it is all that the board boots: how long the bare kernel takes.
//
// It also is what a handset needs that a board has no program for: a DHCP client, a phone, a browser that fetches one page.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/emu/guest"
)

// ttyArgument names the agent's serial line on the kernel's command line.
const ttyArgument = "emu.tty="

func main() {
	var err error
	switch {
	case os.Getpid() == 1:
		err = first()
	case len(os.Args) > 1 && os.Args[1] == "serve":
		err = serve(os.NewFile(3, "tty"))
	default:
		err = handset(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

// first is what the kernel starts.
func first() error {
	tty, err := openTTY()
	if err != nil {
		return err
	}
	if _, err := os.Stat(guest.Init); errors.Is(err, fs.ErrNotExist) {
		return bare(tty)
	}
	beside := exec.CommandContext(context.Background(), guest.Program, "serve")
	beside.ExtraFiles = []*os.File{tty}
	beside.Stderr = os.Stderr
	beside.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := beside.Start(); err != nil {
		return fmt.Errorf("agent beside the product: %w", err)
	}
	return syscall.Exec(guest.Init, append([]string{guest.Init}, os.Args[1:]...), os.Environ())
}

// bare makes the little world that programs expect and serves as the first process.
func bare(tty *os.File) error {
	for _, m := range []struct{ what, where string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.what, m.where, m.what, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("%s: %w", m.where, err)
		}
	}
	fmt.Println("emu: bare kernel ready")
	return serve(tty)
}

func serve(tty *os.File) error {
	err := guest.NewServer(tty).Serve()
	for os.Getpid() == 1 { // the first process must not end
		time.Sleep(time.Hour)
	}
	return err
}

// openTTY opens the agent's serial line. Nothing is mounted when it runs, and nothing stays mounted.
func openTTY() (*os.File, error) {
	sys := filepath.Join(guest.Dir, "sys")
	proc := filepath.Join(guest.Dir, "proc")
	for _, m := range []struct{ what, where string }{{"proc", proc}, {"sysfs", sys}} {
		if err := os.MkdirAll(m.where, 0o700); err != nil {
			return nil, err
		}
		if err := unix.Mount(m.what, m.where, m.what, 0, ""); err != nil {
			return nil, fmt.Errorf("%s: %w", m.where, err)
		}
		defer func() { _ = unix.Unmount(m.where, unix.MNT_DETACH) }()
	}
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return nil, err
	}
	name := ""
	for _, a := range strings.Fields(string(cmdline)) {
		if s, ok := strings.CutPrefix(a, ttyArgument); ok {
			name = s
		}
	}
	if name == "" {
		return nil, fmt.Errorf("serial line: the kernel was given no %sNAME", ttyArgument)
	}
	number, err := os.ReadFile(filepath.Join(sys, "class/tty", name, "dev"))
	if err != nil {
		return nil, fmt.Errorf("serial line: %w", err)
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(number), "%d:%d", &major, &minor); err != nil {
		return nil, fmt.Errorf("serial line %s: %w", name, err)
	}
	node := filepath.Join(guest.Dir, name)
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return nil, fmt.Errorf("serial line %s: %w", name, err)
	}
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("serial line %s: %w", name, err)
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("serial line %s: %w", name, err)
	}
	// As cfmakeraw(3): bytes as they are, none echoed.
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CLOCAL
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("serial line %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
