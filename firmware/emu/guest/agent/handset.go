//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"fieldkit/firmware/lab/phone"
)

// handset carries out one of the agent's own commands.
func handset(args []string) error {
	if len(args) == 0 {
		return errors.New("no command")
	}
	commands := map[string]func([]string) error{
		"get": get, "post": post, "netns": makeNetns, "phy": movePhy, "up": bringUp, "dhcp": lease, "phone": runPhone, "sleep": sleep, "daemon": findDaemon, "alone": alone,
		"wire": wire, "wpa": wpa, "hold": hold,
	}
	c, ok := commands[args[0]]
	if !ok {
		return fmt.Errorf("command %q: not known", args[0])
	}
	if err := c(args[1:]); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// hold takes a TCP address as soon as nobody else has it, says so, and keeps it.
func hold(args []string) error {
	if len(args) != 1 {
		return errors.New("one address")
	}
	for {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", args[0])
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		fmt.Println("holding")
		for {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			if err := c.Close(); err != nil {
				return err
			}
		}
	}
}

// post sends a file of a media type, as a browser or a program sends an update, and prints the answer.
func post(args []string) error {
	if len(args) != 3 {
		return errors.New("a file, its media type, an address")
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, args[2], f)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", args[1])
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := fmt.Println(r.Status); err != nil {
		return err
	}
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}

// get fetches a page and prints it.
func get(args []string) error {
	if len(args) != 1 {
		return errors.New("one address")
	}
	c := &http.Client{
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, args[0], nil)
	if err != nil {
		return err
	}
	r, err := c.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", args[0], r.Status)
	}
	_, err = io.Copy(os.Stdout, r.Body)
	return err
}

// sleep does nothing until it is killed: it holds a place in a process list.
func sleep([]string) error { select {} }

// makeNetns makes a network namespace that a file holds.
func makeNetns(args []string) error {
	if len(args) != 1 {
		return errors.New("one file")
	}
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	runtime.LockOSThread() // never unlocked: the program ends
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), args[0], "", unix.MS_BIND, "")
}

// findDaemon prints the PID of the product's daemon: the child of PID 1 that runs PID 1's program.
func findDaemon([]string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if f := strings.Fields(rest); len(f) < 2 || f[1] != "1" {
			continue
		}
		cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil {
			continue
		}
		if name, _, _ := strings.Cut(string(cmdline), "\x00"); name == "fieldkitd" || strings.HasSuffix(name, "/fieldkitd") {
			fmt.Println(e.Name())
			return nil
		}
	}
	return errors.New("it does not run")
}

// runPhone is a phone that is told what to do by its input and says by its output how that went; see package phone.
func runPhone(args []string) error {
	f := flag.NewFlagSet("phone", flag.ContinueOnError)
	server := f.String("server", "10.73.0.1:5060", "")
	user := f.String("user", "", "")
	local := f.String("local", "", "")
	tone := f.Float64("tone", 440, "")
	expect := f.Float64("expect", 0, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	cfg := phone.Config{User: *user, Password: os.Getenv("FIELDKIT_PASSWORD"), Tone: *tone, ExpectTone: *expect}
	var err error
	if cfg.Server, err = netip.ParseAddrPort(*server); err != nil {
		return err
	}
	if *local != "" {
		if cfg.Local, err = netip.ParseAddr(*local); err != nil {
			return err
		}
	}
	return phone.Main(context.Background(), os.Stdin, os.Stdout, cfg)
}

func print(v any) error { return json.NewEncoder(os.Stdout).Encode(v) }
