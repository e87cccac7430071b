package agent

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"fieldkit/sip/media"
	"fieldkit/sip/proxy"
	"fieldkit/sip/registrar"
)

// Config is what an agent is made of. Zero values of optional fields take the
// defaults named.
type Config struct {
	// Address is the handset address: what is bound, and what handsets are told.
	Address netip.Addr
	// Port of UDP and TCP; 5060 if zero.
	Port uint16
	// Hosts are further names a handset may write for this kit.
	Hosts []string
	// Overlay is the domain of every address-of-record.
	Overlay string
	// Kit is this kit's name in the directory: its Node-ID in hex.
	Kit string
	// Network, when valid, is the only one handsets are served from.
	Network netip.Prefix
	// Accounts are the handsets of the mission; see also [Agent.SetAccounts].
	Accounts []registrar.Account
	// Directory and Trunks lead to the other kits. Nil: this kit is alone.
	Directory proxy.Directory
	Trunks    proxy.Trunks
	// Relay carries the media.
	Relay *media.Relay
	// Saved are the bindings before the restart. Save is called from a goroutine
	// of its own, after changes and at the end; nil: nothing is kept.
	Saved registrar.Snapshot
	Save  func(registrar.Snapshot)
	// OnChange is called from the agent's loop when handsets or calls changed. It
	// must neither block nor call the agent; wake another goroutine.
	OnChange func()
	// Ring is how long phones ring; 60 s if zero.
	Ring time.Duration
	// Emergency are the numbers that are admitted whatever the load.
	Emergency []string
	Limits    Limits
	// Log receives what happens; nil discards.
	Log *slog.Logger
}

// Limits bound what handsets can make the kit hold and do. What is over a limit
// is answered 503 with Retry-After where that costs no state, and counted.
type Limits struct {
	SourceRate, SourceBurst   int // messages per second of one address; 100, 400
	GlobalRate, GlobalBurst   int // of all together; 2000, 4000
	Sources                   int // addresses remembered; 1024
	Transactions              int // server transactions (UDP holds each for 32 s); 2048
	SourceTransactions        int // of one address; 512
	Calls, SourceCalls        int // calls at a time; 256, 32
	Connections, SourceStream int // TCP connections; 256, 16
	Trunks                    int // trunks at a time; 256
	Lookups                   int // directory and trunk requests under way; 64
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		v *int
		n int
	}{
		{&l.SourceRate, 100}, {&l.SourceBurst, 400}, {&l.GlobalRate, 2000}, {&l.GlobalBurst, 4000},
		{&l.Sources, 1024}, {&l.Transactions, 2048}, {&l.SourceTransactions, 512},
		{&l.Calls, 256}, {&l.SourceCalls, 32}, {&l.Connections, 256}, {&l.SourceStream, 16},
		{&l.Trunks, 256}, {&l.Lookups, 64},
	} {
		*d.v = cmp.Or(*d.v, d.n)
	}
	return l
}

// ErrConfig is wrapped by the errors of [New].
var ErrConfig = errors.New("telephony configuration")

func (c *Config) complete() error {
	if !c.Address.IsValid() {
		return fmt.Errorf("%w: no handset address", ErrConfig)
	}
	if c.Overlay == "" || c.Kit == "" {
		return fmt.Errorf("%w: no overlay or kit name", ErrConfig)
	}
	c.Address = c.Address.Unmap()
	c.Port = cmp.Or(c.Port, 5060)
	if c.Emergency == nil {
		c.Emergency = []string{"112", "911", "999", "000", "110", "118", "119"}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Limits = c.Limits.withDefaults()
	return nil
}
