package image

import (
	"bytes"
	"compress/gzip"
	"io"
	"testing"
)

// A kernel whose compressed end is missing boots nowhere.
func TestGzippedIsWhole(t *testing.T) {
	want := bytes.Repeat([]byte("kernel "), 100_000)
	b, err := gzipped(want)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
}
