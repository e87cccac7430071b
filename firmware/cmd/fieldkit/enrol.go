package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/overlay/config"
	"fieldkit/overlay/enrol"
)

type enrolCommands struct {
	Add    enrolAdd    `cmd:"" help:"Make an account that may enrol once, and again, and say its password."`
	List   enrolList   `cmd:"" help:"List the accounts and the Node-IDs that they got."`
	Server enrolServer `cmd:"" help:"Let kits in: run the enrolment and configuration server of a mission."`
	Join   enrolJoin   `cmd:"" help:"Get a kit in: enrol it at the server and keep what it got in its state directory."`
}

type enrolAdd struct {
	Name    string   `arg:"" help:"Name of the account, for example of the kit."`
	Mission string   `short:"m" required:"" help:"Mission file." placeholder:"FILE" type:"existingfile"`
	User    []string `help:"User name, name@overlay, that its certificate may carry. Without one the account is a kit's." placeholder:"AOR"`
	Nodes   int      `help:"How many Node-IDs it may have." default:"1"`
}

func (c enrolAdd) Run() error { return c.write(os.Stdout) }

func (c enrolAdd) write(w io.Writer) error {
	m, err := mission.Load(c.Mission)
	if err != nil {
		return err
	}
	if _, err := enrolmentURL(m.Document()); err != nil {
		return fmt.Errorf("%s: %w", c.Mission, err)
	}
	if !m.HasRootKey() { // the accounts would lie beside a file with which no server runs
		return fmt.Errorf("%s: %w", c.Mission, mission.ErrNoRootKey)
	}
	secret, err := mission.BookOf(c.Mission).AddAccount(c.Name, c.User, c.Nodes)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "Account %q may enrol. It is asked for\n  password  %s\nwhich is not shown again.\n", c.Name, secret)
	return err
}

type enrolList struct {
	Mission string `short:"m" required:"" help:"Mission file." placeholder:"FILE" type:"existingfile"`
}

func (c enrolList) Run() error { return c.write(os.Stdout) }

func (c enrolList) write(w io.Writer) error {
	all, err := enrol.List(mission.BookOf(c.Mission))
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ACCOUNT\tFOR\tNODE-IDS")
	for _, a := range all {
		who := strings.Join(a.Users, ", ")
		if a.Kit {
			who = "a kit"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", a.Name, who, strings.Join(a.NodeIDs, ", "))
	}
	return t.Flush()
}

type enrolServer struct {
	Mission string     `short:"m" required:"" help:"Mission file, with its root key." placeholder:"FILE" type:"existingfile"`
	Listen  string     `help:"Address to listen on; the port of the mission's enrolment server if not given." placeholder:"HOST:PORT"`
	Log     slog.Level `help:"What the server says: debug, info, warn or error." default:"info"`
}

func (c enrolServer) Run(ctx context.Context) error {
	m, err := mission.Load(c.Mission)
	if err != nil {
		return err
	}
	if c.Listen == "" {
		if c.Listen, err = listenAddress(m); err != nil {
			return fmt.Errorf("%s: %w", c.Mission, err)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	return c.serve(ctx, l, os.Stdout, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: c.Log})))
}

func listenAddress(m *mission.Mission) (string, error) {
	u, err := enrolmentURL(m.Document())
	if err != nil {
		return "", err
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return ":" + port, nil
}

func enrolmentURL(d *config.Document) (*url.URL, error) {
	if len(d.Rest.EnrollmentServers) == 0 {
		return nil, errors.New("the mission has no enrolment server: kits let themselves in with its root key. `fieldkit mission new --enrol URL` makes one that has")
	}
	u, err := url.Parse(d.Rest.EnrollmentServers[0])
	if err != nil || !strings.EqualFold(u.Scheme, "https") || u.Host == "" {
		return nil, fmt.Errorf("enrolment server %q: not an https URL", d.Rest.EnrollmentServers[0])
	}
	return u, nil
}

// serve answers on l until ctx ends.
func (c enrolServer) serve(ctx context.Context, l net.Listener, w io.Writer, log *slog.Logger) error {
	defer func() { _ = l.Close() }()
	m, err := mission.Load(c.Mission)
	if err != nil {
		return err
	}
	a, err := m.Authority()
	if err != nil {
		return fmt.Errorf("%s: %w", c.Mission, err)
	}
	u, err := enrolmentURL(m.Document())
	if err != nil {
		return err
	}
	names, addrs := serverNames(m.Document())
	cert, err := a.ServerCertificate(names, addrs)
	if err != nil {
		return err
	}
	in := &inForce{path: c.Mission, doc: m.Document(), log: log}
	s, err := enrol.NewServer("/"+strings.TrimPrefix(u.Path, "/"), enrol.ServerConfig{
		Authority: a, Document: in.document, Book: mission.BookOf(c.Mission), Log: log,
	})
	if err != nil {
		return err
	}
	h := &http.Server{
		Handler: s, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}},
		ReadTimeout: 20 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 20 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = h.Close() })
	defer stop()
	if _, err := fmt.Fprintf(w, "Enrolling for mission %q at %s, listening on %s.\nRoot certificate, SHA-256: %x\n", m.Name, u, l.Addr(), sha256.Sum256(a.Certificate().Raw)); err != nil {
		return err
	}
	if err := h.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serverNames are what the server's certificate is for: the overlay name, which RFC 6940 §11.3 wants, and the hosts
// under which the document names it.
func serverNames(d *config.Document) (names []string, addrs []netip.Addr) {
	names = []string{d.InstanceName}
	for _, s := range d.Rest.EnrollmentServers {
		u, err := url.Parse(s)
		if err != nil {
			continue // the document has URLs only
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil {
			addrs = append(addrs, a)
		} else if u.Hostname() != d.InstanceName {
			names = append(names, u.Hostname())
		}
	}
	return names, addrs
}

// inForce is the document in a mission file that may change while the server runs, by a revocation for one.
type inForce struct {
	path string
	log  *slog.Logger
	mu   sync.Mutex
	at   time.Time
	doc  *config.Document
}

func (i *inForce) document() *config.Document {
	i.mu.Lock()
	defer i.mu.Unlock()
	info, err := os.Stat(i.path)
	if err == nil && info.ModTime().Equal(i.at) {
		return i.doc
	}
	var m *mission.Mission
	if err == nil {
		m, err = mission.Load(i.path)
	}
	switch {
	case err != nil:
		i.log.Warn("mission file not read; the document before stays", "err", err)
	case m.Overlay != i.doc.InstanceName:
		i.log.Warn("mission file of another mission; the document before stays", "overlay", m.Overlay)
	default:
		i.doc, i.at = m.Document(), info.ModTime()
	}
	return i.doc
}

type enrolJoin struct {
	URL      string `arg:"" optional:"" help:"Where to enrol; the mission's enrolment server if not given."`
	Mission  string `short:"m" required:"" help:"Mission file, without its root key as fieldkit mission export writes it." placeholder:"FILE" type:"existingfile"`
	Account  string `short:"a" required:"" help:"Name of the account."`
	Password string `help:"File with the password; asked for if not given." placeholder:"FILE" type:"existingfile"`
	State    string `help:"State directory of the kit." default:"/var/lib/fieldkit" type:"path"`
}

func (c enrolJoin) Run(ctx context.Context) error { return c.join(ctx, os.Stdin, os.Stdout) }

func (c enrolJoin) join(ctx context.Context, in io.Reader, w io.Writer) error {
	m, err := mission.Load(c.Mission)
	if err != nil {
		return err
	}
	d := *m.Document()
	if c.URL != "" {
		d.Rest.EnrollmentServers = []string{c.URL}
	}
	if _, err := enrolmentURL(&d); err != nil {
		return fmt.Errorf("%s: %w", c.Mission, err)
	}
	password, err := c.password(in, w)
	if err != nil {
		return err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a board may have none, and needs none
	}
	for _, r := range m.Document().RootCerts {
		roots.AddCert(r)
	}
	client := &enrol.Client{Roots: roots}
	key, err := mission.StateKey(c.State)
	if err != nil {
		return err
	}
	id, err := client.Enrol(ctx, &d, enrol.Request{Account: c.Account, Password: password, Key: key})
	if err != nil {
		return err
	}
	if m, err = newest(ctx, client, m, &d); err != nil {
		fmt.Fprintf(w, "The configuration of the file stays: %v\n", err)
	}
	if err := mission.Keep(c.State, m, id); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "The kit is in mission %q, with Node-ID %s. It takes part from its next start on.\n", m.Name, id.NodeID())
	return err
}

// newest is m with the document that the server has, if that is a newer one.
func newest(ctx context.Context, client *enrol.Client, m *mission.Mission, d *config.Document) (*mission.Mission, error) {
	u, err := enrolmentURL(d)
	if err != nil {
		return m, err
	}
	u.Path, u.RawQuery = enrol.WellKnown, ""
	got, err := client.Configuration(ctx, m.Overlay, u.String(), m.Document())
	if err != nil || got.Same(m.Document()) {
		return m, err
	}
	newer, err := m.WithDocument(got)
	if err != nil {
		return m, err
	}
	return newer, nil
}

func (c enrolJoin) password(in io.Reader, w io.Writer) (string, error) {
	if c.Password != "" {
		f, err := os.Open(c.Password)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		in = f
	} else if _, err := fmt.Fprintf(w, "Password of account %q: ", c.Account); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(io.LimitReader(in, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
