package image

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/klauspost/compress/zstd"

	"fieldkit/firmware/card"
	"fieldkit/firmware/config"
	"fieldkit/firmware/mission"
)

// Cards says what cards to make out of an image.
type Cards struct {
	Base    string // the image, .img or .img.zst, that nobody has personalised
	Out     string // directory
	Mission string // mission file; "" makes cards that learn their mission by pairing
	Country string // ISO 3166-1; "" keeps to what is allowed everywhere
	Count   int
	First   int // number of the first kit, the others count up; 0 draws them
}

// MaxCards is how many cards of a mission can be told apart by number.
const MaxCards = mission.LastKit - mission.FirstKit + 1

// Card is a personalised image.
type Card struct {
	Kit
	File string
}

// Made is what Personalise made.
type Made struct {
	Cards   []Card
	Mission string // its name, "" without
	RootKey bool   // whether the cards carry the mission's root key until their first start
	Country string
	Release card.Release
}

// Personalise makes copies of an image for the kits of one mission. It needs nothing but the image and the mission
// file, and no program of the machine.
//
// What numbers and names were given is noted beside the mission file, in FILE.cards, so that cards that are made later
// get others. Without that file kits may meet that have the same number; they notice, and one takes another.
func Personalise(c Cards) (*Made, error) {
	country, err := checkCountry(c.Country)
	if err != nil {
		return nil, err
	}
	if c.Count < 1 || c.Count > MaxCards {
		return nil, fmt.Errorf("%d cards: want 1 to %d", c.Count, MaxCards)
	}
	made := &Made{Country: country}
	var file []byte
	if c.Mission != "" {
		m, err := mission.Load(c.Mission)
		if err != nil {
			return nil, err
		}
		// Where kits get in without the root key, it has no business on their cards.
		if d := m.Document(); d.SelfSigned || len(d.Rest.EnrollmentServers) > 0 {
			m = m.WithoutRootKey()
		} else if !m.HasRootKey() {
			return nil, fmt.Errorf("mission file %s has no root key, and the mission no enrolment: a card made of it would not get in", c.Mission)
		}
		if file, err = m.Marshal(); err != nil {
			return nil, err
		}
		made.Mission, made.RootKey = m.Name, m.HasRootKey()
	}
	if made.Release, err = checkBase(c.Base); err != nil {
		return nil, err
	}
	note := cardNote(c.Mission)
	taken, err := note.read()
	if err != nil {
		return nil, err
	}
	kits, err := NewKits(taken, c.Count, c.First, draw)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return nil, err
	}
	// Noted before they are made: a number that is noted and not used harms nobody.
	if err := note.add(kits); err != nil {
		return nil, err
	}
	for _, k := range kits {
		settings, err := kitFile(k, country)
		if err != nil {
			return nil, err
		}
		at := filepath.Join(c.Out, "card-"+strings.ToLower(strings.ReplaceAll(k.Name, " ", "-"))+".img")
		if err := personalCopy(at, c.Base, card.Personal{Kit: settings, Mission: file}); err != nil {
			return nil, fmt.Errorf("card %s: %w", k.Name, err)
		}
		made.Cards = append(made.Cards, Card{k, at})
	}
	return made, nil
}

func draw(n int) int {
	i, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil { // it never fails: the runtime ends the program first
		return 0
	}
	return int(i.Int64())
}

// kitFile is kit.toml of a card, and it is checked as the kit will.
func kitFile(k Kit, country string) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "[kit]\nnumber = %d\nname = %q\n", k.Number, k.Name)
	if country != "" {
		fmt.Fprintf(&b, "\n[access]\ncountry = %q\n", country)
	}
	if _, err := config.Parse(b.Bytes()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// openImage opens an image, compressed or not.
func openImage(path string) (r io.Reader, closed func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	if !strings.HasSuffix(path, ".zst") {
		return f, f.Close, nil
	}
	z, err := zstd.NewReader(f, zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return z, func() error { z.Close(); return f.Close() }, nil
}

// checkBase tells which release an image is of, and refuses what is not one, or has secrets of a mission in it.
func checkBase(path string) (r card.Release, err error) {
	in, closed, err := openImage(path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, closed()) }()
	// What is to be looked at is in the first two partitions.
	head := make([]byte, card.SlotA.Offset+card.SlotA.Size)
	if _, err := io.ReadFull(in, head); err != nil {
		return r, fmt.Errorf("image %s: %w", path, err)
	}
	disk := bytes.NewReader(head)
	if err := card.CheckMBR(disk); err != nil {
		return r, fmt.Errorf("image %s: %w", path, err)
	}
	if _, err := card.ReadPersonal(disk); !errors.Is(err, card.ErrNoPersonal) {
		return r, fmt.Errorf("image %s is a card of some kit already: take the neutral one", path)
	}
	r, err = card.ReadRelease(disk, card.A)
	if err != nil {
		return r, fmt.Errorf("image %s: %w", path, err)
	}
	return r, nil
}

// personalCopy makes a copy of an image, with holes where there are zeros, and personalises it. It is only for its
// owner's eyes: it lets kits into the mission.
func personalCopy(out, base string, p card.Personal) (err error) {
	in, closed, err := openImage(base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closed()) }()
	f, err := os.OpenFile(out, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(out))
		}
	}()
	if err := f.Truncate(card.Size); err != nil {
		return err
	}
	if err := copySparse(f, 0, in, card.Size); err != nil {
		return err
	}
	return card.WritePersonal(f, p)
}

// cardNote is the path of the note of the kits of a mission; "" keeps none.
type cardNote string

const noteSuffix = ".cards"

func (n cardNote) path() string { return string(n) + noteSuffix }

func (n cardNote) read() ([]Kit, error) {
	if n == "" {
		return nil, nil
	}
	f, err := os.Open(n.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var kits []Kit
	for s := bufio.NewScanner(io.LimitReader(f, 1<<20)); s.Scan(); {
		number, name, _ := strings.Cut(strings.TrimSpace(s.Text()), " ")
		if number == "" || strings.HasPrefix(number, "#") {
			continue
		}
		k, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: want a kit number", n.path(), s.Text())
		}
		kits = append(kits, Kit{k, strings.TrimSpace(name)})
	}
	return kits, nil
}

func (n cardNote) add(kits []Kit) (err error) {
	if n == "" {
		return nil
	}
	f, err := os.OpenFile(n.path(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var b bytes.Buffer
	for _, k := range kits {
		fmt.Fprintf(&b, "%d %s\n", k.Number, k.Name)
	}
	_, err = f.Write(b.Bytes())
	return err
}

// Report tells what was made.
func (m *Made) Report(w io.Writer) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NUMBER\tNAME\tFILE")
	for _, c := range m.Cards {
		fmt.Fprintf(t, "%d\t%s\t%s\n", c.Number, c.Name, c.File)
	}
	_ = t.Flush() // into memory
	country := "not given: the kits keep to the channels that are allowed everywhere"
	if m.Country != "" {
		country = m.Country
	}
	fmt.Fprintf(&b, "\nversion %s, country %s\n", m.Release.Version, country)
	switch {
	case m.Mission == "":
		fmt.Fprintln(&b, "No mission: the kits learn it by pairing, or each founds its own.")
	case m.RootKey:
		fmt.Fprintf(&b, "Mission %q. Until its first start each card has the mission's root key on it: who has the card or the\nfile is in. A kit erases it when it has made its own key. Remove the files when the cards are written.\n", m.Mission)
	default:
		fmt.Fprintf(&b, "Mission %q, without its root key. The files have the Wi-Fi's passphrase in them: remove them when the cards\nare written.\n", m.Mission)
	}
	fmt.Fprintln(&b, "Next: fieldkit flash FILE DEVICE")
	_, err := w.Write(b.Bytes())
	return err
}
