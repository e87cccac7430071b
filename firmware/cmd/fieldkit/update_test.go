package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fieldkit/firmware/card"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/update"
	"fieldkit/ui"
)

// updating is a kit's page that tells one state after the other, "" being none, and takes an update.
func updating(t *testing.T, code int, answer string, states ...ui.Update) (url string, got *bytes.Buffer) {
	t.Helper()
	var n atomic.Int32
	got = new(bytes.Buffer)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/update" && r.Header.Get("Content-Type") == update.MediaType {
			_, _ = io.Copy(got, r.Body)
			w.WriteHeader(code)
			_, _ = io.WriteString(w, answer)
			return
		}
		u := states[min(int(n.Add(1))-1, len(states)-1)]
		if u.State == "" {
			panic(http.ErrAbortHandler) // it restarts
		}
		_ = json.NewEncoder(w).Encode(ui.Status{Kit: ui.Kit{Number: 101, Name: "Hut"}, Update: u})
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

func ended(state, why string, sequence uint64) ui.Update {
	return ui.Update{State: state, Version: "v2", Slot: "B", Last: ui.Outcome{State: state, Why: why, Sequence: sequence}}
}

func TestFollow(t *testing.T) {
	waits := ui.Update{State: "written", Why: "waits for the end of 1 calls", Last: ui.Outcome{State: "rolled back", Sequence: 7, Why: "the time before"}}
	for name, c := range map[string]struct {
		states []ui.Update
		want   error
		code   int
		says   string
	}{
		"committed":     {[]ui.Update{waits, {State: "trying", Why: "restarting"}, {}, {}, {State: "trying", Why: "healthy, being watched"}, ended("committed", "", 7)}, nil, 0, "written: waits for the end of 1 calls\ntrying: restarting\nthe kit does not answer: it may be restarting\ntrying: healthy, being watched\ncommitted: v2 runs in slot B\n"},
		"rolled back":   {[]ui.Update{waits, {}, ended("rolled back", "not healthy: SIP: no answer", 7)}, errRolledBack, exitRolledBack, "SIP: no answer"},
		"another one's": {[]ui.Update{ended("committed", "", 6)}, errWaiting, exitWaiting, ""},
		"still waiting": {[]ui.Update{waits}, errWaiting, exitWaiting, "waits for the end"},
	} {
		url, _ := updating(t, 0, "", c.states...)
		var out strings.Builder
		err := follow(t.Context(), &out, url, 7, 500*time.Millisecond, 5*time.Millisecond)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && exitCode(err) != c.code {
			t.Errorf("%s: exit code %d", name, exitCode(err))
		}
		if all := out.String() + errorText(err); !strings.Contains(all, c.says) {
			t.Errorf("%s: %q", name, all)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// signedFile is an update as `fieldkit sign` writes it, as far as its sender looks at it.
func signedFile(t *testing.T) string {
	t.Helper()
	m := card.Manifest{Size: 512, SHA256: strings.Repeat("ab", 32), Release: card.Release{
		Product: card.Product, Layout: 1, Version: "v2", Sequence: 7, Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Commit: "c", Kernel: "k", Flavour: "rpi",
	}}
	b, err := update.Sign(m, func([]byte) ([]byte, error) { return []byte("signature"), nil })
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "v2.update")
	if err := os.WriteFile(path, append(b, "slot"...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUpdateSendsWhatIsSigned(t *testing.T) {
	path := signedFile(t)
	url, got := updating(t, http.StatusAccepted, `{"version":"v2","sequence":7,"state":"written"}`, ui.Update{State: "idle", Version: "v1"}, ended("committed", "", 7))
	var out strings.Builder
	if err := (updateCommand{Kit: url, Image: path, Wait: time.Minute}).run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	sent, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(sent, got.Bytes()) {
		t.Errorf("%d of %d bytes sent", got.Len(), len(sent))
	}
	for _, want := range []string{"kit 101 Hut runs v1, update to v2", "sent 100 %", "written, and read back", "committed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q does not say %q", out.String(), want)
		}
	}
	url, _ = updating(t, http.StatusForbidden, "update not signed by this mission: \x1b[2J", ui.Update{State: "idle"})
	err = (updateCommand{Kit: url, Image: path, Wait: time.Minute}).run(t.Context(), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "refused: update not signed by this mission") || strings.Contains(err.Error(), "\x1b") || exitCode(err) != 1 {
		t.Errorf("%v", err)
	}
}

func TestUpdateWantsASignature(t *testing.T) {
	dir := t.TempDir()
	img := filepath.Join(dir, "kit.img")
	if err := os.WriteFile(img, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := mission.New("Valley", mission.Options{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "a.mission")
	if err := m.Create(file); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		c    updateCommand
		says string
	}{
		"not signed":    {updateCommand{Image: img}, "name the mission file"},
		"signed twice":  {updateCommand{Image: signedFile(t), Mission: file}, "signed already"},
		"no such image": {updateCommand{Image: img, Mission: file}, "no partition table"},
	} {
		if err := c.c.run(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	out := filepath.Join(dir, "out.update")
	if err := (signCommand{Image: img, Mission: file, Out: out}).Run(t.Context()); err == nil {
		t.Error("an image that is none was signed")
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half an update was left: %v", err)
	}
}
