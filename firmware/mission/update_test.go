package mission

import (
	"errors"
	"strings"
	"testing"

	"fieldkit/overlay/ident"
)

// Whoever signs the configuration document signs updates, in missions of every kind, and nobody else does.
func TestUpdateIsSignedByTheMissionAlone(t *testing.T) {
	blob := []byte("fieldkit slot manifest 1\x00{}")
	for name, opt := range map[string]Options{
		"root":        {},
		"self-signed": {SelfSigned: true},
		"enrolment":   {Enrol: []string{"https://192.0.2.1:6084/enrol"}},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := New("Valley", opt)
			if err != nil {
				t.Fatal(err)
			}
			kept := m.WithoutRootKey()
			if _, err := kept.SignUpdate(blob); !errors.Is(err, ErrNoRootKey) {
				t.Errorf("a kit signs: %v", err)
			}
			s, err := m.SignUpdate(blob)
			if err != nil {
				t.Fatal(err)
			}
			if err := kept.VerifyUpdate(blob, s); err != nil {
				t.Errorf("own signature: %v", err)
			}
			if err := kept.VerifyUpdate(append([]byte("x"), blob...), s); err == nil {
				t.Error("signature over something else")
			}
			if err := kept.VerifyUpdate(blob, nil); err == nil {
				t.Error("no signature")
			}
			other, err := New("Valley", opt)
			if err != nil {
				t.Fatal(err)
			}
			foreign, err := other.SignUpdate(blob)
			if err != nil {
				t.Fatal(err)
			}
			if err := kept.VerifyUpdate(blob, foreign); err == nil || !strings.Contains(err.Error(), "signed for mission "+other.Overlay) {
				t.Errorf("signature of another mission: %v", err)
			}
			// What is signed as a document is no update, and the other way round.
			if err := kept.VerifyUpdate(append(blob, kept.Document().Raw()...), s); err == nil {
				t.Error("signature over more")
			}
		})
	}
}

// A kit of the mission is believed as a kit, and must not be able to replace the others' systems.
func TestUpdateIsNotSignedByAKit(t *testing.T) {
	m, err := New("Valley", Options{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := ident.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := m.issue(key)
	if err != nil {
		t.Fatal(err)
	}
	s, err := id.Signer().SignBlob([]byte("blob"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.VerifyUpdate([]byte("blob"), s); !errors.Is(err, ident.ErrUntrusted) {
		t.Errorf("signature of a kit: %v", err)
	}
}
