//go:build linux

package pair

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fieldkit/board/netif"
	"fieldkit/board/simnet/netns"
)

func TestMain(m *testing.M) {
	child()
	goleak.VerifyTestMain(m)
}

// The kits of these tests are processes in network namespaces of their own: this test program again, with a Pairer and a
// membership in memory, that is told of presses on its standard input and says what it shows on its output.

const childEnv = "FIELDKIT_PAIR_TEST"

// said is a line of a child.
type said struct {
	Status Status
	Joined string // mission that it took over
	Again  bool   // it wants to be restarted
	Stats  *Stats
}

const testPort = 6090

// memory is a Membership that enrols by a form of its own: what the shell needs of one.
type memory struct {
	facts Facts
	say   func(said)
	fail  bool
}

func (m memory) Facts() (Facts, error) { return m.facts, nil }

func (m memory) Admit(account, password string) (*Admission, error) {
	s, err := NewSession() // any certificate does
	if err != nil {
		return nil, err
	}
	return &Admission{
		Offer: []byte("the mission of " + m.facts.Kit), Certificate: s.cert, Close: func() error { return nil },
		Enrolment: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, pass, _ := r.BasicAuth(); m.fail || user != account || pass != password {
				http.Error(w, "who?", http.StatusForbidden)
				return
			}
			_, _ = io.WriteString(w, "welcome")
		}),
	}, nil
}

func (m memory) Join(ctx context.Context, i Invitation) error {
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return i.Dial(ctx) },
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://kit/", nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth(i.Account, i.Password)
	r, err := c.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", r.StatusCode)
	}
	m.say(said{Joined: string(i.Offer)})
	return nil
}

// child is the process of a kit, if this is one.
func child() {
	setting := os.Getenv(childEnv)
	if setting == "" {
		return
	}
	var mu sync.Mutex
	say := func(s said) {
		mu.Lock()
		defer mu.Unlock()
		if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
			os.Exit(1)
		}
	}
	m := memory{say: say, fail: strings.Contains(setting, "fail")}
	if err := json.Unmarshal([]byte(os.Getenv(childEnv+"_FACTS")), &m.facts); err != nil {
		panic(err)
	}
	p, err := New(Config{
		Port: testPort, Membership: m, OnStatus: func(s Status) { say(said{Status: s}) }, OnRestart: func() { say(said{Again: true}) },
		Links: func() (links []Link) {
			ifs, _ := netif.List()
			for _, i := range ifs {
				if i.Role() == netif.Link {
					links = append(links, Link{i.Name, i.Index})
				}
			}
			return links
		},
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "hold":
			p.Press()
		case "tap":
			p.Tap()
		case "stats":
			s := p.Stats()
			say(said{Stats: &s})
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		panic(err)
	}
	os.Exit(0)
}

// kit is one of these processes.
type kit struct {
	t    *testing.T
	name string
	host *netns.Host
	in   io.WriteCloser
	out  chan said
	last Status
	done chan error
}

// kits starts one process for each of facts, all on one switch.
func kits(t *testing.T, setting string, all ...Facts) []*kit {
	t.Helper()
	if err := netns.Supported(); err != nil {
		t.Fatalf("network namespaces are needed: %v", err)
	}
	hub, err := netns.New("hub")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	var ports []string
	var list []*kit
	for i, f := range all {
		k := &kit{t: t, name: fmt.Sprintf("kit%d", i), out: make(chan said, 64), done: make(chan error, 1)}
		if k.host, err = netns.New(k.name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.host.Close)
		port := fmt.Sprintf("p%d", i)
		// Without duplicate address detection, which only costs time here.
		noDAD := func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0o644) }
		if err := errors.Join(netns.Veth(hub, port, k.host, "eth0"), k.host.Do(noDAD), k.host.Up("eth0")); err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
		k.start(setting, f)
		list = append(list, k)
	}
	if err := hub.Bridge("br", ports...); err != nil {
		t.Fatal(err)
	}
	return list
}

func (k *kit) start(setting string, f Facts) {
	k.t.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		k.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		k.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"=1 "+setting, childEnv+"_FACTS="+string(b))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	if k.in, err = cmd.StdinPipe(); err != nil {
		k.t.Fatal(err)
	}
	if err := k.host.Start(cmd); err != nil {
		k.t.Fatal(err)
	}
	go func() {
		for dec := json.NewDecoder(out); ; {
			var s said
			if dec.Decode(&s) != nil {
				break
			}
			k.out <- s
		}
		k.done <- cmd.Wait()
	}()
	k.t.Cleanup(func() {
		_ = k.in.Close()
		select {
		case err := <-k.done:
			if err != nil {
				k.t.Errorf("%s: %v", k.name, err)
			}
		case <-time.After(10 * time.Second):
			k.t.Errorf("%s does not end", k.name)
			_ = cmd.Process.Kill()
			<-k.done
		}
	})
}

func (k *kit) do(what string) {
	k.t.Helper()
	if _, err := io.WriteString(k.in, what+"\n"); err != nil {
		k.t.Fatalf("%s: %v", k.name, err)
	}
}

// until reads what the kit says until it is what is wanted, and returns that.
func (k *kit) until(what string, want func(said) bool) said {
	k.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case s := <-k.out:
			if s.Joined == "" && !s.Again && s.Stats == nil {
				k.last = s.Status
			}
			if want(s) {
				return s
			}
		case <-limit:
			k.t.Fatalf("%s: not %s; stage %v, why %v", k.name, what, k.last.Stage, k.last.Why)
		}
	}
}

func (k *kit) stage(s Stage) Status {
	k.t.Helper()
	return k.until(s.String(), func(x said) bool { return x.Joined == "" && !x.Again && x.Stats == nil && x.Status.Stage == s }).Status
}

func (k *kit) ends(why Why) {
	k.t.Helper()
	if s := k.stage(Ended); s.Why != why {
		k.t.Errorf("%s: %v, want %v", k.name, s.Why, why)
	}
}
