package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"fieldkit/firmware/card"
	"fieldkit/firmware/config"
	"fieldkit/firmware/label"
	"fieldkit/firmware/mission"
)

type labelCommand struct {
	Card    []string `arg:"" optional:"" help:"Images or cards made by 'fieldkit image', one label each." placeholder:"CARD" type:"existingfile"`
	Mission string   `short:"m" help:"Mission file, for one label without an image." placeholder:"FILE" type:"existingfile"`
	Number  int      `help:"With --mission: the kit's number." placeholder:"N"`
	Name    string   `help:"With --mission: the kit's name." placeholder:"NAME"`
	Out     string   `short:"o" help:"HTML file to write; - is standard output." default:"labels.html" placeholder:"FILE"`
}

func (c labelCommand) Run() error {
	labels, err := c.labels()
	if err != nil {
		return err
	}
	if c.Out == "-" {
		return label.Sheet(os.Stdout, labels)
	}
	// The passphrase is in it.
	f, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(label.Sheet(f, labels), f.Close()); err != nil {
		return err
	}
	fmt.Printf("Labels are in %s, %d of them. Open it in a browser and print it; it carries the Wi-Fi's passphrase, as the boxes will.\n", c.Out, len(labels))
	return nil
}

func (c labelCommand) labels() ([]label.Label, error) {
	if (len(c.Card) == 0) == (c.Mission == "") {
		return nil, errors.New("label: name the images that 'fieldkit image' made, or a mission file with --mission")
	}
	if c.Mission != "" {
		m, err := mission.Load(c.Mission)
		if err != nil {
			return nil, err
		}
		return []label.Label{labelOf(m, config.Kit{Number: c.Number, Name: c.Name})}, nil
	}
	if c.Number != 0 || c.Name != "" {
		return nil, errors.New("label: --number and --name go with --mission; an image has its own")
	}
	var labels []label.Label
	for _, path := range c.Card {
		l, err := labelOfCard(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		labels = append(labels, l)
	}
	return labels, nil
}

// labelOfCard reads what the card was made with, which its kit erases when it first starts.
func labelOfCard(path string) (label.Label, error) {
	f, err := os.Open(path)
	if err != nil {
		return label.Label{}, err
	}
	defer f.Close()
	p, err := card.ReadPersonal(f)
	switch {
	case errors.Is(err, card.ErrNoPersonal):
		return label.Label{}, errors.New("this card was made without a mission, or has started once; name the mission file with --mission")
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return label.Label{}, errors.New("too short for the image of a card; unpack it if it is compressed")
	case err != nil:
		return label.Label{}, err
	}
	cfg, err := config.Parse(p.Kit)
	if err != nil {
		return label.Label{}, err
	}
	m, err := mission.Parse(p.Mission)
	if err != nil {
		return label.Label{}, err
	}
	return labelOf(m, cfg.Kit), nil
}

func labelOf(m *mission.Mission, k config.Kit) label.Label {
	return label.Label{
		Number: k.Number, Name: k.Name, Mission: m.Name, SSID: m.WiFi.SSID, Passphrase: m.WiFi.Passphrase,
		Page: "http://" + mission.Server + "/",
	}
}
