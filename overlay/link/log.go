package link

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/pion/logging"
)

// quietLogger hands the libraries' messages to slog at debug level, whatever level they claim: a dropped packet is
// news to a developer, not to an operator. Their trace messages, one per packet, are left out, and so is what names the
// password of a link's ICE: whoever reads it could answer checks in the peer's name.
type quietLogger struct{ log *slog.Logger }

func (l quietLogger) NewLogger(scope string) logging.LeveledLogger {
	return quietLogger{l.log.With("library", scope)}
}

func (l quietLogger) enabled() bool { return l.log.Enabled(context.Background(), slog.LevelDebug) }

func (l quietLogger) print(msg string) {
	if l.enabled() {
		l.log.Debug(msg)
	}
}

func (l quietLogger) printf(format string, args ...any) {
	if l.enabled() && !strings.Contains(format, "Pwd") {
		l.log.Debug(fmt.Sprintf(format, args...))
	}
}

func (quietLogger) Trace(string)                     {}
func (quietLogger) Tracef(string, ...any)            {}
func (l quietLogger) Debug(msg string)               { l.print(msg) }
func (l quietLogger) Debugf(format string, a ...any) { l.printf(format, a...) }
func (l quietLogger) Info(msg string)                { l.print(msg) }
func (l quietLogger) Infof(format string, a ...any)  { l.printf(format, a...) }
func (l quietLogger) Warn(msg string)                { l.print(msg) }
func (l quietLogger) Warnf(format string, a ...any)  { l.printf(format, a...) }
func (l quietLogger) Error(msg string)               { l.print(msg) }
func (l quietLogger) Errorf(format string, a ...any) { l.printf(format, a...) }
