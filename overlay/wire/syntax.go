package wire

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrMalformed is what every parse failure of this package is.
var ErrMalformed = errors.New("malformed RELOAD message")

// ErrUnencodable is what every failure of an AppendBinary is: a field too long for its length prefix,
// a missing Node-ID, a value whose data model is not set. It is a fault of the caller, not of the peer.
var ErrUnencodable = errors.New("RELOAD structure that cannot be encoded")

// SyntaxError tells where a parser stopped and why. It is ErrMalformed, and every failure of a parser of
// this package is one.
type SyntaxError struct {
	// Offset is where the field begins that is wrong, or where it should begin, in bytes of what the
	// parser was given. It is never more than that had.
	Offset int
	// Field is the way to the field by the names of the RFC, with the index of list entries:
	// "StoreReq.kind_data[0].values[1].signature".
	Field string
	// Reason says what is wrong with it.
	Reason string
	cause  error // ErrMalformed if nil
}

// Error names the field, the reason and the offset.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%v: %s: %s (byte %d)", e.Unwrap(), e.Field, e.Reason, e.Offset)
}

// Unwrap is ErrMalformed or an error that is ErrMalformed, too.
func (e *SyntaxError) Unwrap() error {
	if e.cause != nil {
		return e.cause
	}
	return ErrMalformed
}

// within puts the name of what holds the field before it. Parsers do so on the way out: a path costs
// nothing until something is wrong.
func (e *SyntaxError) within(name string, index int) {
	if index >= 0 {
		name += "[" + strconv.Itoa(index) + "]"
	}
	if name != "" && e.Field != "" {
		name += "."
	}
	e.Field = name + e.Field
}
