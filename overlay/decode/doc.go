// Package decode makes RELOAD messages readable: each frame, message or fragment becomes one JSON object with the names
// of RFC 6940's presentation language, with what its signatures are worth, and with the byte and the field at which it is
// malformed. It is for people who look for what is wrong, and for programs that help them: no peer needs it.
//
// It reads what it is given and nothing else: no files, no network, no clock. Captures are read by the package below,
// decode/capture.
//
// Input is taken for hostile. Lines, messages and what is remembered between messages are bounded; at a limit the oldest
// is forgotten or the message is refused, and the object says so.
//
// A Decoder belongs to one goroutine.
package decode
