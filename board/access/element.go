package access

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Element is what a kit says of itself in every beacon and probe response of its access points, so that another kit
// finds it by a scan alone. Anybody can send one: it is a hint for whom to try, and proves nothing.
type Element struct {
	Overlay uint32 // hash of the overlay's name, as RFC 6940 §6.3.2 has it in each message
	NodeID  []byte // of the kit, 16 to 20 bytes (RFC 6940 §5.1)
	// Extra is whatever else kits tell each other there, at most MaxExtra bytes. Kits that do not know it pass over it.
	Extra []byte
}

// MaxExtra is how many bytes an Element may carry besides its fixed fields: a beacon is sent ten times a second at the
// lowest rate.
const MaxExtra = 64

// A vendor specific element (IEEE 802.11-2020 §9.4.2.25): ID, length, and an organisation's three bytes, after which
// the organisation decides. With the local bit set (IEEE 802-2014 §8.2.2) they are nobody's.
const (
	vendorSpecific = 221
	elementHeader  = 2
	elementType    = 1
	minNodeID      = 16
	maxNodeID      = 20
)

var organisation = [3]byte{0x02, 'F', 'K'}

// ErrElement is an element that is not one of a kit, or is broken.
var ErrElement = errors.New("beacon element")

// Encode writes e as an information element, its ID and length included.
func (e Element) Encode() ([]byte, error) {
	if len(e.NodeID) < minNodeID || len(e.NodeID) > maxNodeID {
		return nil, fmt.Errorf("%w: Node-ID of %d bytes", ErrElement, len(e.NodeID))
	}
	if len(e.Extra) > MaxExtra {
		return nil, fmt.Errorf("%w: %d bytes more", ErrElement, len(e.Extra))
	}
	b := []byte{vendorSpecific, 0}
	b = append(b, organisation[:]...)
	b = append(b, elementType)
	b = binary.BigEndian.AppendUint32(b, e.Overlay)
	b = append(b, byte(len(e.NodeID)))
	b = append(b, e.NodeID...)
	b = append(b, e.Extra...)
	b[1] = byte(len(b) - elementHeader)
	return b, nil
}

// Parse finds a kit's Element among the information elements of a beacon or probe response, in their order. It is total:
// elements are a stranger's, and ErrElement says that there is none or that the first one is broken. What it returns
// shares no memory with b.
func Parse(b []byte) (Element, error) {
	for len(b) >= elementHeader {
		id, length := b[0], int(b[1])
		if len(b) < elementHeader+length {
			return Element{}, fmt.Errorf("%w: cut short", ErrElement)
		}
		body := b[elementHeader : elementHeader+length]
		b = b[elementHeader+length:]
		if id != vendorSpecific || len(body) < len(organisation)+1 || [3]byte(body) != organisation || body[3] != elementType {
			continue
		}
		return parseBody(body[4:])
	}
	return Element{}, fmt.Errorf("%w: none of a kit", ErrElement)
}

func parseBody(b []byte) (Element, error) {
	if len(b) < 5 {
		return Element{}, fmt.Errorf("%w: %d bytes", ErrElement, len(b))
	}
	overlay, n, rest := binary.BigEndian.Uint32(b), int(b[4]), b[5:]
	if n < minNodeID || n > maxNodeID || len(rest) < n || len(rest)-n > MaxExtra {
		return Element{}, fmt.Errorf("%w: Node-ID of %d bytes in %d", ErrElement, n, len(rest))
	}
	e := Element{Overlay: overlay, NodeID: append([]byte(nil), rest[:n]...)}
	if n < len(rest) {
		e.Extra = append([]byte(nil), rest[n:]...)
	}
	return e, nil
}
