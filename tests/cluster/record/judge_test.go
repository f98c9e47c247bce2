package record

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

const stranger = "stranger to TCP 192.0.2.11:8000 (ordinary port)"

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// written is a record: a word or two for each line, at seconds after noon. Of outcomes, the last try before was half a second ago.
func written(p Promise, lines ...string) (all []Line) {
	at := func(s float64) time.Time { return noon.Add(time.Duration(s * float64(time.Second))) }
	all = append(all, Line{At: noon, Promise: &p})
	for _, text := range lines {
		var s float64
		when, what, _ := strings.Cut(text, " ")
		if _, err := fmt.Sscan(when, &s); err != nil {
			panic(err)
		}
		l := Line{At: at(s)}
		switch {
		case what == "due":
			l.Due = true
		case what == "end":
			l.Ended, l.Tries = true, 7
		default:
			l.Who, l.Outcome, l.Last = stranger, what, at(s-0.5)
			if who, outcome, other := strings.Cut(what, ": "); other {
				l.Who, l.Outcome = who, outcome
			}
		}
		all = append(all, l)
	}
	return all
}

func TestPromisesAreKeptOrBrokenByWhomAndWhen(t *testing.T) {
	open, closed, atOnce := Promise{Kind: Open}, Promise{Kind: Closed, Within: 5 * time.Second}, Promise{Kind: Closed}
	back, stays := Promise{Kind: Cut, Within: 5 * time.Second}, Promise{Kind: Stays, Allowed: []string{"armed with A", "armed with B"}}
	for name, test := range map[string]struct {
		lines  []Line
		broken []string
	}{
		"open all the time":      {written(open, "0 answered", "9 end"), nil},
		"cut for a moment":       {written(open, "0 answered", "4 no answer", "6.5 answered", "9 end"), []string{"12:00:04.000: " + stranger + ": no answer, for 2.5s"}},
		"cut at the end":         {written(open, "0 answered", "8 no answer", "9 end"), []string{"12:00:08.000: " + stranger + ": no answer, to the end, for 1s"}},
		"a first packet is lost": {written(open, "0 "+probe.ErrRepeated.Error(), "1 answered", "9 end"), []string{"12:00:00.000: " + stranger + ": answered only when asked again, for 1s"}},
		"one of two is cut": {written(open, "0 answered", "0 admin: answered", "3 admin: no answer", "4 admin: answered", "9 end"),
			[]string{"12:00:03.000: admin: no answer, for 1s"}},
		"nothing was tried":                {written(open, "9 end.")[:1], nil},
		"nothing was tried until the end":  {[]Line{{At: noon, Promise: &open}, {At: noon, Ended: true}}, []string{"nothing was tried"}},
		"killed while it is cut":           {written(open, "0 answered", "4 no answer"), []string{"12:00:04.000: " + stranger + ": no answer, to the end, for 0s"}},
		"closed all the time":              {written(atOnce, "0 no answer", "9 end"), nil},
		"a host that is not there":         {written(atOnce, "0 no answer", "3 no route to host", "9 end"), nil},
		"open for one try":                 {written(atOnce, "0 no answer", "3 answered", "3.1 no answer", "9 end"), []string{"12:00:03.000: " + stranger + ": answered, for 100ms"}},
		"refused is through":               {written(atOnce, "0 connection refused", "9 end"), []string{"12:00:00.000: " + stranger + ": connection refused, to the end, for 9s"}},
		"closed in time":                   {written(closed, "0 answered", "2 due", "7.4 no answer", "9 end"), nil},
		"closed too late":                  {written(closed, "0 answered", "2 due", "7.6 no answer", "9 end"), []string{"12:00:00.000: " + stranger + ": answered, for 7.6s; last 5.1s after that was due"}},
		"open once more in time":           {written(closed, "0 answered", "2 due", "3 no answer", "4 answered", "5 no answer", "9 end"), nil},
		"open again later":                 {written(closed, "0 answered", "2 due", "3 no answer", "8 answered", "8.6 no answer", "9 end"), []string{"12:00:08.000: " + stranger + ": answered, for 600ms; last 6.1s after that was due"}},
		"closed before there was a reason": {written(closed, "0 no answer", "2 due", "9 end"), []string{"what was to be otherwise for a while never was"}},
		"never due":                        {written(closed, "0 answered", "9 end"), []string{"it never became due"}},
		"killed before it was due":         {written(closed, "0 answered"), nil},
		"cut and back":                     {written(back, "0 answered", "2 no answer", "6.9 answered", "9 end"), nil},
		"cut for too long":                 {written(back, "0 answered", "2 no answer", "7 answered", "9 end"), []string{"12:00:02.000: " + stranger + ": no answer, for 5s"}},
		"cut in another way, for too long": {written(back, "0 answered", "2 no answer", "4 connection refused", "7.5 answered", "9 end"), []string{"12:00:02.000: " + stranger + ": no answer, connection refused, for 5.5s"}},
		"never cut":                        {written(back, "0 answered", "9 end"), []string{"what was to be otherwise for a while never was"}},
		"armed with one or the other":      {written(stays, "0 n1: armed with A", "2 n1: armed with B", "9 end"), nil},
		"deleted for a moment":             {written(stays, "0 n1: armed with A", "2 n1: deleted", "2 n1: armed with A", "9 end"), []string{"12:00:02.000: n1: deleted, for 0s"}},
		"armed with a third one":           {written(stays, "0 n1: armed with C", "9 end"), []string{"12:00:00.000: n1: armed with C, to the end, for 9s"}},
		"what is looked at breaks no word": {written(Promise{Kind: Seen}, "0 n1: anything", "9 end"), nil},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, test.broken, Judge(test.lines).Broken) })
	}
}

// From the file of a run that failed comes what that run has said, whatever was beside it.
func TestRecordIsJudgedAgainFromItsFile(t *testing.T) {
	var file bytes.Buffer
	r := New(&file)
	open, closed := r.Begin(Promise{Test: "TestX/one", Kind: Open}), r.Begin(Promise{Test: "TestX", Kind: Closed})
	admin := open.outcomes()(probe.Path{From: probe.Source{Name: "admin"}, What: "SSH"}, probe.Address{Protocol: probe.TCP})
	for i := range 100_000 {
		var err error
		if i == 70_000 || i == 70_001 {
			err = probe.ErrDropped
		}
		admin(noon.Add(time.Duration(i)*time.Millisecond), err)
	}
	require.True(t, closed.Note(noon, stranger, probe.ErrDropped.Error()))
	require.False(t, closed.Note(noon, stranger, probe.ErrDropped.Error()))
	first, second := open.End(), closed.End()
	assert.Len(t, first.Broken, 1)
	assert.Contains(t, first.String(), "TestX/one: open: 100000 tries, broken 1 times\n  12:01:10.000: admin to TCP")
	assert.Empty(t, second.Broken)
	assert.Equal(t, 2, second.Tries)

	assert.Equal(t, 8, strings.Count(file.String(), "\n"), "a line for each change, whatever the number of tries")
	assert.Contains(t, file.String(), `"outcome":"no answer","last":"2026-11-28T12:01:09.999Z"`)
	again, err := JudgeAll(strings.NewReader(file.String() + `{"watch":1,"at":"2026-`))
	require.NoError(t, err)
	assert.Equal(t, []string{first.String(), second.String()}, []string{again[0].String(), again[1].String()})
	for text, says := range map[string]string{"nonsense": "invalid", "{}": "watch 0 has no beginning", `{"watch":1,"due":true}`: "watch 1 has no beginning"} {
		_, err = JudgeAll(strings.NewReader(text))
		require.ErrorContains(t, err, says)
	}
}

// Of those who are asked abreast each has its own outcomes.
func TestOneOfManyThatAreAskedAbreastIsNotLost(t *testing.T) {
	w := New(&bytes.Buffer{}).Begin(Promise{Kind: Closed})
	of := w.outcomes()
	path, to := probe.Path{From: probe.Source{Name: "stranger"}}, probe.Address{Protocol: probe.TCP}
	one, other := of(path, to), of(path, to)
	one(noon, probe.ErrDropped)
	other(noon, nil)
	one(noon.Add(time.Second), probe.ErrDropped)
	v := w.End()
	require.Len(t, v.Broken, 1)
	assert.Contains(t, v.Broken[0], "#2: answered")
}

// A watch of the API server that fails has seen nothing, unless it was ended.
func TestObjectsAreFollowedWithoutAGap(t *testing.T) {
	for name, allowed := range map[string][]string{"strict": {"A"}, "as far as is told": {"A", Deleted, Untold}} {
		t.Run(name, func(t *testing.T) {
			events := watch.NewFake()
			w := New(&bytes.Buffer{}).Follow(Promise{Kind: Stays, Allowed: allowed}, events, func(o metav1.Object) string { return o.GetLabels()["set"] })
			at := func(set string) *metav1.PartialObjectMetadata {
				return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"set": set}}}
			}
			events.Add(at("A"))
			events.Delete(at("A"))
			events.Add(at("A"))
			events.Error(&metav1.Status{Reason: metav1.StatusReasonExpired})
			events.Modify(at("B"))
			v := w.End()
			assert.Equal(t, 5, v.Tries)
			said := strings.Join(v.Broken, "; ")
			assert.Contains(t, said, "n1: B")
			assert.Equal(t, name == "strict", strings.Contains(said, "n1: deleted"), said)
			assert.Equal(t, name == "strict", strings.Contains(said, "all: the watch failed"), said)
		})
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestRecordThatCannotBeWrittenIsNoProof(t *testing.T) {
	w := New(full{}).Begin(Promise{Kind: Seen})
	w.Note(noon, "n1", "armed")
	assert.Equal(t, []string{"the record could not be written: no space left on device"}, w.End().Broken)
}
