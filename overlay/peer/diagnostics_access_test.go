package peer

import (
	"testing"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// "If the initiator node asks for diagnostic information that they are not authorized to query, the receiving peer MUST
// return an error response" (RFC 7851 §6.3), whether it asks by flag or by extension; and "This value MUST have a value
// between 1 and 600 seconds in the future" (§5.1).
func TestDiagnosticsThatAreRefused(t *testing.T) {
	r := newRig(t)
	far, l := r.neighbour(t, nil)
	ask := &request{Message: &wire.Message{}, from: r.conns.find(l), peer: &ident.Peer{NodeID: far.NodeID()}}
	for name, c := range map[string]struct {
		change func(*wire.DiagnosticsRequest)
		want   wire.ErrorCode
	}{
		"nothing asked for": {func(*wire.DiagnosticsRequest) {}, 0},
		"by flag":           {func(q *wire.DiagnosticsRequest) { q.Flags = wire.DiagSoftwareVersion.Flag() }, wire.ErrorForbidden},
		"by extension": {func(q *wire.DiagnosticsRequest) {
			q.Extensions = []wire.DiagnosticExtension{{Kind: 0x1000}}
		}, wire.ErrorForbidden},
		"no time at all": {func(q *wire.DiagnosticsRequest) { q.Expiration = q.Initiated }, wire.ErrorMessageExpired},
		"too much time": {func(q *wire.DiagnosticsRequest) {
			q.Expiration = q.Initiated + uint64((diagnosticMax + time.Second).Milliseconds())
		}, wire.ErrorMessageExpired},
		"before it began": {func(q *wire.DiagnosticsRequest) { q.Expiration = q.Initiated - 1 }, wire.ErrorMessageExpired},
	} {
		q := r.diagnosticsRequest(0)
		c.change(&q)
		if _, code := r.diagnostics(ask, &q); code != c.want {
			t.Errorf("%s: %v, want %v", name, code, c.want)
		}
	}
}
