package phone

// Payload types of RFC 3551 §6.
const (
	pcmu = 0
	pcma = 8
)

const (
	sampleRate   = 8000
	frameSamples = sampleRate / 50 // 20 ms
)

// encodeULaw is ITU-T G.711 §3.2 (µ-law) of a 16-bit sample.
func encodeULaw(s int16) byte {
	const bias, clip = 0x84, 32635
	v, sign := int(s), byte(0)
	if v < 0 {
		v, sign = -v, 0x80
	}
	v = min(v, clip) + bias
	exponent := 7
	for mask := 0x4000; exponent > 0 && v&mask == 0; mask >>= 1 {
		exponent--
	}
	return ^(sign | byte(exponent)<<4 | byte(v>>(exponent+3)&0x0f))
}

func decodeULaw(b byte) int16 {
	b = ^b
	v := (int(b&0x0f)<<3 + 0x84) << (b >> 4 & 7)
	v -= 0x84
	if b&0x80 != 0 {
		v = -v
	}
	return int16(v)
}

// encodeALaw is ITU-T G.711 §3.1 (A-law) of a 16-bit sample.
func encodeALaw(s int16) byte {
	v, sign := int(s)>>3, byte(0x80)
	if v < 0 {
		v, sign = -v-1, 0
	}
	exponent := 0
	for x := v >> 5; x > 0; x >>= 1 {
		exponent++
	}
	exponent = min(exponent, 7)
	mantissa := v >> 1
	if exponent > 1 {
		mantissa = v >> exponent
	}
	return (sign | byte(exponent)<<4 | byte(mantissa&0x0f)) ^ 0x55
}

func decodeALaw(b byte) int16 {
	b ^= 0x55
	exponent, v := b>>4&7, int(b&0x0f)<<4+8
	if exponent > 0 {
		v = (v + 0x100) << (exponent - 1)
	}
	if b&0x80 == 0 {
		v = -v
	}
	return int16(v)
}

func encode(dst []byte, samples []int16, payloadType uint8) []byte {
	for _, s := range samples {
		if payloadType == pcma {
			dst = append(dst, encodeALaw(s))
		} else {
			dst = append(dst, encodeULaw(s))
		}
	}
	return dst
}

func decode(dst []int16, payload []byte, payloadType uint8) []int16 {
	for _, b := range payload {
		if payloadType == pcma {
			dst = append(dst, decodeALaw(b))
		} else {
			dst = append(dst, decodeULaw(b))
		}
	}
	return dst
}
