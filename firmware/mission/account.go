package mission

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Kit numbers: a handset's number begins with its kit's. Below 100 are services and positions, above 899 what
// looks like the public network's codes.
const (
	FirstKit    = 100
	LastKit     = 899
	perKit      = 100 // numbers of one kit
	defaultKit  = FirstKit
	maxName     = 64
	numberWidth = 5
)

// What AddHandset refuses.
var (
	ErrNameTaken   = errors.New("name already in use")
	ErrNumberTaken = errors.New("number already in use")
	ErrFull        = errors.New("no number left")
	ErrNumber      = errors.New("handset number")
)

// printable are the characters of passwords and passphrases.
const printable = ` !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_` + "`abcdefghijklmnopqrstuvwxyz{|}~"

// ParseNumber checks a handset's number and returns its kit's.
func ParseNumber(s string) (kit int, err error) {
	n, err := strconv.Atoi(s)
	if err != nil || len(s) != numberWidth || n < FirstKit*perKit || n >= (LastKit+1)*perKit {
		return 0, fmt.Errorf("%w %q: want %d digits that begin with a kit number from %d to %d", ErrNumber, s, numberWidth, FirstKit, LastKit)
	}
	return n / perKit, nil
}

// KitNumber is the number of a kit that was given none: from its key, so that it is the same after every start.
// Two kits of a mission may get the same one; that is for the overlay to notice.
func KitNumber(id wire.NodeID) int {
	b := id.Bytes()
	if len(b) < 8 {
		return FirstKit
	}
	return FirstKit + int(binary.BigEndian.Uint64(b)%(LastKit-FirstKit+1))
}

// KeyNumber is KitNumber by the kit's key, whoever assigned its Node-ID: a kit that is let in elsewhere keeps the number
// that is written on it.
func KeyNumber(id *ident.Identity) (int, error) {
	own, err := ident.KeyNodeID(id.TLSCertificate().Leaf, wire.MinNodeIDLen)
	if err != nil {
		return 0, err
	}
	return KitNumber(own), nil
}

// AddFree takes over accounts of another mission whose name and number nobody has here, as many as there is room for.
func (m *Mission) AddFree(others []Handset) {
	for _, o := range others {
		taken := func(h Handset) bool {
			return h.Number == o.Number || fold(h.Name) == fold(o.Name) || h.Name == o.Number || h.Number == o.Name
		}
		if len(m.Handsets) < MaxHandsets && !slices.ContainsFunc(m.Handsets, taken) {
			m.Handsets = append(m.Handsets, o)
		}
	}
}

// AddHandset makes an account with the lowest free number of that kit, and a password; kit 0 is the first kit.
func (m *Mission) AddHandset(name string, kit int) (Handset, error) {
	if kit == 0 {
		kit = defaultKit
	}
	if kit < FirstKit || kit > LastKit {
		return Handset{}, fmt.Errorf("kit number %d: want %d to %d", kit, FirstKit, LastKit)
	}
	for i := 1; i <= perKit; i++ { // from 01; 00 is the last to be given
		number := fmt.Sprintf("%d%02d", kit, i%perKit)
		if !slices.ContainsFunc(m.Handsets, func(h Handset) bool { return h.Number == number || h.Name == number }) {
			return m.AddNumber(name, number)
		}
	}
	return Handset{}, fmt.Errorf("kit %d: %w", kit, ErrFull)
}

// AddNumber makes an account with a chosen number.
func (m *Mission) AddNumber(name, number string) (Handset, error) {
	name = strings.Join(strings.Fields(name), " ")
	if err := validateText("handset.name", name, 1, maxName); err != nil {
		return Handset{}, err
	}
	if _, err := ParseNumber(number); err != nil {
		return Handset{}, err
	}
	if len(m.Handsets) >= MaxHandsets {
		return Handset{}, ErrFull
	}
	for _, h := range m.Handsets {
		if fold(h.Name) == fold(name) || h.Number == name {
			return Handset{}, fmt.Errorf("handset %q: %w by number %s", name, ErrNameTaken, h.Number)
		}
		if h.Number == number || h.Name == number {
			return Handset{}, fmt.Errorf("handset number %s: %w by %q", number, ErrNumberTaken, h.Name)
		}
	}
	h := Handset{Name: name, Number: number, Password: password()}
	m.Handsets = append(m.Handsets, h)
	return h, nil
}

func fold(s string) string { return strings.ToLower(s) }

// validateText checks a name that people read: letters of any script, no control characters.
func validateText(key, s string, low, high int) error {
	if len(s) < low || len(s) > high {
		return invalid(key, "%d bytes: want %d to %d", len(s), low, high)
	}
	if !utf8.ValidString(s) || strings.TrimSpace(s) != s {
		return invalid(key, "%q: not UTF-8, or white space at an end", s)
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return invalid(key, "%q: character %U", s, c)
		}
	}
	return nil
}

// Syllables that are told apart by ear over a bad radio and read off a small screen: no l, o, 0, 1, q, x, no two
// that sound alike.
const (
	consonants = "bdfghkmnprstvz" // 14
	vowels     = "aeiu"           // 4
)

// pick draws one letter without bias.
func pick(from string) byte {
	limit := 256 - 256%len(from)
	for {
		var b [1]byte
		_, _ = rand.Read(b[:]) // it never fails: the runtime ends the program first
		if int(b[0]) < limit {
			return from[int(b[0])%len(from)]
		}
	}
}

// word is two syllables: 11 bits.
func word() string {
	return string([]byte{pick(consonants), pick(vowels), pick(consonants), pick(vowels)})
}

// passphrase is six words, 69 bits: against guessing offline, which a recorded WPA handshake allows, and still to
// be read out to somebody who types it.
func passphrase() string {
	words := make([]string, 6)
	for i := range words {
		words[i] = word()
	}
	return strings.Join(words, "-")
}

// password is 120 bits; it is typed once, or scanned.
func password() string { return letters(24) }

// sharedSecret is 260 bits, because whoever hears a handshake can guess at it offline: "in TLS-PSK mode, such keys are
// very susceptible to dictionary attacks" (RFC 6940 §13.4). Nobody types it: it is in the mission file.
func sharedSecret() string { return letters(52) }

// letters draws n letters of five bits each.
func letters(n int) string {
	const letters = "abcdefghijkmnpqrstuvwxyz23456789" // 32, without l, o, 0, 1
	b := make([]byte, n)
	for i := range b {
		b[i] = pick(letters)
	}
	return string(b)
}
