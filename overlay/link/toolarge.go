package link

import (
	"encoding/binary"

	"fieldkit/overlay/wire"
)

// headerLength is where the forwarding header has the length of the message (RFC 6940 §6.3.2).
const headerLength = 16

// tooLarge is the answer to a message above max-message-size, of which head is the beginning: "the peer SHOULD send an
// Error_Message_Too_Large error … If the forwarding header is larger than the max-message-size, the receiver SHOULD close
// the TLS or DTLS session without sending an error" (RFC 6940 §6.6). nil where there is nothing to answer.
func (t *Transport) tooLarge(from wire.NodeID, head []byte) []byte {
	if len(head) < headerLength+4 {
		return nil
	}
	binary.BigEndian.PutUint32(head[headerLength:], uint32(len(head))) // as if it ended here: what follows is not looked at
	h, rest, err := wire.ParseHeader(head)
	if err != nil || len(head)-len(rest) > t.cfg.MaxMessage || h.Offset() != 0 || len(rest) < 2 ||
		!wire.MessageCode(binary.BigEndian.Uint16(rest)).IsRequest() {
		return nil
	}
	dest := []wire.Destination{wire.ToNode(from)}
	for i := len(h.Via) - 1; i >= 0; i-- {
		dest = append(dest, h.Via[i])
	}
	body, err := wire.ErrorResponse{Code: wire.ErrorMessageTooLarge}.AppendBinary(nil)
	if err != nil {
		return nil
	}
	answer, err := t.message(wire.Header{ConfigSequence: h.ConfigSequence, TransactionID: h.TransactionID, Dest: dest}, wire.ErrorAns, body)
	if err != nil || len(answer) > t.cfg.MaxFrame {
		return nil
	}
	return answer
}
