//go:build !linux

package initlink

import "time"

// SinceKernel is 0 where there is no kernel of a card.
func SinceKernel() time.Duration { return 0 }
