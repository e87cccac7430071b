package wire

// KindID is RFC 6940 §14.6.
type KindID uint32

// Kinds.
const (
	KindSIPRegistration   KindID = 0x1  // RFC 7904 §7: dictionary
	KindTurnService       KindID = 0x2  // single value
	KindCertificateByNode KindID = 0x3  // array
	KindCertificateByUser KindID = 0x10 // array
)

// DataModel is RFC 6940 §7.2. It is not on the wire: the Kind decides.
type DataModel uint8

// Data models. The zero value is no model: it marks what belongs to an unknown Kind.
const (
	SingleValue DataModel = 1
	Array       DataModel = 2
	Dictionary  DataModel = 3
)

// LastIndex is the index that appends to an array, and the last one of a range (RFC 6940 §7.4.1.1, §7.4.2.1).
const LastIndex uint32 = 0xffffffff

// ModelOf tells a Kind's data model, without which nothing stored under the Kind can be read.
// ok is false for a Kind the caller does not know: its values are then kept unread, in Raw.
type ModelOf func(KindID) (m DataModel, ok bool)

// model is SingleValue to Dictionary, or 0 for a Kind the caller does not know.
func (f ModelOf) model(kind KindID) DataModel {
	if f != nil {
		if m, ok := f(kind); ok && m >= SingleValue && m <= Dictionary {
			return m
		}
	}
	return 0
}

// ParseKindList reads the error_info of an Error_Unknown_Kind: the Kinds that were not known
// (RFC 6940 §7.4.1.2).
func ParseKindList(info []byte) ([]KindID, error) {
	r := newReader(info)
	return finish(&r, r.kinds(), "unknown_kinds")
}

// AppendKindList appends the error_info of an Error_Unknown_Kind: at most 63 Kinds.
func AppendKindList(b []byte, kinds []KindID) ([]byte, error) {
	w := writer{b: b}
	w.kinds(kinds)
	return w.end(b, "unknown_kinds")
}

func (r *reader) kinds() []KindID {
	v := r.vector(1, "kinds")
	var kinds []KindID
	for v.more() {
		kinds = append(kinds, KindID(v.u32("")))
	}
	r.join(&v, "kinds")
	return kinds
}

func (w *writer) kinds(kinds []KindID) {
	at := w.open(1)
	for _, k := range kinds {
		w.u32(uint32(k))
	}
	w.close(at, 1, "kinds")
}

// DataValue is RFC 6940 §7.2.
type DataValue struct {
	Exists bool // false: there is no value, which is not the same as an empty one
	Value  []byte
}

// StoredDataValue is one value in its model (RFC 6940 §7.2).
type StoredDataValue struct {
	Model DataModel // must be set by whoever makes a value
	Index uint32    // Array; LastIndex appends
	Key   []byte    // Dictionary; at most 65535 bytes
	DataValue
}

// AppendBinary appends the value in its model, as it stands in a StoredData and in the input of its
// signature. For the latter an array's index is to be 0 (RFC 6940 §7.4.2.2), which is the caller's to set.
func (v StoredDataValue) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.storedDataValue(&v)
	return w.end(b, "StoredDataValue")
}

// entry reads what comes before the DataValue or MetaData of each model.
func (r *reader) entry(model DataModel) (index uint32, key []byte) {
	switch model {
	case Array:
		return r.u32("index"), nil
	case Dictionary:
		return 0, r.opaque(2, "key")
	default:
		return 0, nil
	}
}

func (w *writer) entry(model DataModel, index uint32, key []byte) {
	switch model {
	case SingleValue:
	case Array:
		w.u32(index)
	case Dictionary:
		w.opaque(2, key, "dictionary key")
	default:
		w.fail("value without a data model")
	}
}

func (w *writer) storedDataValue(v *StoredDataValue) {
	w.entry(v.Model, v.Index, v.Key)
	w.boolean(v.Exists)
	w.opaque(4, v.Value, "value")
}

// StoredData is RFC 6940 §7.
type StoredData struct {
	StorageTime uint64 // milliseconds since 1970-01-01
	Lifetime    uint32 // seconds from when the StoreReq was received
	Value       StoredDataValue
	Signature   Signature
}

// ParseStoredData reads one StoredData of a Kind of that model.
func ParseStoredData(b []byte, model DataModel) (StoredData, error) {
	r := newReader(b)
	if model < SingleValue || model > Dictionary {
		r.fail(0, "", "unknown data model")
	}
	return finish(&r, r.storedData(model), "StoredData")
}

// AppendBinary appends the structure with its length.
func (d StoredData) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.storedData(&d)
	return w.end(b, "StoredData")
}

func (r *reader) storedData(model DataModel) StoredData {
	v := r.vector(4, "length")
	d := StoredData{StorageTime: v.u64("storage_time"), Lifetime: v.u32("lifetime")}
	d.Value.Model = model
	d.Value.Index, d.Value.Key = v.entry(model)
	d.Value.Exists = v.boolean("value.exists")
	d.Value.Value = v.opaque(4, "value.value")
	d.Signature = v.signature()
	r.join(&v, "")
	return d
}

func (w *writer) storedData(d *StoredData) {
	at := w.open(4)
	w.u64(d.StorageTime)
	w.u32(d.Lifetime)
	w.storedDataValue(&d.Value)
	w.signature(&d.Signature)
	w.close(at, 4, "StoredData")
}

// unread takes the rest of v, never nil: an empty rest of an unknown Kind must not look like a known one.
func unread(v *reader) []byte {
	if rest := v.rest(); rest != nil {
		return rest
	}
	return []byte{}
}

// values reads StoredData<0..2^32-1>: raw, and never nil, when the model is not known.
func (r *reader) values(model DataModel) (list []StoredData, raw []byte) {
	v := r.vector(4, "values")
	if model == 0 {
		return nil, unread(&v)
	}
	for v.more() {
		list = append(list, v.storedData(model))
	}
	r.join(&v, "values")
	return list, nil
}

func (w *writer) values(list []StoredData, raw []byte) {
	at := w.open(4)
	if raw != nil && len(list) > 0 {
		w.fail("values beside unread ones")
	}
	w.bytes(raw)
	for i := range list {
		w.storedData(&list[i])
	}
	w.close(at, 4, "values")
}

// StoreKindData is the data of one Kind in a StoreRequest (RFC 6940 §7.4.1.1).
type StoreKindData struct {
	Kind       KindID
	Generation uint64 // the counter the sender expects; 0 for any
	Values     []StoredData
	Raw        []byte // not nil for a Kind that ModelOf does not know: its values, unread
}

// StoreRequest is the body of a StoreReq (RFC 6940 §7.4.1.1).
type StoreRequest struct {
	Resource ResourceID
	Replica  uint8 // 0 for a node that stores its own data, else the number of the replica
	Kinds    []StoreKindData
}

// ParseStoreRequest reads the body of a StoreReq.
func ParseStoreRequest(body []byte, models ModelOf) (StoreRequest, error) {
	r := newReader(body)
	s := StoreRequest{Resource: r.resourceID("resource"), Replica: r.u8("replica_number")}
	v := r.vector(4, "kind_data")
	for v.more() {
		k := StoreKindData{Kind: KindID(v.u32("kind")), Generation: v.u64("generation_counter")}
		k.Values, k.Raw = v.values(models.model(k.Kind))
		s.Kinds = append(s.Kinds, k)
	}
	r.join(&v, "kind_data")
	return finish(&r, s, "StoreReq")
}

// AppendBinary appends the body.
func (s StoreRequest) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	w.resourceID(s.Resource, "resource")
	w.u8(s.Replica)
	at := w.open(4)
	for i := range s.Kinds {
		w.u32(uint32(s.Kinds[i].Kind))
		w.u64(s.Kinds[i].Generation)
		w.values(s.Kinds[i].Values, s.Kinds[i].Raw)
	}
	w.close(at, 4, "kind_data")
	return w.end(b, "StoreReq")
}

// StoreKindResponse is the answer for one Kind in a StoreAnswer (RFC 6940 §7.4.1.2).
type StoreKindResponse struct {
	Kind       KindID
	Generation uint64
	Replicas   []NodeID // where the data was or will be replicated
}

// StoreAnswer is the body of a StoreAns, and the error_info of an Error_Generation_Counter_Too_Low.
type StoreAnswer struct{ Kinds []StoreKindResponse }

// ParseStoreAnswer reads the body of a StoreAns in an overlay with Node-IDs of idLen bytes.
func ParseStoreAnswer(body []byte, idLen int) (StoreAnswer, error) {
	var s StoreAnswer
	r := newReader(body)
	v := r.vector(2, "kind_responses")
	for v.more() {
		s.Kinds = append(s.Kinds, StoreKindResponse{
			Kind: KindID(v.u32("kind")), Generation: v.u64("generation_counter"), Replicas: v.nodeIDs(idLen, "replicas"),
		})
	}
	r.join(&v, "kind_responses")
	return finish(&r, s, "StoreAns")
}

// AppendBinary appends the body.
func (s StoreAnswer) AppendBinary(b []byte) ([]byte, error) {
	w := writer{b: b}
	at := w.open(2)
	for i := range s.Kinds {
		w.u32(uint32(s.Kinds[i].Kind))
		w.u64(s.Kinds[i].Generation)
		w.nodeIDs(s.Kinds[i].Replicas, "replicas")
	}
	w.close(at, 2, "kind_responses")
	return w.end(b, "StoreAns")
}
