package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fieldkit/firmware/card"
	"fieldkit/firmware/mission"
)

func TestLabels(t *testing.T) {
	dir := t.TempDir()
	m, err := mission.New("relief", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "relief.mission")
	if err := m.Save(file); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	area := func(p card.Personal) string {
		b, err := card.EncodePersonal(p)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "card.img")
		if err := os.WriteFile(path, append(make([]byte, card.PersonalOffset), b...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	made := area(card.Personal{Kit: []byte("kit.number = 412\nkit.name = 'MAPLE 412'\n"), Mission: content})
	labels, err := labelCommand{Card: []string{made}}.labels()
	if err != nil {
		t.Fatal(err)
	}
	got := labels[0]
	if len(labels) != 1 || got.Number != 412 || got.Name != "MAPLE 412" || got.SSID != m.WiFi.SSID || got.Passphrase != m.WiFi.Passphrase || got.Mission != "relief" {
		t.Errorf("label of the card: %+v", labels)
	}
	labels, err = labelCommand{Mission: file, Number: 412, Name: "MAPLE 412"}.labels()
	if err != nil || len(labels) != 1 || labels[0] != got {
		t.Errorf("label of the mission file: %+v, %v, want %+v", labels, err, got)
	}

	neutral, short := filepath.Join(dir, "neutral.img"), filepath.Join(dir, "short.img")
	if err := os.WriteFile(neutral, make([]byte, card.PersonalOffset+card.PersonalSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(short, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		command    labelCommand
	}{
		{"nothing named", "--mission", labelCommand{}},
		{"both named", "--mission", labelCommand{Card: []string{made}, Mission: file}},
		{"number for a card", "--number", labelCommand{Card: []string{made}, Number: 101}},
		{"neutral card", "without a mission", labelCommand{Card: []string{made, neutral}}},
		{"not an image", "too short", labelCommand{Card: []string{short}}},
		{"bad settings", "kit.nmber", labelCommand{Card: []string{area(card.Personal{Kit: []byte("kit.nmber = 1"), Mission: content})}}},
		{"bad mission", "mission", labelCommand{Card: []string{area(card.Personal{Mission: []byte("x")})}}},
	} {
		if _, err := tt.command.labels(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error that says %q", tt.name, err, tt.want)
		}
	}
}
