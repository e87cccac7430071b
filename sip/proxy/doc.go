// Package proxy is the call logic of a kit: forking, choice of the best
// response, CANCEL, timers and the relay of requests inside a dialog, as RFC
// 3261 §16 has it for a stateful proxy that record-routes.
//
// [Call] is a pure state machine: Step takes the time and an event and returns
// what is to be done. It opens no socket, starts no goroutine, reads no clock
// and builds no message; the shell around it (package agent) does all of that
// and reports back by events. A Call belongs to one goroutine.
//
// The package also defines what the telephony wants from the rest of a kit:
// [Directory], [Trunks] and [Trunk]. It does not know who implements them.
package proxy
