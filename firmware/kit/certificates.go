package kit

import (
	"context"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/overlay/certusage"
	"fieldkit/overlay/node"
	"fieldkit/ui"
)

// newCertificates keeps the kit's certificates stored in an overlay of self-signed ones, where a node "MUST store its
// certificate in the overlay" (RFC 6940 §11.3.1): there it is all that says who claims a name. It is nil in other
// missions, whose messages bring the certificates that they need.
func (k *Kit) newCertificates(n *node.Node, m *mission.Mission) (*certusage.Usage, error) {
	if !m.Document().SelfSigned {
		return nil, nil
	}
	return certusage.New(certusage.Config{Node: n, Identity: k.id, Trust: m.Trust(), Users: 2 * maxHandsets, Log: k.log})
}

// keepCertificates runs u, if there is one.
func keepCertificates(u *certusage.Usage) func(context.Context) error {
	return func(ctx context.Context) error {
		if u == nil {
			<-ctx.Done()
			return nil
		}
		return u.Run(ctx)
	}
}

// publishCertificate has the certificate of a handset stored, or forgotten when ttl is 0. Where that fails it goes on being
// tried; the registration does not wait for it.
func (k *Kit) publishCertificate(ctx context.Context, aor string, ttl time.Duration) {
	u := k.overlay.certs.Load()
	if u == nil {
		return
	}
	do := u.Keep
	if ttl == 0 {
		do = u.Drop
	}
	if err := do(ctx, aor); err != nil {
		k.log.Debug("handset's certificate not stored", "aor", aor, "err", err)
	}
}

// certificateCounters are none where certificates are not stored.
func (k *Kit) certificateCounters(ctx context.Context) []ui.Counter {
	u := k.overlay.certs.Load()
	if u == nil {
		return nil
	}
	stats, err := u.Stats(ctx)
	if err != nil {
		return nil
	}
	return counters("certificates ", stats)
}
