// Package store keeps the small persistent state of a kit: keys, certificates,
// bindings, counters. Each item is one file with a checksum, written to a
// temporary file, synced, renamed into place and followed by a sync of the
// directory, so that a power cut at any moment leaves the old or the new
// content and never a mixture. The content before the last is kept beside it
// and takes over when the file turns out damaged.
//
// It does not encrypt, and it does not decide how often to write: flash wears,
// callers write when something changed. Save blocks on the flash, so loops call
// it from a worker. A Store may be used by any number of goroutines of one
// process; two processes must not share a directory.
//
// When Load falls back to the previous content, what was saved last is lost.
// Counters that must never go backwards (RFC 6940 §7.2 storage_time) therefore
// need a margin after a recovery; Recovered tells.
package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// DefaultMaxSize is the largest item in bytes where Config does not say.
const DefaultMaxSize = 1 << 20

// MaxName is the longest name of an item in bytes.
const MaxName = 64

// Errors of a Store.
var (
	ErrNotFound = errors.New("item not stored")
	ErrCorrupt  = errors.New("stored item damaged and no good copy left")
	ErrTooLarge = errors.New("item larger than the limit")
	ErrName     = errors.New("item name not usable")
)

const (
	fileMode       = 0o600
	dirMode        = 0o700
	previousSuffix = ".prev"
	temporary      = ".tmp"
)

// headerFormat begins each file. It is a comment in TOML and ignored outside
// the blocks of PEM, so that ordinary tools still read such items.
const headerFormat = "# fieldkit store 1 %d %s\n"

const headerPrefix = "# fieldkit store 1 "

// maxHeader bounds the first line: prefix, length, SHA-256 in hex, newline.
const maxHeader = len(headerPrefix) + 20 + 1 + 2*sha256.Size + 1

// Config of a Store.
type Config struct {
	MaxSize int // bytes of one item; 0 is DefaultMaxSize
	Log     *slog.Logger
}

// Stats counts what a Store did.
type Stats struct {
	Saves     uint64 // items written
	Failures  uint64 // Saves that failed
	Recovered uint64 // Loads that fell back to the previous content
	Corrupt   uint64 // Loads that found nothing good
}

// fileSystem is what the Store needs of the operating system; the tests put one
// in its place that loses power.
type fileSystem interface {
	// write makes or truncates the file, writes data and syncs it.
	write(name string, data []byte) error
	// read returns at most limit+1 bytes; fs.ErrNotExist if there is no file.
	read(name string, limit int) ([]byte, error)
	rename(from, to string) error
	remove(name string) error
	syncDir() error
}

// Store is a directory of items. Make it with Open.
type Store struct {
	files   fileSystem
	maxSize int
	log     *slog.Logger

	mu        sync.Mutex // one writer at a time: the steps of a Save are not atomic together
	stats     Stats
	recovered map[string]error
}

// Open makes the directory if need be (mode 0700) and returns its Store.
func Open(dir string, cfg Config) (*Store, error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	return open(osFiles{dir}, cfg), nil
}

func open(f fileSystem, cfg Config) *Store {
	if cfg.MaxSize <= 0 {
		cfg.MaxSize = DefaultMaxSize
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	return &Store{files: f, maxSize: cfg.MaxSize, log: cfg.Log, recovered: map[string]error{}}
}

// Save replaces the item. When it returns nil the content survives a power cut.
// The content before it is kept as the fall-back of Load.
func (s *Store) Save(name string, data []byte) error {
	return s.save(name, data, false)
}

// Overwrite replaces the item and its fall-back: afterwards no file of the
// store holds what was there before. Use it to take a secret out of an item.
// What flash keeps in blocks it has retired is beyond the reach of software.
func (s *Store) Overwrite(name string, data []byte) error {
	return s.save(name, data, true)
}

func (s *Store) save(name string, data []byte, both bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	if len(data) > s.maxSize {
		return fmt.Errorf("%s: %d bytes: %w", name, len(data), ErrTooLarge)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.replace(name, encode(data), both); err != nil {
		s.stats.Failures++
		return fmt.Errorf("saving %s: %w", name, err)
	}
	s.stats.Saves++
	return nil
}

// replace does the steps of a Save. At each point between them Load finds the
// old or the new content.
func (s *Store) replace(name string, file []byte, both bool) error {
	prev, tmp := name+previousSuffix, name+temporary
	if err := s.files.write(tmp, file); err != nil {
		return err
	}
	_, errNow := s.readFile(name)
	_, errPrev := s.readFile(prev)
	switch {
	case both:
	case errNow == nil:
		// Only good content may push out the previous one.
		if err := s.files.rename(name, prev); err != nil {
			return err
		}
		errPrev = nil
	}
	if err := s.files.rename(tmp, name); err != nil {
		return err
	}
	if err := s.files.syncDir(); err != nil {
		return err
	}
	if !both && errPrev == nil {
		return nil
	}
	// The first Save, or the end of what was there: the fall-back is a second
	// copy of the same content, which also guards items written only once
	// against a block of flash that goes bad.
	if err := s.files.write(tmp, file); err != nil {
		return err
	}
	if err := s.files.rename(tmp, prev); err != nil {
		return err
	}
	return s.files.syncDir()
}

// Load returns the content of the item: what was saved last, or, where that is
// damaged or missing, what was saved before it. ErrNotFound if the item was
// never saved, ErrCorrupt if neither is good.
func (s *Store) Load(name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := s.readFile(name)
	if err == nil {
		return data, nil
	}
	data, errPrev := s.readFile(name + previousSuffix)
	if errPrev == nil {
		s.stats.Recovered++
		s.recovered[name] = err
		s.log.Warn("stored item taken from its previous copy", "item", name, "err", err)
		return data, nil
	}
	if errors.Is(err, fs.ErrNotExist) && errors.Is(errPrev, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	s.stats.Corrupt++
	return nil, fmt.Errorf("%s: %w: %w", name, ErrCorrupt, errors.Join(err, errPrev))
}

// Remove forgets the item and its fall-back. Removing what is not there is no
// error.
func (s *Store) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.recovered, name)
	// The fall-back goes first, else a power cut would bring it back to life.
	for _, suffix := range []string{previousSuffix, temporary, ""} {
		if err := s.files.remove(name + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing %s: %w", name, err)
		}
		if err := s.files.syncDir(); err != nil {
			return fmt.Errorf("removing %s: %w", name, err)
		}
	}
	return nil
}

// Recovered names the items that Load took from their previous copy since the
// Store was opened, with what was wrong.
func (s *Store) Recovered() map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]error, len(s.recovered))
	for k, v := range s.recovered {
		out[k] = v
	}
	return out
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

func (s *Store) readFile(name string) ([]byte, error) {
	limit := s.maxSize + maxHeader
	b, err := s.files.read(name, limit)
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%s: %w", name, ErrTooLarge)
	}
	data, err := decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}

// encode puts the header before data.
func encode(data []byte) []byte {
	sum := sha256.Sum256(data)
	return append(fmt.Appendf(nil, headerFormat, len(data), hex.EncodeToString(sum[:])), data...)
}

// errFormat is wrapped by every complaint of decode.
var errFormat = errors.New("stored file damaged")

// decode checks the header and returns what follows it.
func decode(b []byte) ([]byte, error) {
	line, data, ok := bytes.Cut(b, []byte{'\n'})
	if !ok || len(line) >= maxHeader {
		return nil, fmt.Errorf("%w: no header", errFormat)
	}
	rest, ok := strings.CutPrefix(string(line), headerPrefix)
	if !ok {
		return nil, fmt.Errorf("%w: no header", errFormat)
	}
	length, sum, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(length)
	if err != nil || n != len(data) || strconv.Itoa(n) != length {
		return nil, fmt.Errorf("%w: %d bytes where the header says %.20q", errFormat, len(data), length)
	}
	got := sha256.Sum256(data)
	if sum != hex.EncodeToString(got[:]) {
		return nil, fmt.Errorf("%w: wrong checksum", errFormat)
	}
	return data, nil
}

// checkName keeps names inside the directory and apart from the files the store
// makes itself.
func checkName(name string) error {
	ok := name != "" && len(name) <= MaxName && name[0] != '.' &&
		!strings.HasSuffix(name, previousSuffix) && !strings.HasSuffix(name, temporary)
	for i := range len(name) {
		c := name[i]
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_')
	}
	if !ok {
		return fmt.Errorf("%.*q: %w", MaxName, name, ErrName)
	}
	return nil
}

// osFiles is the fileSystem of a real directory.
type osFiles struct{ dir string }

func (o osFiles) path(name string) string { return filepath.Join(o.dir, name) }

func (o osFiles) write(name string, data []byte) error {
	f, err := os.OpenFile(o.path(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	// A file left by somebody else may have another mode.
	err = f.Chmod(fileMode)
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (o osFiles) read(name string, limit int) ([]byte, error) {
	f, err := os.Open(o.path(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, int64(limit)+1))
}

func (o osFiles) rename(from, to string) error { return os.Rename(o.path(from), o.path(to)) }
func (o osFiles) remove(name string) error     { return os.Remove(o.path(name)) }

func (o osFiles) syncDir() error {
	d, err := os.Open(o.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
