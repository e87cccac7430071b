package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"fieldkit/firmware/card"
)

// endless is the beginning of a bomb: a few bytes that decompress to more than any slot has.
func endless(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 200 {
		if _, err := z.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// wide asks the decoder for a window of 64 MiB (RFC 8878 §3.1.1.1.2).
func wide(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithWindowSize(64<<20), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := z.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileBodies(t *testing.T) {
	good := manifest(t, release(2))
	whole := compress(t, slot(t, release(2)))
	change := func(f func(*card.Manifest)) card.Manifest {
		m := good
		f(&m)
		return m
	}
	other := manifest(t, release(3))
	other.Release = release(2)
	for name, c := range map[string]struct {
		m    card.Manifest
		body []byte
		want error
		says string
	}{
		"good":                       {good, whole, nil, ""},
		"cut in the middle":          {good, whole[:len(whole)/2], ErrTruncated, "before the slot does"},
		"cut before the last byte":   {good, whole[:len(whole)-1], ErrTruncated, ""},
		"nothing":                    {good, nil, ErrTruncated, ""},
		"says less than it has":      {change(func(m *card.Manifest) { m.Size -= card.SectorSize }), whole, ErrTooLarge, "more than the"},
		"says more than it has":      {change(func(m *card.Manifest) { m.Size += card.SectorSize }), whole, ErrTruncated, ""},
		"another digest":             {change(func(m *card.Manifest) { m.SHA256 = strings.Repeat("00", 32) }), whole, ErrDamaged, "the manifest says 0000"},
		"another release inside":     {other, compress(t, slot(t, release(3))), ErrDamaged, "it is release v0.3 (3), the manifest says v0.2 (2)"},
		"no Zstandard":               {good, slot(t, release(2)), ErrDamaged, ""},
		"a bit differs":              {good, flipped(whole, len(whole)/2), ErrDamaged, ""},
		"bomb":                       {good, endless(t), ErrTooLarge, ""},
		"window of 64 MiB":           {good, wide(t), ErrTooLarge, "memory"},
		"a second frame behind it":   {good, append(bytes.Clone(whole), whole...), ErrTooLarge, ""},
		"rubbish behind it":          {good, append(bytes.Clone(whole), "rubbish!"...), ErrDamaged, ""},
		"skippable frames, no slot":  {good, bytes.Repeat([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"), 1<<20), ErrTruncated, ""},
		"a slot of nothing but zero": {change(func(m *card.Manifest) { m.Size = 1 << 20; m.SHA256 = zeroDigest }), compress(t, make([]byte, 1<<20)), ErrDamaged, ""},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newCard(t, 1)
			before := disk.written()
			err := writeSlot(t.Context(), disk, card.B, c.m, bytes.NewReader(c.body), func(int) {})
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
			for n := range disk.written() {
				if at := n * card.SectorSize; !before[n] && (at < card.SlotB.Offset || at >= card.SlotB.Offset+c.m.Size) {
					t.Fatalf("sector at %d written", at)
				}
			}
			if !hasRelease(t, disk, card.A, 1) {
				t.Error("the running slot changed")
			}
		})
	}
}

var zeroDigest = func() string {
	s := sha256.Sum256(make([]byte, 1<<20))
	return hex.EncodeToString(s[:])
}()

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0x10
	return b
}

// written are the sectors that ever were.
func (c *memoryCard) written() map[int64]bool {
	w := map[int64]bool{}
	for n := range c.sectors {
		w[n] = true
	}
	for n := range c.dirty {
		w[n] = true
	}
	return w
}

// What the card gives back counts, not what was sent to it.
func TestACardThatReadsWrong(t *testing.T) {
	disk := newCard(t, 1)
	disk.flip = card.SlotB.Offset + 300<<10
	err := writeSlot(t.Context(), disk, card.B, manifest(t, release(2)), bytes.NewReader(compress(t, slot(t, release(2)))), func(int) {})
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "the card may be failing") {
		t.Error(err)
	}
}

func TestWritingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := writeSlot(ctx, newCard(t, 1), card.B, manifest(t, release(2)), bytes.NewReader(compress(t, slot(t, release(2)))), func(int) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A kit makes the bundle anew from its slot: header and content are the same as those it got, whatever stands behind.
func TestABundleIsMadeAnewFromTheSlot(t *testing.T) {
	disk := newCard(t, 2)
	if _, err := disk.WriteAt(bytes.Repeat([]byte{7}, 4096), (card.SlotA.Offset+manifest(t, release(2)).Size+4096)/4096*4096); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	m := manifest(t, release(2))
	if err := WriteBundle(t.Context(), &b, header(t, m), disk, card.A, m.Size); err != nil {
		t.Fatal(err)
	}
	h, err := card.ReadHeader(&b)
	if err != nil || h.Manifest != m {
		t.Fatalf("%+v %v", h, err)
	}
	if err := writeSlot(t.Context(), newCard(t, 1), card.B, m, &b, func(int) {}); err != nil {
		t.Error(err)
	}
}

func FuzzReceiveHeader(f *testing.F) {
	whole := bundle(f, 2)
	f.Add(whole[:400])
	f.Add([]byte("KITSLOT1"))
	u := &Updater{cfg: Config{Verify: verifyAs(1)}}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, raw, err := u.readHeader(bytes.NewReader(b))
		if err == nil && (!bytes.HasPrefix(b, raw) || h.Manifest.Validate() != nil) {
			t.Errorf("%+v", h)
		}
	})
}
