package main

import (
	"context"
	"os"
	"path/filepath"

	"fieldkit/firmware/image"
)

// imageCommand is `fieldkit image`.
type imageCommand struct {
	Out    string `short:"o" help:"Directory to build in." placeholder:"DIR"`
	Kernel string `help:"Kernel: rpi for the boards, debian for tests and radio meshes, or a directory with one." default:"rpi" placeholder:"KERNEL"`
	Source string `help:"The project's source tree." default:"." type:"existingdir"`
	Cache  string `help:"Directory of what was fetched." placeholder:"DIR"`
}

// Run builds the image.
func (c imageCommand) Run(ctx context.Context) error {
	root, err := image.Root(c.Source)
	if err != nil {
		return err
	}
	if c.Out == "" {
		c.Out = filepath.Join(root, "build", "card")
		if c.Kernel != image.KernelPi {
			c.Out += "-" + filepath.Base(c.Kernel)
		}
	}
	if c.Cache == "" {
		c.Cache = filepath.Join(root, ".cache", "image")
	}
	r, err := image.Build(ctx, image.Options{Source: root, Out: c.Out, Cache: c.Cache, Kernel: c.Kernel, Log: os.Stderr})
	if err != nil {
		return err
	}
	return r.Report(os.Stdout)
}
