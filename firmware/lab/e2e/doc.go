// Package e2e holds the end-to-end tests: whole kits as processes, each a host of its own, with
// baresip, sipp and the lab's own phone as handsets. They measure what arrived, not what was meant.
// The package has no code beside its tests, which need root (or user namespaces) and the Debian packages
// that scripts/deps installs.
package e2e
