package update

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// DefaultPort is where kits tell each other how their updates are, TCP.
const DefaultPort = 6085

// Bounds of what kits do for each other.
const (
	maxPeers     = 32 // neighbours that are asked
	maxAsks      = 8  // of them at a time
	maxConns     = 16 // of neighbours that ask
	askWithin    = 4 * time.Second
	askEvery     = 5 * time.Second  // while this kit waits for its turn
	askSeldom    = time.Minute      // else
	maxStatus    = 4 << 10          // bytes
	idleSend     = 30 * time.Minute // a neighbour in whose calls a transfer would be in the way does not read for so long
	sendLimit    = 3 * time.Hour    // of one transfer
	shareRate    = 1 << 20          // bytes a second of a transfer
	offerDelay   = 30 * time.Second // at most, until a kit asks for what it heard of: not all ask the same one at once
	firstBackoff = time.Minute      // after a transfer that failed
	maxBackoff   = 30 * time.Minute
)

const (
	statePath  = "/update/state"
	bundlePath = "/update/bundle"
)

// Peer is a neighbour as discovery sees it. Nothing of it is believed until its certificate proved who it is.
type Peer struct {
	ID       string           // Node-ID
	Addrs    []netip.AddrPort // of its Share, the best first
	Sequence uint64           // of the system that it says it offers; 0: none
}

// ShareConfig is what a Share is made of. All but Log and Offer are required.
type ShareConfig struct {
	Updater  *Updater
	Identity *ident.Identity
	Trust    func() *ident.Trust // of the mission as it is now
	Peers    func() []Peer
	MayServe func(local netip.Addr) bool // whether the overlay uses an address: neighbours are not served elsewhere
	Calls    func() int                  // that pass this kit: transfers wait for their end
	Jitter   func(limit time.Duration) time.Duration
	Offer    bool // hand this kit's system to those who ask
	Take     bool // take a newer one
	Log      *slog.Logger
}

// Share is what the kits of a mission do about updates among themselves: each tells the others over mutually
// authenticated TLS 1.3 how its update is, hands out the bundle that it runs, and takes a newer one. Run owns what it
// knows of the neighbours; Neighbours may be called from any goroutine.
type Share struct {
	cfg     ShareConfig
	sending chan struct{}

	mu   sync.Mutex // guards heard
	seen map[string]heard

	offers map[string]offer // by Node-ID, of Run
}

// heard is what a neighbour said last.
type heard struct {
	status
	at time.Time
}

// status is how a kit's update is, as its neighbours are told.
type status struct {
	State    State  `json:"state"`
	Ready    bool   `json:"ready,omitempty"`
	Claim    bool   `json:"claim,omitempty"`
	Version  string `json:"version"`          // that runs
	Sequence uint64 `json:"sequence"`         // that is offered; 0: none
	Digest   string `json:"sha256,omitempty"` // of its slot
}

// offer is what this kit knows of a neighbour's bundle.
type offer struct {
	sequence uint64
	after    time.Time // it is asked for then
	backoff  time.Duration
}

// NewShare makes a Share.
func NewShare(cfg ShareConfig) *Share {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Share{cfg: cfg, sending: make(chan struct{}, 1), seen: map[string]heard{}, offers: map[string]offer{}}
}

// Neighbours are the kits that answered last, for World.
func (s *Share) Neighbours(now time.Time) []Neighbour {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Neighbour
	for id, h := range s.seen {
		all = append(all, Neighbour{ID: id, State: h.State, Ready: h.Ready, Claim: h.Claim, Age: now.Sub(h.at)})
	}
	return all
}

// Newer is the version and the sequence of the newest system that a neighbour offers and that is newer than this kit's;
// "" and 0 if there is none.
func (s *Share) Newer() (version string, sequence uint64) {
	if s == nil {
		return "", 0
	}
	own := s.cfg.Updater.View().System.Release.Sequence
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.seen {
		if h.Sequence > max(own, sequence) {
			version, sequence = h.Version, h.Sequence
		}
	}
	return version, sequence
}

// Serve answers neighbours on l until ctx ends, and closes l.
func (s *Share) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statePath, s.serveState)
	mux.HandleFunc("GET "+bundlePath, s.serveBundle)
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: askWithin, ReadTimeout: askWithin, WriteTimeout: askWithin, IdleTimeout: time.Minute,
		MaxHeaderBytes: 4 << 10, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	served := netutil.LimitListener(onlyAt{l, s.cfg.MayServe}, maxConns)
	if err := srv.Serve(tls.NewListener(served, s.tls(nil))); ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("updates for neighbours on %s: %w", l.Addr(), err)
	}
	return ctx.Err()
}

// onlyAt takes connections to the overlay's addresses: the socket is bound to all, because they come and go.
type onlyAt struct {
	net.Listener
	may func(netip.Addr) bool
}

// Accept returns the next connection that is to be served.
func (l onlyAt) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if at, err := netip.ParseAddrPort(c.LocalAddr().String()); err == nil && l.may(at.Addr().Unmap()) {
			return c, nil
		}
		_ = c.Close()
	}
}

// tls is mutual, between kits of the mission: by the certificates of the overlay and its rules, which are not those of
// the Web. want is who must be at the other end; nil is any kit.
func (s *Share) tls(want *wire.NodeID) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{s.cfg.Identity.TLSCertificate()},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // VerifyPeerCertificate does it
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			peer, err := s.cfg.Trust().VerifyChain(raw, time.Now())
			switch {
			case err != nil:
				return fmt.Errorf("neighbour's certificate: %w", err)
			case s.cfg.Trust().Revoked(peer.NodeID):
				return fmt.Errorf("neighbour %v: %w", peer.NodeID, ident.ErrRevoked)
			case want != nil && !slices.Contains(peer.NodeIDs, *want):
				return fmt.Errorf("neighbour is %v, not %v", peer.NodeID, *want)
			}
			return nil
		},
	}
}

func (s *Share) status() status {
	v := s.cfg.Updater.View()
	st := status{State: v.State, Ready: v.Ready, Claim: v.Claim, Version: v.System.Release.Version}
	if _, m, ok := s.cfg.Updater.Offer(); ok && s.cfg.Offer {
		st.Sequence, st.Digest = m.Release.Sequence, m.SHA256
	}
	return st
}

func (s *Share) serveState(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.status()) // whoever is gone needs no answer
}

func (s *Share) serveBundle(w http.ResponseWriter, r *http.Request) {
	u := s.cfg.Updater
	if _, _, ok := u.Offer(); !ok || !s.cfg.Offer {
		http.Error(w, "nothing to offer", http.StatusNotFound)
		return
	}
	select {
	case s.sending <- struct{}{}:
		defer func() { <-s.sending }()
	default: // it would take from the radio what the first one needs
		u.sendsRefused.Add(1)
		w.Header().Set("Retry-After", "60")
		http.Error(w, "handing it to another kit", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), sendLimit)
	defer cancel()
	control := http.NewResponseController(w)
	// The server's deadline for requests would end the request's context: it goes on reading to notice who hangs up.
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", MediaType)
	out := &gentle{ctx: ctx, calls: s.cfg.Calls, write: w.Write, control: control}
	if err := u.Send(ctx, out); err != nil {
		s.cfg.Log.Debug("update not handed out", "to", r.RemoteAddr, "err", err)
		panic(http.ErrAbortHandler) // so that the far end sees that it is not whole
	}
	u.sent.Add(1)
}

// gentle moves bytes no faster than shareRate, and none while a call passes: voice goes first on the link between kits.
type gentle struct {
	ctx     context.Context
	calls   func() int
	read    func([]byte) (int, error)
	write   func([]byte) (int, error)
	control *http.ResponseController
	next    time.Time
}

func (g *gentle) wait(n int) error {
	for {
		pause := time.Until(g.next)
		if g.calls() > 0 {
			pause = time.Second
		}
		if pause <= 0 {
			break
		}
		select {
		case <-g.ctx.Done():
			return g.ctx.Err()
		case <-time.After(pause):
		}
	}
	now := time.Now()
	if g.next.Before(now.Add(-time.Second)) {
		g.next = now.Add(-time.Second)
	}
	g.next = g.next.Add(time.Duration(n) * time.Second / shareRate)
	return nil
}

// Write implements io.Writer.
func (g *gentle) Write(b []byte) (int, error) {
	done := 0
	for part := range slices.Chunk(b, 32<<10) {
		if err := g.wait(len(part)); err != nil {
			return done, err
		}
		if err := g.control.SetWriteDeadline(time.Now().Add(idleSend)); err != nil {
			return done, err
		}
		n, err := g.write(part)
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// Read implements io.Reader.
func (g *gentle) Read(b []byte) (int, error) {
	if err := g.wait(0); err != nil {
		return 0, err
	}
	n, err := g.read(b[:min(len(b), 32<<10)])
	g.next = g.next.Add(time.Duration(n) * time.Second / shareRate)
	return n, err
}

// Run asks the neighbours how they are, and takes what is newer, until ctx ends.
func (s *Share) Run(ctx context.Context) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	var fetching sync.WaitGroup
	defer fetching.Wait()
	free := make(chan struct{}, 1)
	free <- struct{}{}
	done := make(chan fetchEnd, 1)
	var asked time.Time
	for {
		peers := s.cfg.Peers()
		peers = peers[:min(len(peers), maxPeers)]
		if now := time.Now(); s.cfg.Updater.View().State == Written || now.Sub(asked) >= askSeldom || s.news(peers) {
			asked = now
			s.askAll(ctx, peers)
		}
		if p, ok := s.choose(time.Now(), peers); ok {
			select {
			case <-free:
				fetching.Go(func() {
					err := s.fetch(ctx, p)
					done <- fetchEnd{p.ID, err}
					free <- struct{}{}
				})
			default: // one at a time
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-done:
			s.ended(time.Now(), e)
		case <-tick.C:
		}
	}
}

type fetchEnd struct {
	id  string
	err error
}

// askAll has every neighbour say how it is, and forgets those that were away for longer than any trial.
func (s *Share) askAll(ctx context.Context, peers []Peer) {
	var all sync.WaitGroup
	turns := make(chan struct{}, maxAsks)
	for _, p := range peers {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			st, err := s.askState(ctx, p)
			if err != nil {
				s.cfg.Log.Debug("neighbour does not tell of its update", "kit", p.ID, "err", err)
				return
			}
			s.mu.Lock()
			s.seen[p.ID] = heard{st, time.Now()}
			s.mu.Unlock()
		})
	}
	all.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, h := range s.seen {
		if time.Since(h.at) > absentFor {
			delete(s.seen, id)
		}
	}
}

// news tells whether a neighbour announces another system than it spoke of when it was asked.
func (s *Share) news(peers []Peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(peers, func(p Peer) bool {
		h, ok := s.seen[p.ID]
		return !ok || h.Sequence != p.Sequence
	})
}

// request asks a neighbour for something, at each of its addresses until one answers.
func (s *Share) request(ctx context.Context, p Peer, path string) (*http.Response, error) {
	id, err := wire.ParseNodeID(p.ID)
	if err != nil {
		return nil, err
	}
	errs := []error{fmt.Errorf("kit %s", short(p.ID))}
	for _, at := range p.Addrs {
		t := &http.Transport{
			DisableKeepAlives: true, MaxResponseHeaderBytes: 4 << 10, ResponseHeaderTimeout: askWithin, TLSHandshakeTimeout: askWithin,
			TLSClientConfig: s.tls(&id), DisableCompression: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{Timeout: askWithin}).DialContext(ctx, network, at.String())
			},
		}
		// An address with a zone is none for an URL, and who is there is proved by the certificate.
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://kit"+path, nil)
		if err != nil {
			return nil, err
		}
		r, err := t.RoundTrip(req)
		if err == nil && r.StatusCode == http.StatusOK {
			return r, nil
		}
		if err == nil {
			err = errors.Join(fmt.Errorf("%s: %s", at, r.Status), r.Body.Close())
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (s *Share) askState(ctx context.Context, p Peer) (st status, err error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	r, err := s.request(ctx, p, statePath)
	if err != nil {
		return st, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(io.LimitReader(r.Body, maxStatus))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, err
	}
	if len(st.Version) > 128 || len(st.Digest) > 64 || len(st.State) > 32 {
		return status{}, errors.New("answer out of bounds")
	}
	return st, nil
}

// choose picks a neighbour whose bundle is to be fetched now.
func (s *Share) choose(now time.Time, peers []Peer) (Peer, bool) {
	v := s.cfg.Updater.View()
	if !s.cfg.Take || v.Trial || v.State == Receiving || v.State == Trying || s.cfg.Calls() > 0 {
		return Peer{}, false
	}
	have := v.System.Release.Sequence
	if v.Manifest != nil {
		have = max(have, v.Manifest.Release.Sequence)
	}
	var best Peer
	var newest uint64
	for _, p := range peers {
		s.mu.Lock()
		h, ok := s.seen[p.ID]
		s.mu.Unlock()
		if !ok || h.Sequence <= have || slices.Contains(v.Failed, h.Digest) {
			delete(s.offers, p.ID)
			continue
		}
		o, known := s.offers[p.ID]
		if !known || o.sequence != h.Sequence {
			o = offer{sequence: h.Sequence, after: now.Add(s.cfg.Jitter(offerDelay))}
			s.offers[p.ID] = o
		}
		if !now.Before(o.after) && h.Sequence > newest {
			best, newest = p, h.Sequence
		}
	}
	return best, newest > 0
}

// ended notes how a transfer went: one that failed is asked for again, later and later.
func (s *Share) ended(now time.Time, e fetchEnd) {
	if e.err == nil {
		delete(s.offers, e.id)
		return
	}
	s.cfg.Log.Info("update not taken from a neighbour", "kit", e.id, "err", e.err)
	o := s.offers[e.id]
	o.backoff = min(max(2*o.backoff, firstBackoff), maxBackoff)
	o.after = now.Add(o.backoff)
	s.offers[e.id] = o
}

// fetch takes the bundle of a neighbour.
func (s *Share) fetch(ctx context.Context, p Peer) error {
	u := s.cfg.Updater
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	r, err := s.request(ctx, p, bundlePath) //nolint:bodyclose // it is, below; the reader in between hides it
	if err != nil {
		u.fetchFails.Add(1)
		return err
	}
	defer r.Body.Close()
	// A neighbour that is in a call sends nothing for as long as it lasts; a person's upload does not wait for that.
	stalled := time.AfterFunc(idleSend, cancel)
	defer stalled.Stop()
	in := &gentle{ctx: ctx, calls: s.cfg.Calls, read: func(b []byte) (int, error) {
		stalled.Reset(idleSend)
		return r.Body.Read(b)
	}}
	if _, err := u.take(ctx, in, cancel); err != nil {
		u.fetchFails.Add(1)
		return err
	}
	u.fetched.Add(1)
	return nil
}
