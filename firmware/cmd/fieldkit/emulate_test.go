package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// The image that make image built is taken without being named, and what is missing is said.
func TestEmulateFindsTheImage(t *testing.T) {
	t.Chdir(t.TempDir())
	run := func() error {
		var c struct {
			Emulate emulateCommand `cmd:""`
		}
		p, err := kong.New(&c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Parse([]string{"emulate"}); err != nil {
			t.Fatal(err)
		}
		return c.Emulate.Run(t.Context())
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "make image") {
		t.Errorf("without an image: %v", err)
	}
	file := filepath.Join("build", "card", "card.img")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, make([]byte, 512), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "512 bytes") {
		t.Errorf("with a file that is no image: %v", err)
	}
}
