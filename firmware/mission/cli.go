package mission

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"fieldkit/overlay/config"
	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// NewCommand is `fieldkit mission new NAME`.
type NewCommand struct {
	Name    string `arg:"" help:"What people call the mission."`
	Out     string `short:"o" help:"File to write; NAME.mission in the working directory if not given." placeholder:"FILE"`
	Overlay string `help:"Overlay name; made of the mission's name if not given." placeholder:"DOMAIN"`
	SSID    string `help:"Name of the handsets' Wi-Fi; the mission's name if not given."`

	SelfSigned   bool     `help:"Kits make their own certificates: whoever has the mission file is in, and names are taken first come, first served."`
	SharedSecret bool     `help:"Kits link only with who knows a secret that is in the mission file. Not with --links tcp."`
	Enrol        []string `help:"URL of an enrolment server, https://…, which lets kits in and gives out their Node-IDs." placeholder:"URL"`
	Links        Links    `help:"How kits link: ice finds a way, through a third kit if need be; direct does without, on one network; tcp where UDP is blocked." enum:"ice,direct,tcp" default:"ice"`
	SelfTuning   bool     `help:"Have the ring tune itself (RFC 7363): for dozens of kits."`
}

// Write makes the mission and its file, and tells about it.
func (c NewCommand) Write(w io.Writer) error {
	m, err := New(c.Name, Options{
		Overlay: c.Overlay, SSID: c.SSID, SelfSigned: c.SelfSigned, SharedSecret: c.SharedSecret, Enrol: c.Enrol,
		Links: c.Links, SelfTuning: c.SelfTuning,
	})
	if err != nil {
		return err
	}
	path := c.Out
	if path == "" {
		path = fileName(c.Name)
	}
	if err := m.Create(path); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, `Mission %q written to %s.

  overlay     %s
  Wi-Fi       %s
  passphrase  %s

The file lets kits into the mission: keep it as you would keep a key. Next:

  fieldkit handset add NAME --mission %s
`, m.Name, path, m.Overlay, m.WiFi.SSID, m.WiFi.Passphrase, quote(path))
	return err
}

func fileName(name string) string {
	clean := strings.Map(func(c rune) rune {
		if c == '/' || c == '\\' || c == filepath.Separator || c == ':' {
			return '-'
		}
		return c
	}, name)
	return strings.TrimLeft(clean, ".-") + ".mission"
}

func quote(s string) string {
	if strings.ContainsAny(s, " '\"$&;()<>|*?`\\") {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// ShowCommand is `fieldkit mission show FILE`. It shows no secret but the Wi-Fi passphrase, and that on request.
type ShowCommand struct {
	File    string `arg:"" help:"Mission file." type:"existingfile"`
	Secrets bool   `help:"Show the Wi-Fi passphrase, too."`
	JSON    bool   `name:"json" help:"One JSON document."`
}

type summary struct {
	Name         string   `json:"name"`
	Overlay      string   `json:"overlay"`
	Founded      bool     `json:"founded"`
	RootKey      bool     `json:"root_key"`
	Sequence     uint16   `json:"sequence"`
	DocumentHash string   `json:"document_hash"`
	BadNodes     []string `json:"bad_nodes"`
	SSID         string   `json:"ssid"`
	Passphrase   string   `json:"passphrase,omitempty"`
	Handsets     int      `json:"handsets"`
}

// Write shows the mission.
func (c ShowCommand) Write(w io.Writer) error {
	m, err := Load(c.File)
	if err != nil {
		return err
	}
	d := m.Document()
	s := summary{
		Name: m.Name, Overlay: m.Overlay, Founded: m.Founded, RootKey: m.HasRootKey(), Sequence: d.Sequence,
		DocumentHash: d.ShortHash(), BadNodes: []string{}, SSID: m.WiFi.SSID, Handsets: len(m.Handsets),
	}
	for _, id := range d.BadNodes {
		s.BadNodes = append(s.BadNodes, id.String())
	}
	if c.Secrets {
		s.Passphrase = m.WiFi.Passphrase
	}
	if c.JSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	links := "DTLS over ICE"
	switch {
	case d.NoICE && slices.Equal(d.Rest.LinkProtocols, []string{config.LinkTCPNoICE}):
		links = "TLS over TCP"
	case d.NoICE && d.Rest.SharedSecret: // which only DTLS can ask for
		links = "direct, DTLS"
	case d.NoICE:
		links = "direct, DTLS or TLS"
	}
	if d.Rest.SharedSecret {
		links += ", with a shared secret"
	}
	root := "here: this file lets kits in"
	switch {
	case d.SelfSigned && s.RootKey:
		root = "here: it revokes kits, which make their own certificates"
	case d.SelfSigned:
		root = "not here: it is not needed, kits make their own certificates"
	case !s.RootKey && len(d.Rest.EnrollmentServers) > 0:
		root = "not here: kits enrol"
	case !s.RootKey:
		root = "not here: this file lets no kit in"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(k string, v any) { fmt.Fprintf(t, "%s\t%v\n", k, v) }
	row("mission", s.Name)
	row("overlay", s.Overlay)
	row("founded by a lone kit", yesNo(s.Founded))
	row("root key", root)
	if servers := d.Rest.EnrollmentServers; len(servers) > 0 {
		row("enrolment", strings.Join(servers, ", "))
	}
	row("configuration", fmt.Sprintf("sequence %d, hash %s", s.Sequence, s.DocumentHash))
	row("links", links)
	row("ring", d.TopologyPlugin)
	row("revoked kits", len(s.BadNodes))
	for _, id := range s.BadNodes {
		row("", id)
	}
	row("Wi-Fi", s.SSID)
	if c.Secrets {
		row("passphrase", s.Passphrase)
	}
	row("handsets", s.Handsets)
	return t.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// ExportCommand is `fieldkit mission export FILE OUT`.
type ExportCommand struct {
	File string `arg:"" help:"Mission file." type:"existingfile"`
	Out  string `arg:"" help:"File to write: the mission as it is now, without its root key. It may be an earlier copy." type:"path"`
}

// Write makes the copy that kits are given once they are in.
func (c ExportCommand) Write(w io.Writer) error {
	m, err := Load(c.File)
	if err != nil {
		return err
	}
	if err := m.export(c.Out); err != nil {
		return err
	}
	in := "nobody gets in by it"
	switch d := m.Document(); {
	case d.SelfSigned:
		in = "new kits get in by it as well, because they make their own certificates"
	case len(d.Rest.EnrollmentServers) > 0:
		in = "new kits enrol with it"
	}
	_, err = fmt.Fprintf(w, "Mission %q written to %s without its root key: kits that are in take accounts and revocations from it, and %s.\n", m.Name, c.Out, in)
	return err
}

// export writes the copy without the root key. It replaces an earlier copy of the same mission, which is done whenever
// an account was added, and nothing else: a root key that is overwritten is lost for ever.
func (m *Mission) export(path string) error {
	old, err := Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m.WithoutRootKey().Create(path)
	}
	switch {
	case err != nil:
		return fmt.Errorf("not overwritten: %w", err)
	case old.HasRootKey():
		return fmt.Errorf("%s: %w: not overwritten, it has a root key", path, fs.ErrExist)
	case !old.Same(m):
		return fmt.Errorf("%s: %w: not overwritten, it is of mission %q", path, fs.ErrExist, old.Name)
	}
	return m.WithoutRootKey().Save(path)
}

// nodeID reads the Node-ID of one of the mission's kits as people type it.
func (m *Mission) nodeID(s string) (wire.NodeID, error) {
	n := m.Document().NodeIDLength
	id, err := wire.ParseNodeID(strings.TrimSpace(s))
	if err != nil || id.Len() != n {
		return wire.NodeID{}, fmt.Errorf("node-id %q: want the %d hex digits that the kit's page shows", s, 2*n)
	}
	return id, nil
}

// RevokeCommand is `fieldkit mission revoke FILE NODE-ID`.
type RevokeCommand struct {
	File string `arg:"" help:"Mission file, with its root key." type:"existingfile"`
	Node string `arg:"" name:"node-id" help:"Node-ID of the lost kit, as the other kits' pages show it."`
}

// Write changes the mission file and tells how it reaches the kits.
func (c RevokeCommand) Write(w io.Writer) error {
	return changeFor(w, c.File, c.Node, (*Mission).Revoke, "is revoked")
}

// changeFor has change make a new configuration document about one kit, saves it in the mission file, and tells what
// became of the kit and how the others learn it.
func changeFor(w io.Writer, file, node string, change func(*Mission, wire.NodeID) (*Mission, error), became string) error {
	m, err := Load(file)
	if err != nil {
		return err
	}
	id, err := m.nodeID(node)
	if err != nil {
		return err
	}
	if m, err = change(m, id); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := m.Save(file); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "Kit %s %s by configuration %d. Give the file to any kit of the mission: the others learn it from there.\n", id, became, m.Document().Sequence)
	return err
}

// DiagnoseCommand is `fieldkit mission diagnose FILE NODE-ID`.
type DiagnoseCommand struct {
	File string `arg:"" help:"Mission file, with its root key." type:"existingfile"`
	Node string `arg:"" name:"node-id" help:"Node-ID of the kit that may ask, as its page shows it."`
}

// Write changes the mission file and tells how it reaches the kits.
func (c DiagnoseCommand) Write(w io.Writer) error {
	return changeFor(w, c.File, c.Node, (*Mission).LetDiagnose, "may ask the others how they are,")
}

// DocumentCommand is `fieldkit mission document FILE`.
type DocumentCommand struct {
	File string `arg:"" help:"Mission file." type:"existingfile"`
}

// Write prints the configuration document as it was signed, byte by byte: what any web server can hand out.
func (c DocumentCommand) Write(w io.Writer) error {
	m, err := Load(c.File)
	if err != nil {
		return err
	}
	_, err = w.Write(m.Document().Raw())
	return err
}

// MergeCommand is `fieldkit mission merge FILE OTHER`.
type MergeCommand struct {
	File  string `arg:"" help:"Mission file, with its root key." type:"existingfile"`
	Other string `arg:"" help:"The other steward's mission file, or a configuration document." type:"existingfile"`
}

// Write changes the mission file and tells how it reaches the kits.
func (c MergeCommand) Write(w io.Writer) error {
	m, err := Load(c.File)
	if err != nil {
		return err
	}
	b, err := readFile(c.Other)
	if err != nil {
		return err
	}
	d, err := ident.ParseDocument(b, m.Overlay)
	if err != nil {
		o, e := Parse(b)
		if e != nil {
			return fmt.Errorf("%s: neither a configuration document (%w) nor a mission file (%w)", c.Other, err, e)
		}
		d = o.Document()
	}
	if m, err = m.Merge(d); err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	if err := m.Save(c.File); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "Configuration %d says what both said, and revokes %d kits. Give the file to any kit of the mission: the others learn it from there.\n",
		m.Document().Sequence, len(m.Document().BadNodes))
	return err
}

// HandsetAddCommand is `fieldkit handset add NAME`.
type HandsetAddCommand struct {
	Name    string `arg:"" help:"Whose handset it is."`
	Mission string `short:"m" help:"Mission file; the only *.mission in the working directory if not given." placeholder:"FILE"`
	Number  string `help:"Five digits; the lowest free one of the kit if not given."`
	Kit     int    `help:"Kit that gives out the number, 100 to 899." default:"100"`
	JSON    bool   `name:"json" help:"One JSON document."`
}

// Account is what has to be typed into a phone.
type Account struct {
	Name     string `json:"name"`
	User     string `json:"user"`
	Password string `json:"password"`
	Domain   string `json:"domain"`
	Server   string `json:"server"`
}

// Server is where a handset on a kit's Wi-Fi finds its kit: every kit has that address there.
const Server = "10.73.0.1"

// AccountOf is what the phone of h wants to know.
func (m *Mission) AccountOf(h Handset) Account {
	return Account{Name: h.Name, User: h.Number, Password: h.Password, Domain: m.Overlay, Server: Server}
}

// Write adds the account to the mission file and tells what to type into the phone.
func (c HandsetAddCommand) Write(w io.Writer) error {
	path, err := find(c.Mission)
	if err != nil {
		return err
	}
	m, err := Load(path)
	if err != nil {
		return err
	}
	var h Handset
	if c.Number != "" {
		h, err = m.AddNumber(c.Name, c.Number)
	} else {
		h, err = m.AddHandset(c.Name, c.Kit)
	}
	if err != nil {
		return err
	}
	if err := m.Save(path); err != nil {
		return err
	}
	a := m.AccountOf(h)
	if c.JSON {
		return json.NewEncoder(w).Encode(a)
	}
	_, err = fmt.Fprintf(w, `Handset %q added to %s. Type into the phone, on any kit's Wi-Fi (%s):

  user      %s
  password  %s
  domain    %s
  server    %s   (SIP, UDP or TCP, port 5060; where the phone has only one field, this one)

A kit that reads this very file takes the account up at once; the others need a copy of the file.
`, a.Name, path, m.WiFi.SSID, a.User, a.Password, a.Domain, a.Server)
	return err
}

// HandsetListCommand is `fieldkit handset list`. It shows no passwords unless asked to.
type HandsetListCommand struct {
	Mission string `short:"m" help:"Mission file; the only *.mission in the working directory if not given." placeholder:"FILE"`
	Secrets bool   `help:"Show the passwords, too."`
	JSON    bool   `name:"json" help:"One JSON document."`
}

// Write lists the accounts by number.
func (c HandsetListCommand) Write(w io.Writer) error {
	path, err := find(c.Mission)
	if err != nil {
		return err
	}
	m, err := Load(path)
	if err != nil {
		return err
	}
	list := slices.Clone(m.Handsets)
	slices.SortFunc(list, func(a, b Handset) int { return strings.Compare(a.Number, b.Number) })
	accounts := make([]Account, 0, len(list))
	for _, h := range list {
		a := m.AccountOf(h)
		if !c.Secrets {
			a.Password = ""
		}
		accounts = append(accounts, a)
	}
	if c.JSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(accounts)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "NUMBER\tNAME")
	if c.Secrets {
		fmt.Fprint(t, "\tPASSWORD")
	}
	fmt.Fprintln(t)
	for _, a := range accounts {
		fmt.Fprintf(t, "%s\t%s", a.User, a.Name)
		if c.Secrets {
			fmt.Fprintf(t, "\t%s", a.Password)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// find is path, or the only mission file in the working directory.
func find(path string) (string, error) {
	if path != "" {
		return path, nil
	}
	files, err := filepath.Glob("*.mission")
	if err != nil {
		return "", err
	}
	switch len(files) {
	case 0:
		return "", fmt.Errorf("no mission file here: make one with `fieldkit mission new NAME`, or name one with --mission")
	case 1:
		return files[0], nil
	}
	return "", fmt.Errorf("several mission files here (%s): name one with --mission", strings.Join(files, ", "))
}
