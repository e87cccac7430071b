package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"fieldkit/firmware/mission"
)

// Kit is what people call a kit.
type Kit struct {
	Number int    // mission.FirstKit to mission.LastKit
	Name   string // a word and the number: "MAPLE 412"
}

// ErrNoNumber is a mission that has as many kits as there are numbers.
var ErrNoNumber = errors.New("no kit number left")

// words are what kits are called: short, told apart by ear, and of no meaning to responders: no letters of an alphabet,
// as divisions have, nothing that can be taken for an order or a danger.
var words = strings.Fields(`
ACORN AMBER APPLE ASPEN BADGER BAMBOO BASIL BEAVER BIRCH BISON BRAMBLE CANYON CARAMEL CEDAR CHERRY CLOVER COBALT COMET
CORAL COTTON CRICKET CYPRESS DAHLIA DAISY DOLPHIN EAGLE EBONY FALCON FENNEL FERN GARNET GINGER GRANITE HAZEL HERON
INDIGO IRIS IVORY JASMINE JUNIPER KESTREL LAUREL LEMON LINDEN LOTUS MAGNOLIA MAPLE MARBLE MEADOW MUSTARD NUTMEG OLIVE
ONYX ORCHID OTTER PEBBLE PEPPER POPLAR PRAIRIE PUFFIN QUARTZ RAVEN ROBIN SAFFRON SALMON SPARROW SPRUCE SUNFLOWER
SYCAMORE TEAK THISTLE TIMBER TOPAZ TULIP TURTLE VELVET VIOLET WALNUT WILLOW ZINNIA`)

// NewKits draws numbers and names for count kits, other than those that are taken; a word comes again only when all are
// used. With first not 0 the numbers count up from there. draw returns a number from 0 to n-1.
func NewKits(taken []Kit, count, first int, draw func(n int) int) ([]Kit, error) {
	used, said := map[int]bool{}, map[string]int{}
	for _, k := range taken {
		used[k.Number] = true
		word, _, _ := strings.Cut(k.Name, " ")
		said[word]++
	}
	var free []int
	for n := mission.FirstKit; n <= mission.LastKit; n++ {
		if !used[n] {
			free = append(free, n)
		}
	}
	if count > len(free) {
		return nil, fmt.Errorf("%w: %d wanted, %d left", ErrNoNumber, count, len(free))
	}
	var kits []Kit
	for i := range count {
		n := first + i
		if first == 0 {
			at := draw(len(free))
			n = free[at]
			free = slices.Delete(free, at, at+1)
		} else if n < mission.FirstKit || n > mission.LastKit || used[n] {
			return nil, fmt.Errorf("kit number %d: taken, or not from %d to %d", n, mission.FirstKit, mission.LastKit)
		}
		kits = append(kits, Kit{n, fmt.Sprintf("%s %d", word(said, draw), n)})
	}
	return kits, nil
}

// word draws one of the words that are used least, and counts it.
func word(said map[string]int, draw func(n int) int) string {
	least := said[slices.MinFunc(words, func(a, b string) int { return said[a] - said[b] })]
	var free []string
	for _, w := range words {
		if said[w] == least {
			free = append(free, w)
		}
	}
	w := free[draw(len(free))]
	said[w]++
	return w
}

// countries are the codes of ISO 3166-1, without which a slip such as UK for GB would leave a kit at the channels that
// are allowed everywhere.
const countries = " AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ" +
	" DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH" +
	" KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK" +
	" PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG" +
	" VI VN VU WF WS YE YT ZA ZM ZW "

// checkCountry returns the code in capital letters; "" is none.
func checkCountry(s string) (string, error) {
	s = strings.ToUpper(s)
	if s != "" && (len(s) != 2 || !strings.Contains(countries, " "+s+" ")) {
		return "", fmt.Errorf("country %q: want a code of ISO 3166-1, such as DE, GB or US", s)
	}
	return s, nil
}
