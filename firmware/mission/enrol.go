package mission

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"fieldkit/board/store"
	"fieldkit/overlay/ident"
)

// Items of the state directory.
const (
	KeyItem         = "identity.key"
	CertificateItem = "identity.crt"
	MissionItem     = "mission.toml"
)

// Items is where a kit keeps its state; *store.Store is one. Load of what was never saved is store.ErrNotFound.
type Items interface {
	Load(name string) ([]byte, error)
	Save(name string, data []byte) error
	Overwrite(name string, data []byte) error // no copy of what was there stays
}

// LoadOrCreateIdentity is how a kit gets to be somebody. On its first start it makes a key, has its certificate
// issued under the root key of the mission file at missionPath, and keeps the mission without that key; without a
// mission file it founds a mission of its own, keeps its root key apart (Founder), and founded is true, then and after
// every later start. A copy of
// the mission with the root key in the state directory works too, and loses the key once the certificate is
// there; the operator's own file is never written.
//
// Later starts find the same Node-ID. A mission file of the same mission updates accounts, Wi-Fi and
// configuration; one of another mission with its root key makes the kit change over, keeping its key and so its
// Node-ID. Power may be cut at any point: the next start goes on from what is there. ErrNoRootKey says that the
// mission file cannot let this kit in; called without the file, a kit that has a mission goes on in that.
func LoadOrCreateIdentity(stateDir, missionPath string) (id *ident.Identity, m *Mission, founded bool, err error) {
	s, err := store.Open(stateDir, store.Config{MaxSize: maxFile})
	if err != nil {
		return nil, nil, false, err
	}
	var given *Mission
	if missionPath != "" && !samePath(missionPath, filepath.Join(stateDir, MissionItem)) {
		if given, err = Load(missionPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, false, err
		}
	}
	id, m, err = firstStart(s, given)
	if err != nil {
		return nil, nil, false, err
	}
	return id, m, m.Founded, forgetFounder(s, stateDir, m)
}

func samePath(a, b string) bool {
	x, errX := filepath.Abs(a)
	y, errY := filepath.Abs(b)
	return errX == nil && errY == nil && x == y
}

// firstStart does it in steps of which each leaves a state that the next start understands:
//
//	key saved → certificate saved beside the old one → mission saved → old certificate gone
//
// The mission item decides which certificate counts, so saving it is the moment at which everything changes.
func firstStart(s Items, given *Mission) (*ident.Identity, *Mission, error) {
	kept, err := loadMission(s)
	if err != nil && (given == nil || !errors.Is(err, store.ErrCorrupt)) {
		return nil, nil, err
	}
	m := given
	switch {
	case given == nil && kept == nil:
		if m, err = Found(); err != nil {
			return nil, nil, fmt.Errorf("founding a mission: %w", err)
		}
		if err := keepFounderKey(s, m); err != nil {
			return nil, nil, err
		}
	case given == nil:
		m = kept
	case kept != nil && kept.Same(given):
		if m, err = kept.Adopt(given); err != nil {
			return nil, nil, err
		}
		m.Root.Key = given.Root.Key
		if m.Root.Key == "" {
			m.Root.Key = kept.Root.Key
		}
	}
	keyPEM, err := loadKey(s)
	if err != nil {
		return nil, nil, err
	}
	certs, err := s.Load(CertificateItem)
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrCorrupt) {
		return nil, nil, err
	}
	id, err := m.trust.LoadIdentity(keyPEM, certs)
	if err != nil {
		if id, err = issue(s, m, kept, keyPEM, certs); err != nil {
			return nil, nil, err
		}
	}
	return id, m.WithoutRootKey(), finish(s, m, kept, id)
}

// issue makes the kit's certificate under m and saves it, together with the one that counts until m is saved.
func issue(s Items, m, kept *Mission, keyPEM, certs []byte) (*ident.Identity, error) {
	key, err := ident.ParseKeyPEM(keyPEM)
	if err != nil {
		return nil, err
	}
	id, err := m.issue(key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the kit in mission %q: %w", m.Name, err)
	}
	return id, saveBeside(s, kept, keyPEM, certs, id)
}

// saveBeside saves a certificate together with the one that counts until the mission is saved.
func saveBeside(s Items, kept *Mission, keyPEM, certs []byte, id *ident.Identity) error {
	both := id.CertificatePEM()
	if kept != nil {
		if old, err := kept.trust.LoadIdentity(keyPEM, certs); err == nil {
			both = append(both, old.CertificatePEM()...)
		}
	}
	return s.Save(CertificateItem, both)
}

// StateKey is the key in a kit's state directory, made on the first call: what a kit enrols with before it has a
// certificate.
func StateKey(stateDir string) (*ecdsa.PrivateKey, error) {
	s, err := store.Open(stateDir, store.Config{MaxSize: maxFile})
	if err != nil {
		return nil, err
	}
	b, err := loadKey(s)
	if err != nil {
		return nil, err
	}
	return ident.ParseKeyPEM(b)
}

// Keep puts a certificate that an enrolment server issued for StateKey into the state directory, and the mission
// without its root key: the next start of the kit finds them as it would find what it made itself.
func Keep(stateDir string, m *Mission, id *ident.Identity) error {
	s, err := store.Open(stateDir, store.Config{MaxSize: maxFile})
	if err != nil {
		return err
	}
	keyPEM, err := s.Load(KeyItem)
	if err != nil {
		return err
	}
	if _, err := m.trust.LoadIdentity(keyPEM, id.CertificatePEM()); err != nil {
		return err
	}
	kept, err := loadMission(s)
	if err != nil && !errors.Is(err, store.ErrCorrupt) {
		return err
	}
	certs, err := s.Load(CertificateItem)
	if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrCorrupt) {
		return err
	}
	if err := saveBeside(s, kept, keyPEM, certs, id); err != nil {
		return err
	}
	if err := finish(s, m, kept, id); err != nil {
		return err
	}
	return forgetFounder(s, stateDir, m)
}

// issue makes a certificate for a kit of m: self-signed where the configuration permits that, else under the root.
func (m *Mission) issue(key *ecdsa.PrivateKey) (*ident.Identity, error) {
	if m.document.SelfSigned {
		return ident.SelfSigned(m.document, key, "", 1)
	}
	a, err := m.Authority()
	if errors.Is(err, ErrNoRootKey) && len(m.document.Rest.EnrollmentServers) > 0 {
		return nil, fmt.Errorf("%w: enrol it with `fieldkit enrol join %s`", err, m.document.Rest.EnrollmentServers[0])
	}
	if err != nil {
		return nil, err
	}
	return a.Issue(key)
}

// finish saves the mission without its root key, then what else changed.
func finish(s Items, m, kept *Mission, id *ident.Identity) error {
	want, err := m.WithoutRootKey().Marshal()
	if err != nil {
		return err
	}
	switch {
	case kept != nil && kept.HasRootKey():
		// Also the fall-back copy of the item must not keep the secret.
		err = s.Overwrite(MissionItem, want)
	case kept == nil || !sameFile(kept, want):
		err = s.Save(MissionItem, want)
	}
	if err != nil {
		return err
	}
	if now, err := s.Load(CertificateItem); err == nil && string(now) != string(id.CertificatePEM()) {
		return s.Save(CertificateItem, id.CertificatePEM())
	}
	return nil
}

func sameFile(kept *Mission, want []byte) bool {
	b, err := kept.Marshal()
	return err == nil && string(b) == string(want)
}

func loadMission(s Items) (*Mission, error) {
	b, err := s.Load(MissionItem)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("kept mission: %w", err)
	}
	return m, nil
}

func loadKey(s Items) ([]byte, error) {
	b, err := s.Load(KeyItem)
	if !errors.Is(err, store.ErrNotFound) {
		return b, err
	}
	key, err := ident.NewKey()
	if err != nil {
		return nil, err
	}
	if b, err = ident.EncodeKeyPEM(key); err != nil {
		return nil, err
	}
	return b, s.Save(KeyItem, b)
}
