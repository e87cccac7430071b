// Package enrol is how a node gets its configuration document and its certificate over HTTPS: the configuration server
// of RFC 6940 §11.2 and the enrolment server of §11.3, and a client of both.
//
// Server is an http.Handler on top of the mission's Authority and a Book of accounts; Client asks such servers, ours or
// anybody's. TLS, listening, files and the resolver are the caller's. Handlers run on net/http's goroutines: a Server may
// be used by any number of them, a Client by any number of callers.
//
// Node-IDs are drawn here, at random, when an account enrols for the first time, and stay with the account. What makes
// others believe them is a document with an enrollment-server element (docs/adr/0017).
package enrol
