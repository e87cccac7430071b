package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"fieldkit/board/store"
	"fieldkit/firmware/boot/initlink"
	"fieldkit/firmware/card"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errPower = errors.New("no power")

// power is cut after so many operations that reach the card; negative is never.
type power struct {
	mu   sync.Mutex
	left int
	used int
}

func (p *power) use() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used++
	if p.left == 0 {
		return errPower
	}
	p.left--
	return nil
}

// memoryCard is a card in memory. What was not synced may be lost at a power cut, sector by sector.
type memoryCard struct {
	*power
	dataMu  sync.Mutex
	sectors map[int64][card.SectorSize]byte
	dirty   map[int64][card.SectorSize]byte
	flip    int64 // a bit of the byte there reads differently; 0: none
}

func (c *memoryCard) ReadAt(b []byte, at int64) (int, error) {
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	for done := 0; done < len(b); {
		p := at + int64(done)
		s, ok := c.dirty[p/card.SectorSize]
		if !ok {
			s = c.sectors[p/card.SectorSize]
		}
		if c.flip != 0 && c.flip/card.SectorSize == p/card.SectorSize {
			s[c.flip%card.SectorSize] ^= 1
		}
		done += copy(b[done:], s[p%card.SectorSize:])
	}
	return len(b), nil
}

func (c *memoryCard) WriteAt(b []byte, at int64) (int, error) {
	if at%card.SectorSize != 0 || len(b)%card.SectorSize != 0 {
		return 0, fmt.Errorf("write of %d bytes at %d", len(b), at)
	}
	err := c.use()
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	for ; len(b) > 0; b = b[card.SectorSize:] {
		if err == nil || rand.N(2) == 0 { // at the cut some sectors of the write still get there
			c.dirty[at/card.SectorSize] = [card.SectorSize]byte(b)
		}
		at += card.SectorSize
	}
	return len(b), err
}

func (c *memoryCard) Sync() error {
	if err := c.use(); err != nil {
		return err
	}
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	for n, s := range c.dirty {
		c.sectors[n] = s
	}
	clear(c.dirty)
	return nil
}

func (c *memoryCard) Close() error { return nil }

// afterCut is the card as it is found after the power was cut: any of what was not synced may have got there.
func (c *memoryCard) afterCut(r *rand.Rand) {
	c.dataMu.Lock()
	defer c.dataMu.Unlock()
	for n, s := range c.dirty {
		if r.IntN(2) == 0 {
			c.sectors[n] = s
		}
	}
	clear(c.dirty)
	c.left = -1
}

// memoryItems is a store.Store, whose Save is whole or not at all.
type memoryItems struct {
	*power
	mu    sync.Mutex
	items map[string][]byte
}

func (m *memoryItems) Load(name string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.items[name]; ok {
		return b, nil
	}
	return nil, store.ErrNotFound
}

func (m *memoryItems) Save(name string, b []byte) error {
	if err := m.use(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.items[name] = b
	return nil
}

// fakeInit is PID 1: it notes what it was asked for.
type fakeInit struct {
	reboot    chan initlink.Kind
	committed chan struct{}
	err       error
}

func newFakeInit() *fakeInit {
	return &fakeInit{reboot: make(chan initlink.Kind, 4), committed: make(chan struct{}, 4)}
}

func (f *fakeInit) Reboot(k initlink.Kind) error {
	if f.err != nil {
		return f.err
	}
	f.reboot <- k
	return nil
}

func (f *fakeInit) Committed() error {
	f.committed <- struct{}{}
	return nil
}

// release n is newer than release n-1.
func release(n uint64) card.Release {
	return card.Release{
		Product: card.Product, Layout: card.LayoutVersion, Version: fmt.Sprintf("v0.%d", n), Sequence: n, Commit: "c", Kernel: "6.12",
		Flavour: "rpi", Boards: "brcm,bcm2837 brcm,bcm2711", Time: time.Date(2026, 1, 1, 0, 0, int(n), 0, time.UTC),
	}
}

func system(n uint64, s card.Slot) System {
	return System{Release: release(n), Boards: []string{"raspberrypi,3-model-b", "brcm,bcm2837"}, Slot: s}
}

// fat is the beginning of a FAT32 file system with files in its root directory, in clusters of one sector.
func fat(files map[string][]byte, names ...string) []byte {
	le := binary.LittleEndian
	const reserved, perFAT = 1, 16
	boot := make([]byte, card.SectorSize)
	le.PutUint16(boot[11:], card.SectorSize)
	boot[13], boot[16] = 1, 1
	le.PutUint16(boot[14:], reserved)
	le.PutUint32(boot[32:], 40000)
	le.PutUint32(boot[36:], perFAT)
	le.PutUint32(boot[44:], 2)
	boot[510], boot[511] = 0x55, 0xaa
	table := make([]byte, perFAT*card.SectorSize)
	le.PutUint32(table[8:], 0x0fffffff) // the root directory: one cluster
	dir, data := make([]byte, card.SectorSize), []byte{}
	at, next := 0, uint32(3)
	for i, name := range names {
		short := fmt.Appendf(nil, "F%-7d   ", i)
		sum := byte(0)
		for _, c := range short {
			sum = sum>>1 | sum<<7
			sum += c
		}
		u := append(utf16.Encode([]rune(name)), 0)
		parts := (len(u) + 12) / 13
		for p := parts; p > 0; p-- {
			e := dir[at:]
			if e[0], e[11], e[13] = byte(p), 0x0f, sum; p == parts {
				e[0] |= 0x40
			}
			for j, off := range [13]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
				c := uint16(0xffff)
				if n := 13*(p-1) + j; n < len(u) {
					c = u[n]
				}
				le.PutUint16(e[off:], c)
			}
			at += 32
		}
		e, b := dir[at:], files[name]
		copy(e, short)
		le.PutUint16(e[26:], uint16(next))
		le.PutUint32(e[28:], uint32(len(b)))
		at += 32
		for done := 0; done < len(b); done += card.SectorSize {
			link := next + 1
			if done+card.SectorSize >= len(b) {
				link = 0x0fffffff
			}
			le.PutUint32(table[4*next:], link)
			data = append(data, append(bytes.Clone(b[done:min(done+card.SectorSize, len(b))]), make([]byte, card.SectorSize)...)[:card.SectorSize]...)
			next++
		}
	}
	return bytes.Join([][]byte{boot, table, dir, data}, nil)
}

// slot is the content of a slot with release n: a file system, and behind it what does not compress.
func slot(t testing.TB, r card.Release) []byte {
	t.Helper()
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	fs := fat(map[string][]byte{card.ReleaseFile: b}, card.ReleaseFile)
	noise := make([]byte, 600<<10)
	random := rand.NewChaCha8([32]byte{byte(r.Sequence)})
	_, _ = random.Read(noise)
	return append(fs, noise...)
}

func manifest(t testing.TB, r card.Release) card.Manifest {
	t.Helper()
	b := slot(t, r)
	sum := sha256.Sum256(b)
	return card.Manifest{Release: r, Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
}

// newCard is a card with release n in slot A, which is committed.
func newCard(t testing.TB, n uint64) *memoryCard {
	t.Helper()
	c := &memoryCard{power: &power{left: -1}, sectors: map[int64][card.SectorSize]byte{}, dirty: map[int64][card.SectorSize]byte{}}
	auto, err := card.AutobootFor(card.A).Render()
	if err != nil {
		t.Fatal(err)
	}
	mbr := card.EncodeMBR()
	for at, b := range map[int64][]byte{
		0: mbr[:], card.Boot.Offset: fat(map[string][]byte{card.AutobootFile: auto[:]}, card.AutobootFile), card.SlotA.Offset: slot(t, release(n)),
	} {
		if _, err := c.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Sync(); err != nil {
		t.Fatal(err)
	}
	return c
}

// sign and verify stand for a mission, named by a byte.
func signAs(mission byte) func([]byte) ([]byte, error) {
	return func(blob []byte) ([]byte, error) {
		s := sha256.Sum256(append([]byte{mission}, blob...))
		return s[:], nil
	}
}

func verifyAs(mission byte) func(blob, signature []byte) error {
	return func(blob, signature []byte) error {
		if want, _ := signAs(mission)(blob); !bytes.Equal(want, signature) {
			return errors.New("signature of somebody else")
		}
		return nil
	}
}

// header is one that mission 1 signed.
func header(t testing.TB, m card.Manifest) []byte {
	t.Helper()
	b, err := Sign(m, signAs(1))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compress(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	return z.EncodeAll(b, nil)
}

// bundle is release n, signed by mission 1.
func bundle(t testing.TB, n uint64) []byte {
	t.Helper()
	return append(header(t, manifest(t, release(n))), compress(t, slot(t, release(n)))...)
}

// kit is one with an Updater.
type kit struct {
	*Updater
	card  *memoryCard
	items *memoryItems
	init  *fakeInit
	world func() World
}

// boot starts the system of a card as its firmware would. healthy is how the kit is.
func boot(t testing.TB, c *memoryCard, items *memoryItems, running uint64, trial bool, change func(*Config)) *kit {
	t.Helper()
	s, err := card.Committed(c)
	if err != nil {
		t.Fatalf("the card does not boot: %v", err)
	}
	if trial {
		s = s.Other()
	}
	k := &kit{card: c, items: items, init: newFakeInit(), world: func() World { return World{} }}
	cfg := Config{
		System: system(running, s), ID: "aa", Trial: trial, Open: func() (Disk, error) { return c, nil }, Items: items, Init: k.init,
		Verify: verifyAs(1), World: func(context.Context) World { return k.world() }, Delay: func() time.Duration { return 0 },
	}
	if change != nil {
		change(&cfg)
	}
	if k.Updater, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return k
}

// run runs the kit until the test ends or stop is called.
func (k *kit) run(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = k.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return stop
}

func newItems(p *power) *memoryItems { return &memoryItems{power: p, items: map[string][]byte{}} }
