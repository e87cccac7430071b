// Package storage is what one peer stores for the overlay: the data storage protocol of RFC 6940
// §7 as a pure data structure. It decides who may write what where, keeps values of all three data
// models until their lifetime ends, answers Fetch, Stat and Find, and says which values some other
// peer ought to hold.
//
// A Store belongs to one goroutine, the loop of package node. It does no I/O and verifies no
// signature: node verifies each value with package ident first and hands in who signed it.
// Whether this peer is responsible for a resource, and who else is, is the topology plug-in's to
// say and comes in as arguments. What a Usage demands of its values beyond RFC 6940 (RFC 7904's
// domain restrictions, for one) is that Usage's to check before.
//
// Readings of the RFC where it is not exact:
//
//   - Find's "closest" is the next one clockwise: with that, and only with that, does the walk of
//     §7.4.4, R_n+1 = nearest(1 + R_n), come around.
//
//   - An array has at most max-count elements, its gaps included, since a store past the end
//     "extends it with nonexistent values".
//
//   - The i of NODE-MULTIPLE is one byte in the hash and counts from 1, as the d of §9 does.
//
//   - A replica store of the very value that is stored already, same signature, is no error:
//     several peers may hand over the same value. It does not prolong the value's life, which is
//     not under the signature.
//
//   - A store to a peer that is not responsible gets Error_Not_Found; §7.4.1.1 names no code.
//
//   - Values in answers carry the lifetime that is left, rounded up to a second; values handed to other peers,
//     rounded down.
//
//   - No index of an array is under a signature. A replica store that brings an element with another index
//     moves the stored one; it cannot multiply it.
//
//   - A generation counter starts above those of everything that expired here, so that a counter seen once
//     never stands for something else.
//
// # Bounds
//
// Beyond the quotas of each Kind, Config.MaxBytes bounds everything together, keys, signatures and
// certificates included. At the bound whatever would grow the store is refused with
// Error_Data_Too_Large and counted. Long before, each member has a share: what it signed, under all the
// names it issued certificates for, and what it brought by replica stores. The top of the store is kept
// for registrations, and the very top for this peer's own values (docs/adr/0021). Nothing stored is ever
// evicted before its time: a flood must not remove registrations.
package storage
