package mission

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// "bad-node: … The contents of this element are the hexadecimal Node-ID of a node that is no longer considered to be
// a member" (RFC 6940 §11.1), in a document signed by a configuration-signer of the one before.
func TestRevoke(t *testing.T) {
	m := must(New("relief", Options{}))
	authority := must(m.Authority())
	lost := must(authority.NewIdentity())
	newer := must(m.Revoke(lost.NodeID()))
	d := newer.Document()
	if d.Sequence != m.Document().Sequence+1 || !slices.Contains(d.BadNodes, lost.NodeID()) {
		t.Errorf("sequence %d, bad nodes %v", d.Sequence, d.BadNodes)
	}
	if err := d.Verify(m.Document(), m.Trust(), time.Time{}); err != nil {
		t.Errorf("a kit with the old document refuses the new one: %v", err)
	}
	if _, err := newer.Trust().VerifyChain(lost.Signer().Certificates(), time.Time{}); err == nil {
		t.Error("the lost kit is still believed")
	}
	if _, err := m.Trust().VerifyChain(lost.Signer().Certificates(), time.Time{}); err != nil {
		t.Errorf("it was not believed before: %v", err)
	}
	if _, err := newer.Revoke(lost.NodeID()); err == nil {
		t.Error("revoked twice")
	}
	if _, err := m.WithoutRootKey().Revoke(lost.NodeID()); !errors.Is(err, ErrNoRootKey) {
		t.Errorf("without the root key: %v", err)
	}
}

// "The default policy or access rule for a type of diagnostic information is "deny" unless specified" (RFC 7851 §4.1).
func TestLetDiagnose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.mission")
	m := must(New("relief", Options{}))
	if err := m.Create(path); err != nil {
		t.Fatal(err)
	}
	a := must(m.Authority())
	asks, other := must(a.NewIdentity()).NodeID(), must(a.NewIdentity()).NodeID()
	var out bytes.Buffer
	if err := (DiagnoseCommand{File: path, Node: asks.String()}).Write(&out); err != nil {
		t.Fatal(err)
	}
	d := must(Load(path)).Document()
	if err := d.Verify(m.Document(), m.Trust(), time.Time{}); err != nil || d.Sequence != m.Document().Sequence+1 {
		t.Errorf("sequence %d, a kit with the old document says: %v", d.Sequence, err)
	}
	for kind := uint16(1); kind <= 0x10; kind++ {
		if m.Document().MayDiagnose(kind, asks) || !d.MayDiagnose(kind, asks) || d.MayDiagnose(kind, other) {
			t.Errorf("kind %#x: %v before, %v after, %v for another kit", kind, m.Document().MayDiagnose(kind, asks), d.MayDiagnose(kind, asks), d.MayDiagnose(kind, other))
		}
	}
	for _, node := range []string{asks.String(), "xyz"} { // already, and no Node-ID
		if err := (DiagnoseCommand{File: path, Node: node}).Write(&out); err == nil {
			t.Errorf("%s: no error", node)
		}
	}
}

func TestWithDocumentTakesNewerOnesOnly(t *testing.T) {
	m := must(New("relief", Options{}))
	newer := must(m.Revoke(must(must(m.Authority()).NewIdentity()).NodeID()))
	kept := must(m.WithoutRootKey().WithDocument(newer.Document()))
	if !kept.Document().Same(newer.Document()) || kept.HasRootKey() {
		t.Error("the document was not taken over as it is")
	}
	if _, err := newer.WithDocument(m.Document()); err == nil {
		t.Error("an older document was taken")
	}
	other := must(New("other", Options{Overlay: m.Overlay}))
	forged := must(must(other.Revoke(must(must(other.Authority()).NewIdentity()).NodeID())).Revoke(must(must(other.Authority()).NewIdentity()).NodeID()))
	if _, err := m.WithDocument(forged.Document()); err == nil {
		t.Error("a document of another root was taken")
	}
}

func TestRevokeCommand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.mission")
	m := must(New("relief", Options{}))
	if err := m.Create(path); err != nil {
		t.Fatal(err)
	}
	id := must(must(m.Authority()).NewIdentity()).NodeID()
	var out bytes.Buffer
	if err := (RevokeCommand{File: path, Node: id.String()}).Write(&out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), id.String()) || !slices.Contains(must(Load(path)).Document().BadNodes, id) {
		t.Errorf("not in the file: %s", out.String())
	}
	if err := (RevokeCommand{File: path, Node: "xyz"}).Write(&out); err == nil {
		t.Error("a Node-ID that is none")
	}
}

func TestExportLeavesTheRootKeyOut(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "m.mission"), filepath.Join(dir, "kits.mission")
	m := must(New("relief", Options{}))
	h := must(m.AddHandset("Anna", 101))
	if err := m.Create(from); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (ExportCommand{File: from, Out: to}).Write(&out); err != nil {
		t.Fatal(err)
	}
	e := must(Load(to))
	if e.HasRootKey() || !e.Same(m) || len(e.Handsets) != 1 || e.Handsets[0] != h {
		t.Errorf("root key %v, accounts %v", e.HasRootKey(), e.Handsets)
	}
	if !must(Load(from)).HasRootKey() {
		t.Error("the operator's file lost its key")
	}
	// An account more, and the same command again: the copy is replaced, and nothing else is.
	h = must(m.AddHandset("Boris", 101))
	if err := m.Save(from); err != nil {
		t.Fatal(err)
	}
	if err := (ExportCommand{File: from, Out: to}).Write(&out); err != nil {
		t.Error(err)
	}
	if e := must(Load(to)); e.HasRootKey() || len(e.Handsets) != 2 || e.Handsets[1] != h {
		t.Errorf("root key %v, accounts %v", e.HasRootKey(), e.Handsets)
	}
	other, foreign, text := filepath.Join(dir, "other.mission"), filepath.Join(dir, "foreign.mission"), filepath.Join(dir, "letter")
	o := must(New("relief", Options{}))
	for _, err := range []error{o.Create(other), o.WithoutRootKey().Create(foreign), os.WriteFile(text, []byte("Dear all"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{from, other, foreign, text} {
		before := must(os.ReadFile(path))
		if err := (ExportCommand{File: from, Out: path}).Write(&out); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		if !bytes.Equal(before, must(os.ReadFile(path))) {
			t.Errorf("%s was overwritten", path)
		}
	}
}

// What people type wrong is named, and the file with it.
func TestCommandsNameWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kits.mission")
	if err := must(New("relief", Options{})).WithoutRootKey().Create(path); err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("0a", 16)
	var out bytes.Buffer
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"no root key, revoke":   {RevokeCommand{File: path, Node: id}.Write(&out), []string{path, ErrNoRootKey.Error()}},
		"no root key, diagnose": {DiagnoseCommand{File: path, Node: id}.Write(&out), []string{path, ErrNoRootKey.Error()}},
		"short Node-ID":         {RevokeCommand{File: path, Node: "0a0b"}.Write(&out), []string{`"0a0b"`, "32 hex digits"}},
		"no hex":                {DiagnoseCommand{File: path, Node: "kit 7"}.Write(&out), []string{`"kit 7"`, "32 hex digits"}},
		"too long a Node-ID":    {RevokeCommand{File: path, Node: id + "0b"}.Write(&out), []string{"32 hex digits"}},
	} {
		for _, want := range c.want {
			if c.err == nil || !strings.Contains(c.err.Error(), want) {
				t.Errorf("%s: %v, want %q in it", name, c.err, want)
			}
		}
	}
	if out.Len() > 0 {
		t.Errorf("said: %s", out.String())
	}
}
