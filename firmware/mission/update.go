package mission

import (
	"crypto/x509"
	"fmt"
	"time"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// SignUpdate signs an update of the kits' system as whoever signs the configuration document, so that who may change
// what kits do is one and the same. The blob must name its purpose, since the same key signs documents. The signature is
// a SecurityBlock, as under a document (RFC 6940 §11.1). ErrNoRootKey without the key.
func (m *Mission) SignUpdate(blob []byte) ([]byte, error) {
	a, err := m.Authority()
	if err != nil {
		return nil, err
	}
	return m.signUpdate(a, blob)
}

// SignUpdateOfFounder is SignUpdate of a kit that founded its mission, whose root key is in its state directory alone.
func SignUpdateOfFounder(stateDir string, m *Mission, blob []byte) ([]byte, error) {
	a, err := Founder(stateDir, m)
	if err != nil {
		return nil, err
	}
	return m.signUpdate(a, blob)
}

func (m *Mission) signUpdate(a *ident.Authority, blob []byte) ([]byte, error) {
	s, err := signerOf(a, m.document)
	if err != nil {
		return nil, err
	}
	return s.SignBlob(blob)
}

// VerifyUpdate checks a signature of SignUpdate: it must be of a configuration-signer of the document in force. The clock
// cannot matter, as for the document.
func (m *Mission) VerifyUpdate(blob, signature []byte) error {
	err := m.trust.VerifyBlob(blob, signature, m.document.Signers, time.Time{})
	if err == nil {
		return nil
	}
	if other := signerOverlay(signature); other != "" && other != m.Overlay {
		return fmt.Errorf("signed for mission %s, this kit is of %s: %w", other, m.Overlay, err)
	}
	return err
}

// signerOverlay is the overlay that a signature's certificate says it is for, believed or not; "" if it says none.
func signerOverlay(signature []byte) string {
	s, err := wire.ParseSecurityBlock(signature)
	if err != nil {
		return ""
	}
	for _, c := range s.Certificates {
		x, err := x509.ParseCertificate(c.Data)
		if err != nil || len(x.URIs) == 0 {
			continue
		}
		if u, err := ident.ParseURI(x.URIs[0].String()); err == nil {
			return u.Overlay
		}
	}
	return ""
}
