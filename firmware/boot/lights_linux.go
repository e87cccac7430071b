package boot

import (
	"context"
	"log/slog"
	"os"
	"time"

	"fieldkit/board"
)

// Lights shows "starting" until it is killed. PID 1 runs it as a process of its own: drivers of GPIO lines are no part
// of a program that must not fail, and the kernel takes the lines back when the process ends. The lines are those of
// the defaults; the operator's settings are not read yet.
func Lights(ctx context.Context) {
	b := board.Open(board.DefaultPins, board.Config{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	go func() {
		for {
			b.Update(board.Inputs{})
			select {
			case <-ctx.Done():
				return
			case <-time.After(board.DefaultStaleAfter / 3):
			}
		}
	}()
	_ = b.Run(ctx) // ends with ctx alone
}
