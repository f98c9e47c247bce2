package calico

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"k8s.io/apimachinery/pkg/watch"
)

func TestWatchThatShouldHaveEndedLongAgoIsEndedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		woken := 0
		s := &source{cluster: &Cluster{options: Options{Log: slog.New(slog.DiscardHandler)}, wake: func() { woken++ }}, troubles: map[string]trouble{}}
		stream := watch.NewFake()
		s.endLate(t.Context(), stream, 300)

		time.Sleep(300*time.Second + silence - 1)
		synctest.Wait()
		assert.False(t, stream.IsStopped(), "an API server may be slow")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		assert.True(t, stream.IsStopped())
		problem, _ := s.trouble()
		assert.Contains(t, problem, "the watch went silent")
		assert.Equal(t, 1, woken)
	})
}
