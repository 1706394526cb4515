package alerts

import (
	"strconv"
	"strings"
)

// An hour of the same value, in the notation of Prometheus' own tests.
func constant(value float64) string {
	return strconv.FormatFloat(value, 'f', -1, 64) + "x120"
}

func indented(series string) string {
	lines := strings.Split(strings.TrimSpace(series), "\n")
	return "  " + strings.Join(lines, "\n  ") + "\n"
}
