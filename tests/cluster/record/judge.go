package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/tests/cluster/probe"
)

// Verdict is what became of a promise.
type Verdict struct {
	Promise
	Tries   int
	Broken  []string      // when, by whom, for how long
	Longest time.Duration // that somebody had outcomes that are not as promised, and
	Over    time.Time     // when the last of these was over, both from the start of a try to that of another
}

func (v Verdict) String() string {
	return strings.Join(append([]string{fmt.Sprintf("%s: %s: %d tries, broken %d times", v.Test, v.Kind, v.Tries, len(v.Broken))}, v.Broken...), "\n  ")
}

// lapse is a time in which somebody had outcomes that are not as promised.
type lapse struct {
	who               string
	outcomes          []string
	first, last, next time.Time // the start of its first try, of its last, and of the one after that, if there was one
}

// Judge says whether the promise of one watch was kept. Where the watch did not come to its end, for the test was killed, that is asked of what was
// seen until then.
func Judge(lines []Line) (v Verdict) {
	var due time.Time
	var ended bool
	for _, l := range lines {
		switch {
		case l.Promise != nil:
			if v.Promise = *l.Promise; v.Within == 0 {
				due = l.At
			}
		case l.Due:
			due = l.At
		case l.Ended:
			ended, v.Tries = true, l.Tries
		}
	}
	end := lines[len(lines)-1].At
	for _, s := range v.lapses(lines) {
		last, lasted, until := s.last, s.next.Sub(s.first), "for "
		if s.next.IsZero() {
			last, lasted, until = end, end.Sub(s.first), "to the end, for "
		}
		v.Longest = max(v.Longest, lasted)
		if s.next.After(v.Over) {
			v.Over = s.next
		}
		if v.Kind == Cut && lasted < v.Within || v.Kind == Closed && (due.IsZero() || last.Before(due.Add(v.Within))) {
			continue
		}
		said := fmt.Sprintf("%s: %s: %s, %s%s", s.first.Format(time.TimeOnly+".000"), s.who, strings.Join(s.outcomes, ", "), until, tenths(lasted))
		if v.Kind == Closed && v.Within > 0 {
			said += fmt.Sprintf("; last %s after that was due", tenths(last.Sub(due)))
		}
		v.Broken = append(v.Broken, said)
	}
	switch {
	case !ended:
	case v.Tries == 0:
		v.Broken = append(v.Broken, "nothing was tried")
	case v.Within > 0 && v.Longest == 0:
		v.Broken = append(v.Broken, "what was to be otherwise for a while never was")
	case v.Kind == Closed && due.IsZero():
		v.Broken = append(v.Broken, "it never became due")
	}
	slices.Sort(v.Broken)
	return v
}

func tenths(d time.Duration) time.Duration { return d.Round(100 * time.Millisecond) }

// lapses are all of a watch.
func (p Promise) lapses(lines []Line) (all []*lapse) {
	open := map[string]*lapse{}
	for _, l := range lines {
		s := open[l.Who]
		switch kept := p.keeps(l.Outcome); {
		case l.Who == "":
		case kept && s != nil:
			s.last, s.next = l.Last, l.At
			delete(open, l.Who)
		case kept:
		case s == nil:
			open[l.Who] = &lapse{who: l.Who, outcomes: []string{l.Outcome}, first: l.At}
			all = append(all, open[l.Who])
		case !slices.Contains(s.outcomes, l.Outcome):
			s.outcomes = append(s.outcomes, l.Outcome)
		}
	}
	return all
}

// keeps tells whether an outcome is as promised.
func (p Promise) keeps(outcome string) bool {
	switch p.Kind {
	case Open, Cut:
		return outcome == answered
	case Closed: // a refused connection is an answer
		return !slices.Contains([]string{answered, probe.ErrRepeated.Error(), unix.ECONNREFUSED.Error()}, outcome)
	case Stays:
		return slices.ContainsFunc(p.Allowed, func(a string) bool { return strings.HasPrefix(outcome, a) })
	}
	return true
}

// JudgeAll judges all watches of a record. Whoever wrote it may have been killed in the middle of a line.
func JudgeAll(record io.Reader) (verdicts []Verdict, err error) {
	var watches [][]Line
	for lines := json.NewDecoder(record); ; {
		var l Line
		switch err := lines.Decode(&l); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			for _, w := range watches {
				verdicts = append(verdicts, Judge(w))
			}
			return verdicts, nil
		case err != nil:
			return nil, fmt.Errorf("read record: %w", err)
		case l.Promise != nil:
			watches = append(watches, []Line{l}) // they are numbered from 1
		case l.Watch < 1 || l.Watch > len(watches):
			return nil, fmt.Errorf("read record: watch %d has no beginning", l.Watch)
		default:
			watches[l.Watch-1] = append(watches[l.Watch-1], l)
		}
	}
}
