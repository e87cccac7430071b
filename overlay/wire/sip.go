package wire

import "strconv"

// SIPRegistrationType is RFC 7904 §3.1.
type SIPRegistrationType uint8

// SIP-REGISTRATION types.
const (
	SIPRegistrationURI   SIPRegistrationType = 1 // another AOR or URI
	SIPRegistrationRoute SIPRegistrationType = 2 // a destination list
)

// SIPRegistration is the value of a SIP-REGISTRATION (RFC 7904 §3.1).
type SIPRegistration struct {
	Type         SIPRegistrationType
	URI          []byte        // SIPRegistrationURI
	ContactPrefs []byte        // SIPRegistrationRoute: callee capabilities, may be empty
	Destinations []Destination // SIPRegistrationRoute: the way to the peer, at least one
	Raw          []byte        // the data of a type this code does not know
}

// minDestinationList is the least length of destination_list<3..2^16-1>.
const minDestinationList = 3

// ParseSIPRegistration reads the value of a SIP-REGISTRATION.
func ParseSIPRegistration(value []byte) (SIPRegistration, error) {
	var s SIPRegistration
	r := newReader(value)
	s.Type = SIPRegistrationType(r.u8("type"))
	v := r.vector(2, "data")
	switch s.Type {
	case SIPRegistrationURI:
		s.URI = v.opaque(2, "uri")
	case SIPRegistrationRoute:
		s.ContactPrefs = v.opaque(2, "contact_prefs")
		list := v.vector(2, "destination_list")
		if len(list.b) < minDestinationList {
			list.fail(list.at(), "", "shorter than "+strconv.Itoa(minDestinationList)+" bytes")
		}
		s.Destinations = list.destinations()
		v.join(&list, "destination_list")
	default:
		s.Raw = v.rest()
	}
	r.join(&v, "data")
	return finish(&r, s, "SipRegistration")
}

// AppendBinary appends the value.
func (s SIPRegistration) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.u8(uint8(s.Type))
	at := w.open(2)
	switch s.Type {
	case SIPRegistrationURI:
		w.opaque(2, s.URI, "uri")
	case SIPRegistrationRoute:
		w.opaque(2, s.ContactPrefs, "contact_prefs")
		if len(s.Destinations) > MaxDestinations {
			w.fail("destination_list too long")
			break
		}
		list := w.open(2)
		for i := range s.Destinations {
			w.destination(&s.Destinations[i])
		}
		if len(w.b)-list-2 < minDestinationList {
			w.fail("destination_list too short")
		}
		w.close(list, 2, "destination_list")
	default:
		w.bytes(s.Raw)
	}
	w.close(at, 2, "data")
	return w.end(b, "SipRegistration")
}
