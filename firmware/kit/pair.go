package kit

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"fieldkit/board"
	"fieldkit/board/netif"
	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/config"
	"fieldkit/firmware/erase"
	"fieldkit/firmware/mission"
	"fieldkit/firmware/pair"
	"fieldkit/overlay/enrol"
	"fieldkit/overlay/ident"
	"fieldkit/ui"
)

// founderItem is the overlay and the name of the kit that let this one in there, for people.
const founderItem = "founder-name"

// ErrRestart is how Run ends when the kit is another one now: it joined another mission, or it was erased. New makes the
// one that it is.
var ErrRestart = errors.New("the kit is another one now")

// pairing is what the button does beyond counting out.
type pairing struct {
	pairer *pair.Pairer
	end    context.CancelCauseFunc // of Run
	joined atomic.Bool             // of another mission, from the next start on
}

// pairingShown is how long the health tree tells why a pairing failed: long enough to walk to a phone.
const pairingShown = 10 * time.Minute

func (k *Kit) newPairing() error {
	var err error
	k.pairing.pairer, err = pair.New(pair.Config{
		Port: mission.EnrolPort, Links: k.pairLinks, Membership: membership{k}, Log: k.log,
		OnStatus: func(pair.Status) { k.lights.wake() }, OnRestart: func() { k.pairing.end(ErrRestart) },
	})
	return err
}

// pressed is told each press by the board; it does not block.
func (k *Kit) pressed(p board.Press) {
	k.log.Info("button", "press", p)
	switch p {
	case board.Short:
		k.pairing.pairer.Tap()
	case board.Pair:
		k.pairing.pairer.Press()
	case board.Erase:
		go k.eraseAll()
	}
}

// runPairing serves the button and tells people how the last pairing ended.
func (k *Kit) runPairing(ctx context.Context, ready func()) error {
	ready()
	return both(ctx, k.pairing.pairer.Run, func(ctx context.Context) error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		var last pair.Status
		var ended time.Time
		for {
			switch s := k.pairing.pairer.Status(); {
			case s.Stage == pair.Ended && s != last:
				ended = time.Now()
				k.tellPairing(s)
			case s.Stage == pair.Searching, !ended.IsZero() && time.Since(ended) >= pairingShown:
				ended = time.Time{}
				k.health.Remove("pairing")
			}
			last = k.pairing.pairer.Status()
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	})
}

// advice is what to do about the end of a pairing.
var advice = map[pair.Why]string{
	pair.Nobody:  "hold the buttons of both for 5 s, and look whether a cable leads from one to the other",
	pair.Crowd:   "try again with two, where no third is pressed",
	pair.Foreign: "erase one of them first: hold its button for 15 s",
	pair.Keyless: "take a card that was made from the mission's file",
	pair.Broken:  "try again; if the codes differed, somebody is between them",
}

func (k *Kit) tellPairing(s pair.Status) {
	if s.Why == pair.Paired {
		k.health.OK("pairing")
		return
	}
	text := "not paired"
	if s.Peer.Name != "" {
		text += fmt.Sprintf(" with %.64q", s.Peer.Name)
	}
	text += ": " + s.Why.String()
	switch {
	case s.Why == pair.Keyless && s.Self.Alone && s.Peer.Founder != "":
		text += fmt.Sprintf("; press this one and %.64q, which founded it", s.Peer.Founder)
	case s.Why == pair.Keyless && !s.Self.Alone && s.Self.Founder != "":
		text += fmt.Sprintf("; press %.64q, which founded it, and the other one", s.Self.Founder)
	case advice[s.Why] != "":
		text += "; " + advice[s.Why]
	}
	k.health.Warn("pairing", text)
}

// pairingLights is what the board shows of a pairing.
func (k *Kit) pairingLights() board.Pairing {
	s := k.pairing.pairer.Status()
	switch s.Stage {
	case pair.Searching:
		return board.Pairing{Stage: board.PairSearching}
	case pair.Comparing:
		return board.Pairing{Stage: board.PairComparing, Code: board.CodeOf(s.Code)}
	case pair.Joining:
		return board.Pairing{Stage: board.PairJoining}
	case pair.Ended:
		if s.Why == pair.Paired {
			return board.Pairing{Stage: board.PairDone}
		}
		return board.Pairing{Stage: board.PairFailed, Why: int(s.Why)}
	}
	return board.Pairing{}
}

// pairingStatus is the same for the page and programs.
func (k *Kit) pairingStatus() ui.Pairing {
	s := k.pairing.pairer.Status()
	p := ui.Pairing{Stage: s.Stage.String(), Other: s.Peer.Name, Confirmed: s.Confirmed}
	switch s.Stage {
	case pair.Comparing:
		p.Code = board.CodeOf(s.Code).String()
	case pair.Ended:
		p.Why = s.Why.String()
	}
	return p
}

// pairLinks are the cables. Kits that are stations of each other's access points are of one mission already, and phones
// there have no part in it.
func (k *Kit) pairLinks() (links []pair.Link) {
	for _, i := range *k.interfaces.Load() {
		if i.Role() == netif.Link && i.Name != k.cfg.Handset.Interface && k.isLink(i) && slices.ContainsFunc(i.Addrs, linkLocal) {
			links = append(links, pair.Link{Name: i.Name, Index: i.Index})
		}
	}
	return links
}

// membership is what pairing needs of the kit.
type membership struct{ k *Kit }

// Facts implements pair.Membership.
func (m membership) Facts() (pair.Facts, error) {
	k, now := m.k, m.k.mission.Load()
	spki, err := x509.MarshalPKIXPublicKey(k.id.Key().Public())
	if err != nil {
		return pair.Facts{}, fmt.Errorf("key of the kit: %w", err)
	}
	key := sha256.Sum256(spki)
	f := pair.Facts{
		Kit: k.id.NodeID().String(), Number: k.number, Name: k.name, Overlay: now.Overlay, Mission: now.Name, Key: hex.EncodeToString(key[:]),
	}
	if !now.Founded {
		if b, err := k.store.Load(founderItem); err == nil {
			if name, ok := strings.CutPrefix(string(b), now.Overlay+"\n"); ok { // not of a mission before
				f.Founder = name
			}
		}
		return f, nil
	}
	f.Founder = k.name
	switch _, err := mission.Founder(k.cfg.StateDir, now); {
	case err == nil:
		f.Admits = true
	case !errors.Is(err, mission.ErrNoRootKey):
		return f, err
	}
	f.Alone, err = k.foundedAlone()
	return f, err
}

// foundedAlone reports whether the kit founded its mission and let nobody else in.
func (k *Kit) foundedAlone() (bool, error) {
	if !k.mission.Load().Founded {
		return false, nil
	}
	accounts, err := enrol.List(mission.FounderBook(k.cfg.StateDir))
	return !slices.ContainsFunc(accounts, func(a enrol.Account) bool { return len(a.NodeIDs) > 0 }), err
}

// Admit implements pair.Membership: it is the enrolment server of RFC 6940 §11.3 for one account.
func (m membership) Admit(account, password string) (*pair.Admission, error) {
	k, now := m.k, m.k.mission.Load()
	a, err := mission.Founder(k.cfg.StateDir, now)
	if err != nil {
		return nil, err
	}
	book := mission.FounderBook(k.cfg.StateDir)
	s, err := enrol.NewServer(mission.EnrolPath, enrol.ServerConfig{
		Authority: a, Document: func() *ident.Document { return k.mission.Load().Document() }, Book: book, Log: k.log,
	})
	if err != nil {
		return nil, err
	}
	// "The server certificate MUST match the overlay name" (RFC 6940 §11.3).
	cert, err := a.ServerCertificate([]string{now.Overlay}, nil)
	if err != nil {
		return nil, err
	}
	offer := now.WithoutRootKey()
	offer.Founded = false
	b, err := offer.Marshal()
	if err != nil {
		return nil, err
	}
	if err := lockAll(book); err != nil {
		return nil, err
	}
	if err := enrol.Renew(book, enrol.Account{Name: account, Kit: true}, password); err != nil {
		return nil, err
	}
	return &pair.Admission{Offer: b, Enrolment: s, Certificate: cert, Close: func() error {
		err := enrol.Lock(book, account)
		k.checkMembership() // it may have others now
		return err
	}}, nil
}

// lockAll takes the password from accounts that were left open when the power went.
func lockAll(book mission.Book) error {
	all, err := enrol.List(book)
	for _, a := range all {
		if len(a.Hash) > 0 {
			err = errors.Join(err, enrol.Lock(book, a.Name))
		}
	}
	return err
}

// Join implements pair.Membership. The kit keeps its key; the mission, its Wi-Fi and its accounts are those of the other
// kit from the next start on, and its own accounts too where nobody has their name or number there.
func (m membership) Join(ctx context.Context, i pair.Invitation) error {
	k := m.k
	theirs, err := mission.Parse(i.Offer)
	if err != nil {
		return fmt.Errorf("offered mission: %w", err)
	}
	theirs = theirs.WithoutRootKey()
	theirs.Founded = false
	theirs.AddFree(k.mission.Load().Handsets)
	roots := x509.NewCertPool()
	for _, r := range theirs.Document().RootCerts {
		roots.AddCert(r)
	}
	client := &enrol.Client{Roots: roots, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return i.Dial(ctx) }}
	id, err := client.Enrol(ctx, theirs.Document(), enrol.Request{Account: i.Account, Password: i.Password, Key: k.id.Key()})
	if err != nil {
		return fmt.Errorf("enrolment in mission %q: %w", theirs.Name, err)
	}
	k.change.Lock()
	defer k.change.Unlock()
	if err := mission.Keep(k.cfg.StateDir, theirs, id); err != nil {
		return fmt.Errorf("membership of mission %q not kept: %w", theirs.Name, err)
	}
	k.pairing.joined.Store(true)
	if err := k.store.Save(founderItem, []byte(theirs.Overlay+"\n"+i.Host.Name)); err != nil {
		k.log.Warn("who founded the mission not kept", "err", err) // only people want to know
	}
	k.log.Info("joined another mission", "mission", theirs.Name, "node", id.NodeID())
	return nil
}

var errErasing = errors.New("the kit is being erased")

// eraseAll makes the kit new. From the mark on it is decided; what is left to do, is done once nothing writes any more: on
// a card by PID 1 at the next boot, elsewhere when the parts have ended.
func (k *Kit) eraseAll() {
	err := erase.Mark(k.cfg.StateDir)
	if k.boot != nil && k.cfg.StateDir != config.CardState {
		// The state is in memory, as the card's is of no use. That is erased all the same, and may be of use then.
		if e := erase.Mark(config.CardState); e != nil {
			k.log.Warn("the card is not erased", "err", e)
		}
	}
	if err != nil {
		k.health.Fault("erasing", err.Error())
		return
	}
	k.log.Warn("erasing everything, as the button says")
	if k.boot != nil {
		err := k.boot.Reboot(initlink.Normal)
		if err == nil {
			return
		}
		k.log.Error("init does not reboot", "err", err)
	}
	k.pairing.end(errErasing)
}

// ended is what Run returns once all parts have: err is what the group of them said, cause is why it was ended.
func (k *Kit) ended(err, cause error) error {
	switch {
	case errors.Is(cause, errErasing):
		if _, e := erase.Finish(k.cfg.StateDir); e != nil {
			return errors.Join(err, e)
		}
	case !errors.Is(cause, ErrRestart):
		return err
	}
	if err != nil { // a part that does not end keeps what its successor needs
		return err
	}
	return ErrRestart
}

// linkLocal reports whether an address is of a link and nothing beyond (RFC 4291 §2.5.6).
func linkLocal(p netip.Prefix) bool { return p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() }
