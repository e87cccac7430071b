package enrol

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"fieldkit/overlay/ident"
	"fieldkit/overlay/wire"
)

// Bounds on accounts.
const (
	MaxAccounts = 4096
	MaxBook     = 4 << 20 // bytes
	maxName     = 64      // bytes of an account's name
	maxPassword = 128     // bytes
	maxUsers    = 16      // user names of one account
)

// iterations of PBKDF2 for a password (RFC 8018 §5.2). Passwords are drawn, so this guards those that somebody chose.
const iterations = 20_000

// What Add refuses, and what a damaged book is.
var (
	ErrAccount = errors.New("enrolment account")
	ErrBook    = errors.New("book of enrolment accounts")
)

// Account is somebody who may enrol.
type Account struct {
	Name string `json:"name"` // that the enrolment request gives, with the password
	// Users are the user names that its certificate may carry, the first one where the request asks for none. A kit's
	// account may have none: its certificate has the kit's own name then (ident.KitUser).
	Users []string `json:"users,omitempty"`
	// Kit makes the certificate an intermediate, with which the kit certifies its handsets.
	Kit bool `json:"kit,omitempty"`
	// MaxNodeIDs is how many Node-IDs it may have, 1 to ident.MaxNodeIDs; 0 is 1.
	MaxNodeIDs int `json:"max_node_ids,omitempty"`
	// NodeIDs are those that it was given: "if the same user returns … the enrollment server should return the same
	// Node-IDs" (RFC 6940 §11.3).
	NodeIDs []string `json:"node_ids,omitempty"`
	Salt    []byte   `json:"salt"`
	Hash    []byte   `json:"hash"` // of the password
}

// Book keeps the accounts somewhere. Update hands what is kept to change and keeps what that returns, whole or not at
// all, before anybody else's Update begins; nil means that nothing changed. Nothing was kept yet: old is empty.
type Book interface {
	Update(change func(old []byte) (kept []byte, err error)) error
}

// Add makes an account with a password.
func Add(b Book, a Account, password string) error {
	if err := a.prepare(password); err != nil {
		return err
	}
	return change(b, func(all []Account) ([]Account, error) {
		if slices.ContainsFunc(all, func(o Account) bool { return o.Name == a.Name }) {
			return nil, fmt.Errorf("%w %q: there is one", ErrAccount, a.Name)
		}
		return a.join(all)
	})
}

// Renew is Add, but an account that there is already gets the password: "if the same user returns … the enrollment server
// should return the same Node-IDs" (RFC 6940 §11.3). The rest of it stays as it was.
func Renew(b Book, a Account, password string) error {
	if err := a.prepare(password); err != nil {
		return err
	}
	return change(b, func(all []Account) ([]Account, error) {
		for i := range all {
			if all[i].Name == a.Name {
				all[i].Salt, all[i].Hash = a.Salt, a.Hash
				return all, nil
			}
		}
		return a.join(all)
	})
}

// Lock takes the password from an account, which enrols no more until Renew. What it was given it keeps.
func Lock(b Book, name string) error {
	return change(b, func(all []Account) ([]Account, error) {
		for i := range all {
			if all[i].Name == name {
				all[i].Salt, all[i].Hash = nil, nil
				return all, nil
			}
		}
		return nil, fmt.Errorf("%w %q: there is none", ErrAccount, name)
	})
}

// prepare checks a new account and gives it a password.
func (a *Account) prepare(password string) error {
	if a.Name == "" || len(a.Name) > maxName || password == "" || len(password) > maxPassword {
		return fmt.Errorf("%w: name of %d and password of %d bytes, at most %d and %d", ErrAccount, len(a.Name), len(password), maxName, maxPassword)
	}
	if a.MaxNodeIDs < 0 || a.MaxNodeIDs > ident.MaxNodeIDs {
		return fmt.Errorf("%w %q: %d Node-IDs, at most %d", ErrAccount, a.Name, a.MaxNodeIDs, ident.MaxNodeIDs)
	}
	if len(a.Users) > maxUsers || len(a.Users) == 0 && !a.Kit {
		return fmt.Errorf("%w %q: %d user names, want 1 to %d", ErrAccount, a.Name, len(a.Users), maxUsers)
	}
	for _, u := range a.Users {
		if err := ident.ValidateUser(u); err != nil {
			return fmt.Errorf("%w %q: %w", ErrAccount, a.Name, err)
		}
	}
	a.NodeIDs, a.Salt = nil, make([]byte, 16)
	_, _ = rand.Read(a.Salt) // it never fails: the runtime ends the program first
	var err error
	a.Hash, err = hash(password, a.Salt)
	return err
}

// join appends a new account to all.
func (a *Account) join(all []Account) ([]Account, error) {
	if len(all) >= MaxAccounts {
		return nil, fmt.Errorf("%w: more than %d", ErrAccount, MaxAccounts)
	}
	for _, o := range all {
		// "These names MUST be unique" (RFC 6940 §13.3).
		if i := slices.IndexFunc(a.Users, func(u string) bool { return slices.Contains(o.Users, u) }); i >= 0 {
			return nil, fmt.Errorf("%w %q: user name %q is that of %q", ErrAccount, a.Name, a.Users[i], o.Name)
		}
	}
	return append(all, *a), nil
}

// List is all accounts, as they are kept.
func List(b Book) (all []Account, err error) {
	err = change(b, func(kept []Account) ([]Account, error) {
		all = kept
		return nil, nil
	})
	return all, err
}

// change updates the accounts; nil keeps them as they are.
func change(b Book, f func([]Account) ([]Account, error)) error {
	return b.Update(func(old []byte) ([]byte, error) {
		all, err := parseBook(old)
		if err != nil {
			return nil, err
		}
		if all, err = f(all); err != nil || all == nil {
			return nil, err
		}
		return json.MarshalIndent(all, "", "  ")
	})
}

func parseBook(b []byte) ([]Account, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) > MaxBook {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", ErrBook, len(b), MaxBook)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	var all []Account
	if err := dec.Decode(&all); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBook, err)
	}
	if dec.More() || len(all) > MaxAccounts {
		return nil, fmt.Errorf("%w: more than one list, or more than %d accounts", ErrBook, MaxAccounts)
	}
	for i := range all {
		if _, err := all[i].nodes(); err != nil {
			return nil, fmt.Errorf("%w: account %q: %w", ErrBook, all[i].Name, err)
		}
	}
	return all, nil
}

func (a *Account) nodes() ([]wire.NodeID, error) {
	if len(a.NodeIDs) > ident.MaxNodeIDs {
		return nil, fmt.Errorf("%d Node-IDs, at most %d", len(a.NodeIDs), ident.MaxNodeIDs)
	}
	ids := make([]wire.NodeID, len(a.NodeIDs))
	for i, s := range a.NodeIDs {
		var err error
		if ids[i], err = wire.ParseNodeID(s); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

func hash(password string, salt []byte) ([]byte, error) {
	h, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("password hash: %w", err)
	}
	return h, nil
}

// authenticate takes as long for an account that is not there as for a wrong password, so that names cannot be tried
// out. "The username and password strings MUST be UTF-8 strings compared as binary objects."
func authenticate(all []Account, name, password string) (int, bool) {
	i := slices.IndexFunc(all, func(a Account) bool { return a.Name == name })
	a := Account{Salt: make([]byte, 16), Hash: make([]byte, sha256.Size)}
	if i >= 0 {
		a = all[i]
	}
	h, err := hash(password, a.Salt)
	// An account without a password has no hash, which is no hash of anything.
	return i, err == nil && subtle.ConstantTimeCompare(h, a.Hash) == 1 && i >= 0
}
