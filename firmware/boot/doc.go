// Package boot is PID 1 of a kit that runs from its card: it mounts, loads drivers, feeds the watchdog, finds the card
// and puts its state partition in order, takes over what the card was personalised with, and then runs the daemon as
// its child, which it starts again when it ends. Everything that people would call the kit is done by the daemon.
//
// Its decisions are pure and apart from what they work on: supervise.go (when the daemon starts, when the watchdog is
// fed, when the board reboots), perm.go (what is done to a state partition that is damaged), personal.go (in which
// order the personalisation moves, so that power may be cut at any moment), modules.go (which drivers), clock.go.
//
// Init never returns; it, Modprobe and Lights are what the one program of the card does when it was started under
// another name, and are for main alone. PID 1 must not fail: what does not work is a note for the health tree, and
// the kit comes up as far as it can. What would end PID 1 all the same is a panic of the kernel, which reboots.
package boot
