// Package update replaces the system of a kit by a newer one and takes the old one back where the new one does not
// work: it verifies a signed bundle, writes it to the slot that is not in use, has it tried once, commits it when the kit
// is healthy with it, and otherwise says why it was rolled back (docs/adr/0032). A kit that runs a newer system offers it
// to its neighbours, which verify and try it by the same rules.
//
// Who may update a kit is decided by the signature alone: that of the mission's own voice, a configuration-signer of the
// configuration document in force. Where a bundle came from, and who carried it, counts for nothing.
//
// Machine decides and has no clock, file or goroutine; Rank and the other functions of machine.go and order.go are pure
// as well. Updater is the shell: one goroutine, Run, owns the Machine; a bundle is written by the goroutine that received
// it, one at a time. The handlers and Client may be used from any goroutine. The package knows neither SIP nor the
// overlay: what it must know of the kit, firmware/kit tells it.
package update
