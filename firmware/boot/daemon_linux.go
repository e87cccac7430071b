package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/boot/initlink"
)

// childLink is the descriptor by which the daemon finds its end of the link.
const childLink = 3

// daemon is one run of it.
type daemon struct {
	pid  int
	end  <-chan syscall.WaitStatus
	link *net.UnixConn
}

// startDaemon starts argv of the program at path, tells it boot, and hands what it asks for to requests, until it
// closes its end. What it writes goes to output.
func startDaemon(p *processes, path string, argv []string, boot initlink.Boot, requests chan<- initlink.Request, output io.Writer) (*daemon, error) {
	ours, theirs, err := linkPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	defer w.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, errors.Join(err, ours.Close(), r.Close())
	}
	defer null.Close()
	pid, end, err := p.start(path, argv, &syscall.ProcAttr{
		Dir: "/",
		Env: []string{
			"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/run/fieldkit", "TMPDIR=/tmp", fmt.Sprintf("%s=%d", initlink.Env, childLink),
		},
		Files: []uintptr{null.Fd(), w.Fd(), w.Fd(), theirs.Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true}, // what it starts ends with it
	})
	if err != nil {
		return nil, errors.Join(err, ours.Close(), r.Close())
	}
	d := &daemon{pid: pid, end: end, link: ours}
	go func() {
		_, _ = io.Copy(output, r)
		_ = r.Close()
	}()
	if err := d.send(initlink.Reply{Boot: &boot}); err != nil {
		_ = d.kill()
		return d, fmt.Errorf("link to the daemon: %w", err)
	}
	go d.listen(requests)
	return d, nil
}

// linkPair makes the two ends of a link.
func linkPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("link to the daemon: %w", err)
	}
	f, theirs := os.NewFile(uintptr(fds[0]), "daemon"), os.NewFile(uintptr(fds[1]), "init")
	c, err := net.FileConn(f)
	err = errors.Join(err, f.Close())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("link to the daemon: %w", err), theirs.Close())
	}
	return c.(*net.UnixConn), theirs, nil
}

func (d *daemon) send(r initlink.Reply) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(b) > initlink.MaxPacket {
		return fmt.Errorf("packet of %d bytes", len(b))
	}
	if err := d.link.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = d.link.Write(b)
	return err
}

// listen hands on requests. What is none is dropped: the daemon may be another version.
func (d *daemon) listen(requests chan<- initlink.Request) {
	b := make([]byte, initlink.MaxPacket)
	for {
		n, err := d.link.Read(b)
		if err != nil || n == 0 {
			return
		}
		var r initlink.Request
		if json.Unmarshal(b[:n], &r) == nil {
			requests <- r
		}
	}
}

func (d *daemon) terminate() error { return unix.Kill(d.pid, unix.SIGTERM) }

// kill ends it and what it started.
func (d *daemon) kill() error { return unix.Kill(-d.pid, unix.SIGKILL) }
