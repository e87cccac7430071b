package main

import (
	"context"
	"io"
	"net/netip"
	"os"
	"strings"

	"fieldkit/firmware/lab/phone"
)

type phoneCommand struct {
	Server    string  `help:"Where to register, ADDRESS:PORT." default:"10.73.0.1:5060"`
	User      string  `help:"Number or name of the account." required:""`
	Password  string  `help:"Of the account." env:"FIELDKIT_PASSWORD" required:""`
	Domain    string  `help:"Of the address; the server's if not given."`
	Transport string  `help:"${enum}." enum:"udp,tcp" default:"udp"`
	Local     string  `help:"Address to send from; found by the route to the server if not given." placeholder:"ADDRESS"`
	Tone      float64 `help:"Hz, what the phone says." default:"440"`
	Expect    float64 `help:"Hz, what it expects to hear."`
	Answer    string  `help:"What it does with calls that come in: ${enum}." enum:"answer,busy,ring" default:"answer"`
	Call      string  `help:"Number or name to call at once." placeholder:"NUMBER"`
}

// Run prints events and takes commands, a JSON object a line each; see package phone.
func (c phoneCommand) Run(ctx context.Context) error {
	server, err := netip.ParseAddrPort(c.Server)
	if err != nil {
		return err
	}
	cfg := phone.Config{
		Server: server, Transport: c.Transport, User: c.User, Password: c.Password, Domain: c.Domain,
		Tone: c.Tone, ExpectTone: c.Expect,
	}
	if c.Local != "" {
		if cfg.Local, err = netip.ParseAddr(c.Local); err != nil {
			return err
		}
	}
	switch c.Answer {
	case "busy":
		cfg.Answer.Reject = 486
	case "ring":
		cfg.Answer.Never = true
	}
	var in io.Reader = os.Stdin
	if c.Call != "" {
		in = io.MultiReader(strings.NewReader(`{"cmd":"call","target":"`+c.Call+`"}`+"\n"), in)
	}
	return phone.Main(ctx, in, os.Stdout, cfg)
}
