// Package e2e has the tests of the card in emulated boards: it boots them, pulls their plugs, gives them updates that
// are good or bad, and phones. It is tests only. They need QEMU and run alone, see scripts/test.
//
// What measures a time or a call has the machine to itself; the others run two at a time, a core for each board.
package e2e
