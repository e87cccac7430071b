package capture

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// MaxSecrets bounds a key log.
const MaxSecrets = 1 << 17

// ErrKeyLog is what is wrong with a key log.
var ErrKeyLog = errors.New("unreadable key log")

const (
	randomLen = 32
	masterLen = 48
)

type random [randomLen]byte

// KeyLog holds the master secrets of sessions by the random of their ClientHello.
type KeyLog map[random][masterLen]byte

// ReadKeyLog reads the NSS key log format, of which CLIENT_RANDOM is the label of TLS 1.2 and DTLS 1.2. Lines with other
// labels are passed over.
func ReadKeyLog(r io.Reader) (KeyLog, error) {
	keys := KeyLog{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || fields[0] != "CLIENT_RANDOM" {
			continue
		}
		var client random
		var master [masterLen]byte
		if len(fields) != 3 || !unhex(client[:], fields[1]) || !unhex(master[:], fields[2]) {
			return nil, fmt.Errorf("%w: line %d is no CLIENT_RANDOM with 32 and 48 bytes in hex", ErrKeyLog, n)
		}
		if len(keys) == MaxSecrets {
			return nil, fmt.Errorf("%w: more than %d secrets", ErrKeyLog, MaxSecrets)
		}
		keys[client] = master
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyLog, err)
	}
	return keys, nil
}

func unhex(dst []byte, s string) bool {
	if len(s) != 2*len(dst) {
		return false
	}
	_, err := hex.Decode(dst, []byte(s))
	return err == nil
}
