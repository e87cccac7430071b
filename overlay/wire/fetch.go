package wire

// ArrayRange is a range of array indices, both inclusive (RFC 6940 §7.4.2.1). First is not above Last.
// The RFC's int32 is read as unsigned, since 0xffffffff is its last element.
type ArrayRange struct{ First, Last uint32 }

// DataSpecifier is a StoredDataSpecifier (RFC 6940 §7.4.2.1).
type DataSpecifier struct {
	Kind       KindID
	Generation uint64       // the last counter the sender saw, or 0
	Model      DataModel    // must be set by whoever makes a specifier
	Ranges     []ArrayRange // Array
	Keys       [][]byte     // Dictionary; none means all of them
	Raw        []byte       // not nil for a Kind that ModelOf does not know: the model_specifier, unread
}

// FetchRequest is the body of a FetchReq (RFC 6940 §7.4.2.1).
type FetchRequest struct {
	Resource   ResourceID
	Specifiers []DataSpecifier
}

// StatRequest is the body of a StatReq, identical to a FetchReq's (RFC 6940 §7.4.3.1).
type StatRequest FetchRequest

// ParseFetchRequest reads the body of a FetchReq.
func ParseFetchRequest(body []byte, models ModelOf) (FetchRequest, error) {
	r := newReader(body)
	return finish(&r, r.fetch(models), "FetchReq")
}

// ParseStatRequest reads the body of a StatReq.
func ParseStatRequest(body []byte, models ModelOf) (StatRequest, error) {
	r := newReader(body)
	return finish(&r, StatRequest(r.fetch(models)), "StatReq")
}

// AppendBinary appends the body.
func (f FetchRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.fetch(&f)
	return w.end(b, "FetchReq")
}

// AppendBinary appends the body.
func (s StatRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.fetch((*FetchRequest)(&s))
	return w.end(b, "StatReq")
}

func (r *reader) fetch(models ModelOf) FetchRequest {
	f := FetchRequest{Resource: r.resourceID("resource")}
	v := r.vector(2, "specifiers")
	for v.more() {
		f.Specifiers = append(f.Specifiers, v.specifier(models))
	}
	r.join(&v, "specifiers")
	return f
}

func (r *reader) specifier(models ModelOf) DataSpecifier {
	const field = "model_specifier"
	s := DataSpecifier{Kind: KindID(r.u32("kind")), Generation: r.u64("generation")}
	s.Model = models.model(s.Kind)
	v := r.vector(2, field)
	switch s.Model {
	case SingleValue:
	case Array:
		list := v.vector(2, "indices")
		for list.more() {
			a := ArrayRange{First: list.u32("first"), Last: list.u32("last")}
			if a.First > a.Last {
				// "The first integer MUST be less than or equal to the second."
				list.refuse(8, "", "range that ends before it begins")
			}
			s.Ranges = append(s.Ranges, a)
		}
		v.join(&list, "indices")
	case Dictionary:
		list := v.vector(2, "keys")
		for list.more() {
			s.Keys = append(s.Keys, list.opaque(2, ""))
		}
		v.join(&list, "keys")
	default:
		s.Raw = unread(&v)
	}
	r.join(&v, field)
	return s
}

func (w *writer) fetch(f *FetchRequest) {
	w.resourceID(f.Resource, "resource")
	at := w.open(2)
	for i := range f.Specifiers {
		w.specifier(&f.Specifiers[i])
	}
	w.close(at, 2, "specifiers")
}

func (w *writer) specifier(s *DataSpecifier) {
	w.u32(uint32(s.Kind))
	w.u64(s.Generation)
	at := w.open(2)
	switch {
	case s.Raw != nil:
		if s.Model != 0 {
			w.fail("specifier beside an unread one")
		}
		w.bytes(s.Raw)
	case s.Model == SingleValue:
	case s.Model == Array:
		list := w.open(2)
		for _, a := range s.Ranges {
			if a.First > a.Last {
				w.fail("range of array indices that ends before it begins")
			}
			w.u32(a.First)
			w.u32(a.Last)
		}
		w.close(list, 2, "indices")
	case s.Model == Dictionary:
		list := w.open(2)
		for _, key := range s.Keys {
			w.opaque(2, key, "key")
		}
		w.close(list, 2, "keys")
	default:
		w.fail("specifier without a data model")
	}
	w.close(at, 2, "model_specifier")
}

// FetchKindResponse is the answer for one Kind in a FetchAnswer (RFC 6940 §7.4.2.2).
type FetchKindResponse struct {
	Kind       KindID
	Generation uint64
	Values     []StoredData
	Raw        []byte // not nil for a Kind that ModelOf does not know: its values, unread
}

// FetchAnswer is the body of a FetchAns (RFC 6940 §7.4.2.2).
type FetchAnswer struct{ Kinds []FetchKindResponse }

// ParseFetchAnswer reads the body of a FetchAns.
func ParseFetchAnswer(body []byte, models ModelOf) (FetchAnswer, error) {
	var f FetchAnswer
	r := newReader(body)
	v := r.vector(4, "kind_responses")
	for v.more() {
		k := FetchKindResponse{Kind: KindID(v.u32("kind")), Generation: v.u64("generation")}
		k.Values, k.Raw = v.values(models.model(k.Kind))
		f.Kinds = append(f.Kinds, k)
	}
	r.join(&v, "kind_responses")
	return finish(&r, f, "FetchAns")
}

// AppendBinary appends the body.
func (f FetchAnswer) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	at := w.open(4)
	for i := range f.Kinds {
		w.u32(uint32(f.Kinds[i].Kind))
		w.u64(f.Kinds[i].Generation)
		w.values(f.Kinds[i].Values, f.Kinds[i].Raw)
	}
	w.close(at, 4, "kind_responses")
	return w.end(b, "FetchAns")
}

// MetaData describes a value without holding it (RFC 6940 §7.4.3.2).
type MetaData struct {
	Exists      bool
	ValueLength uint32 // bytes of the value
	HashAlg     uint8
	Hash        []byte // of the value with its 4 leading length bytes; at most 255 bytes
}

// StoredMetaData is a StoredData with metadata in the place of the value, unsigned (RFC 6940 §7.4.3.2).
// The first field of its encoding, named value_length there, is the length of the rest.
type StoredMetaData struct {
	StorageTime uint64    // milliseconds since 1970-01-01
	Lifetime    uint32    // seconds
	Model       DataModel // must be set by whoever makes one
	Index       uint32    // Array
	Key         []byte    // Dictionary; at most 65535 bytes
	MetaData
}

// StatKindResponse is the answer for one Kind in a StatAnswer (RFC 6940 §7.4.3.2).
type StatKindResponse struct {
	Kind       KindID
	Generation uint64
	Values     []StoredMetaData
	Raw        []byte // not nil for a Kind that ModelOf does not know: its values, unread
}

// StatAnswer is the body of a StatAns (RFC 6940 §7.4.3.2).
type StatAnswer struct{ Kinds []StatKindResponse }

// ParseStatAnswer reads the body of a StatAns.
func ParseStatAnswer(body []byte, models ModelOf) (StatAnswer, error) {
	var s StatAnswer
	r := newReader(body)
	v := r.vector(4, "kind_responses")
	for v.more() {
		k := StatKindResponse{Kind: KindID(v.u32("kind")), Generation: v.u64("generation")}
		list := v.vector(4, "values")
		if model := models.model(k.Kind); model == 0 {
			k.Raw = unread(&list)
		} else {
			for list.more() {
				k.Values = append(k.Values, list.storedMetaData(model))
			}
			v.join(&list, "values")
		}
		s.Kinds = append(s.Kinds, k)
	}
	r.join(&v, "kind_responses")
	return finish(&r, s, "StatAns")
}

func (r *reader) storedMetaData(model DataModel) StoredMetaData {
	v := r.vector(4, "value_length")
	m := StoredMetaData{StorageTime: v.u64("storage_time"), Lifetime: v.u32("lifetime"), Model: model}
	m.Index, m.Key = v.entry(model)
	m.Exists = v.boolean("metadata.exists")
	m.ValueLength = v.u32("metadata.value_length")
	m.HashAlg = v.u8("metadata.hash_algorithm")
	m.Hash = v.opaque(1, "metadata.hash_value")
	r.join(&v, "")
	return m
}

// AppendBinary appends the body.
func (s StatAnswer) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	at := w.open(4)
	for i := range s.Kinds {
		k := &s.Kinds[i]
		w.u32(uint32(k.Kind))
		w.u64(k.Generation)
		list := w.open(4)
		if k.Raw != nil && len(k.Values) > 0 {
			w.fail("values beside unread ones")
		}
		w.bytes(k.Raw)
		for j := range k.Values {
			w.storedMetaData(&k.Values[j])
		}
		w.close(list, 4, "values")
	}
	w.close(at, 4, "kind_responses")
	return w.end(b, "StatAns")
}

func (w *writer) storedMetaData(m *StoredMetaData) {
	at := w.open(4)
	w.u64(m.StorageTime)
	w.u32(m.Lifetime)
	w.entry(m.Model, m.Index, m.Key)
	w.boolean(m.Exists)
	w.u32(m.ValueLength)
	w.u8(m.HashAlg)
	w.opaque(1, m.Hash, "hash_value")
	w.close(at, 4, "StoredMetaData")
}

// FindRequest is the body of a FindReq (RFC 6940 §7.4.4.1): at most 63 Kinds.
type FindRequest struct {
	Resource ResourceID
	Kinds    []KindID
}

// FindKindData is the answer for one Kind in a FindAnswer. Closest is empty for the RFC's 0: no
// Resource-ID is known.
type FindKindData struct {
	Kind    KindID
	Closest ResourceID
}

// FindAnswer is the body of a FindAns (RFC 6940 §7.4.4.2).
type FindAnswer struct{ Results []FindKindData }

// ParseFindRequest reads the body of a FindReq.
func ParseFindRequest(body []byte) (FindRequest, error) {
	r := newReader(body)
	return finish(&r, FindRequest{Resource: r.resourceID("resource"), Kinds: r.kinds()}, "FindReq")
}

// AppendBinary appends the body.
func (f FindRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.resourceID(f.Resource, "resource")
	w.kinds(f.Kinds)
	return w.end(b, "FindReq")
}

// ParseFindAnswer reads the body of a FindAns.
func ParseFindAnswer(body []byte) (FindAnswer, error) {
	var f FindAnswer
	r := newReader(body)
	v := r.vector(2, "results")
	for v.more() {
		f.Results = append(f.Results, FindKindData{Kind: KindID(v.u32("kind")), Closest: v.resourceID("closest")})
	}
	r.join(&v, "results")
	return finish(&r, f, "FindAns")
}

// AppendBinary appends the body.
func (f FindAnswer) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	at := w.open(2)
	for i := range f.Results {
		w.u32(uint32(f.Results[i].Kind))
		w.resourceID(f.Results[i].Closest, "closest")
	}
	w.close(at, 2, "results")
	return w.end(b, "FindAns")
}
