package event_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/host-firewall/host-firewall/agent/internal/event"
)

func TestReasonNamesFiveAndCountsTheRest(t *testing.T) {
	assert.Equal(t, "a, b, c, d, e", event.Some([]string{"a", "b", "c", "d", "e"}))
	assert.Equal(t, "a, b, c, d, e, f", event.Some([]string{"a", "b", "c", "d", "e", "f"}), "one name is not hidden")
	assert.Equal(t, "a, b, c, d, e and 2 more", event.Some([]string{"a", "b", "c", "d", "e", "f", "g"}))
}
