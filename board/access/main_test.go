package access

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv(playedMode); mode != "" {
		os.Exit(playHostapd(mode, os.Args[len(os.Args)-1]))
	}
	goleak.VerifyTestMain(m)
}
