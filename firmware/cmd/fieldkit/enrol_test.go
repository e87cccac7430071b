package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fieldkit/firmware/mission"
	"fieldkit/overlay/ident"
)

// The words of the README, one after the other, with a real server on loopback: a mission whose root key stays with the
// steward, a kit that enrols, starts, and is believed; a lost kit that does not get in again.
func TestEnrolAKit(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
	}
	must(mission.NewCommand{Name: "relief", Out: file("relief.mission"), Enrol: []string{fmt.Sprintf("https://%s/enrol", l.Addr())}}.Write(&out))
	must(mission.ExportCommand{File: file("relief.mission"), Out: file("kit.mission")}.Write(&out))
	out.Reset()
	must(enrolAdd{Name: "kit-7", Mission: file("relief.mission"), Nodes: 1}.write(&out))
	password := regexp.MustCompile(`password  (\S+)`).FindStringSubmatch(out.String())[1]

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- enrolServer{Mission: file("relief.mission")}.serve(ctx, l, &bytes.Buffer{}, slog.New(slog.DiscardHandler))
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	state := file("state")
	join := enrolJoin{Mission: file("kit.mission"), Account: "kit-7", State: state}
	if err := join.join(ctx, strings.NewReader("wrong\n"), &out); err == nil || !strings.Contains(err.Error(), "password") {
		t.Errorf("wrong password: %v", err)
	}
	if _, _, _, err := mission.LoadOrCreateIdentity(state, file("kit.mission")); err == nil {
		t.Error("a kit that did not enrol starts")
	}
	must(join.join(ctx, strings.NewReader(password+"\n"), &out))
	if strings.Contains(strings.ReplaceAll(out.String(), "password  "+password, ""), password) {
		t.Error("the password is shown again")
	}
	id, m, founded, err := mission.LoadOrCreateIdentity(state, file("kit.mission"))
	must(err)
	if founded || m.HasRootKey() || !strings.Contains(out.String(), id.NodeID().String()) {
		t.Errorf("%s", out.String())
	}
	whole, err := mission.Load(file("relief.mission"))
	must(err)
	phone, err := id.SignerFor("10001@" + m.Overlay)
	must(err)
	if p, err := whole.Trust().VerifyChain(phone.Certificates(), time.Time{}); err != nil || p.NodeID != id.NodeID() {
		t.Errorf("the others do not believe it: %v", err)
	}
	// A second time it is the same kit, with the configuration that is in force by then.
	lost, err := ident.RandomNodeID(16)
	must(err)
	other, err := whole.Revoke(lost)
	must(err)
	must(other.Save(file("relief.mission")))
	must(os.WriteFile(file("password"), []byte(password), 0o600))
	join.Password = file("password")
	join.URL = fmt.Sprintf("https://%s/enrol", l.Addr())
	must(join.join(ctx, strings.NewReader(""), &out))
	again, m, _, err := mission.LoadOrCreateIdentity(state, file("kit.mission"))
	must(err)
	if again.NodeID() != id.NodeID() || m.Document().Sequence != other.Document().Sequence {
		t.Errorf("Node-ID %v, before %v; sequence %d", again.NodeID(), id.NodeID(), m.Document().Sequence)
	}
	// Lost, and so cut off: the account is worth nothing any more.
	cut, err := other.Revoke(id.NodeID())
	must(err)
	must(cut.Save(file("relief.mission")))
	if err := join.join(ctx, strings.NewReader(""), &out); err == nil || !strings.Contains(err.Error(), "Node-IDs") {
		t.Errorf("a revoked kit enrols: %v", err)
	}
	out.Reset()
	must(enrolList{Mission: file("relief.mission")}.write(&out))
	if !strings.Contains(out.String(), id.NodeID().String()) || strings.Contains(out.String(), password) {
		t.Errorf("%s", out.String())
	}
}

func TestEnrolServerWants(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m")
	if err := (mission.NewCommand{Name: "m", Out: path}).Write(&bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if err := (enrolServer{Mission: path}).Run(context.Background()); err == nil || !strings.Contains(err.Error(), "--enrol") {
		t.Errorf("a mission without an enrolment server: %v", err)
	}
	for name, err := range map[string]error{
		"an account":     enrolAdd{Name: "kit-7", Mission: path, Nodes: 1}.write(&bytes.Buffer{}),
		"a kit":          enrolJoin{Mission: path, Account: "kit-7", State: filepath.Join(dir, "state")}.join(t.Context(), strings.NewReader("x\n"), &bytes.Buffer{}),
		"where a web is": enrolJoin{Mission: path, Account: "kit-7", URL: "http://127.0.0.1:1/", State: filepath.Join(dir, "state")}.join(t.Context(), strings.NewReader("x\n"), &bytes.Buffer{}),
	} {
		if err == nil || !strings.Contains(err.Error(), path) && !strings.Contains(err.Error(), "https") {
			t.Errorf("%s without an enrolment server: %v", name, err)
		}
	}
	with := filepath.Join(dir, "n")
	if err := (mission.NewCommand{Name: "m", Out: with, Enrol: []string{"https://steward.example"}}).Write(&bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	m, err := mission.Load(with)
	if err != nil {
		t.Fatal(err)
	}
	// The accounts are where the server finds them, beside the file with the root key.
	copied := filepath.Join(dir, "copy")
	if err := m.WithoutRootKey().Create(copied); err != nil {
		t.Fatal(err)
	}
	if err := (enrolAdd{Name: "kit-7", Mission: copied, Nodes: 1}).write(&bytes.Buffer{}); !errors.Is(err, mission.ErrNoRootKey) {
		t.Errorf("an account beside a kit's copy: %v", err)
	}
	if _, err := os.Stat(copied + ".accounts"); err == nil {
		t.Error("and it was written")
	}
	if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
		t.Error("a state directory was made for a kit that did not enrol")
	}
	if a, err := listenAddress(m); err != nil || a != ":443" {
		t.Errorf("%q, %v", a, err)
	}
	names, _ := serverNames(m.Document())
	if len(names) != 2 || names[0] != m.Overlay || names[1] != "steward.example" {
		t.Errorf("%q", names)
	}
}
