package helm_test

import (
	"os"
	"runtime/debug"
	"testing"
)

// TestMain lets garbage lie longer: thousands of renders make much of it, and none of it is needed again.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
