package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"fieldkit/firmware/image"
)

// imageCommand is `fieldkit image`.
type imageCommand struct {
	Mission string `short:"m" help:"Mission file: make cards of this mission." type:"existingfile" placeholder:"FILE"`
	Country string `help:"Country in which the cards are used, such as DE: which radio channels their kits may use." placeholder:"CC"`
	Count   int    `help:"How many cards to make, each with a number and a name." placeholder:"N"`
	First   int    `help:"Number of the first kit, 100 to 899, from which the others count up; drawn if not given." placeholder:"NUMBER"`
	Base    string `help:"Image to make the cards of, .img or .img.zst; built if not given." type:"existingfile" placeholder:"FILE"`
	Out     string `short:"o" help:"Directory to write to; build/card if not given, with --base that of the image." placeholder:"DIR"`

	Kernel string `help:"Kernel: rpi for the boards, debian for tests and radio meshes, or a directory with one." default:"rpi"`
	Source string `help:"The project's source tree." default:"." type:"existingdir" placeholder:"DIR"`
	Cache  string `help:"Directory of what was fetched; .cache/image in the source tree if not given." placeholder:"DIR"`
}

// Run builds the neutral image, or makes cards of it.
func (c imageCommand) Run(ctx context.Context) error {
	personal := c.Mission != "" || c.Country != "" || c.Count != 0 || c.First != 0
	if c.Base != "" && !personal {
		return errors.New("--base is what cards are made of: say which, with --mission, --country or --count")
	}
	if c.Base == "" {
		r, err := c.build(ctx)
		if err != nil {
			return err
		}
		c.Base = r.Image
		if err := r.Report(os.Stdout); err != nil || !personal {
			return err
		}
		fmt.Println()
	}
	if c.Out == "" {
		c.Out = filepath.Dir(c.Base)
	}
	made, err := image.Personalise(image.Cards{
		Base: c.Base, Out: c.Out, Mission: c.Mission, Country: c.Country, Count: max(1, c.Count), First: c.First,
	})
	if err != nil {
		return err
	}
	return made.Report(os.Stdout)
}

func (c imageCommand) build(ctx context.Context) (*image.Result, error) {
	root, err := image.Root(c.Source)
	if err != nil {
		return nil, fmt.Errorf("%w; elsewhere cards are made of an image that is there, with --base", err)
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
	return image.Build(ctx, image.Options{Source: root, Out: c.Out, Cache: c.Cache, Kernel: c.Kernel, Log: os.Stderr})
}
