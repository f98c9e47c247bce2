package preview

import (
	"cmp"
	"maps"
	"slices"
)

// change is what both sides say to a piece.
type change byte

const (
	closed change = iota // for both
	open                 // for both
	opens
	closes
	absent // there are no such connections
)

// who is the place of a class of addresses known as something: class*identities+as.
type who = int

// table is what both sides say to all pieces.
type table struct {
	*space
	// changes are by target and who, and so are the values that let in what is open in both,
	// before and after.
	changes [][]change
	by      [][][2]string
}

// compare judges all pieces.
func compare(before, after *Side) *table {
	sp := spaceOf(before, after)
	t := &table{space: sp, changes: make([][]change, len(sp.targets)), by: make([][][2]string, len(sp.targets))}
	for i, target := range sp.targets {
		t.changes[i] = make([]change, len(sp.classes)*int(identities))
		t.by[i] = make([][2]string, len(t.changes[i]))
		for who := range t.changes[i] {
			sample := sp.classes[who/int(identities)]
			if !target.exists(sample) {
				t.changes[i][who] = absent
				continue
			}
			c, w := connection(sample, as(who%int(identities)), target)
			was, is := before.judge(c, w), after.judge(c, w)
			switch {
			case was.Allowed && is.Allowed:
				t.changes[i][who], t.by[i][who] = open, [2]string{was.By, is.By}
			case is.Allowed:
				t.changes[i][who] = opens
			case was.Allowed:
				t.changes[i][who] = closes
			}
		}
	}
	return t
}

// group is what changes alike for some regions, each known as something: their places are
// region*identities+as.
type group struct {
	sign    change
	members map[int]bool
	targets []int
}

// groups returns targets that change for the same regions together.
func (t *table) groups() (groups []*group) {
	alike := map[string]*group{}
	for i, column := range t.changes {
		for _, sign := range []change{closes, opens} {
			if !slices.Contains(column, sign) {
				continue
			}
			key := string(rune(sign)) + string(asBytes(column))
			if alike[key] == nil {
				if members := t.membersOf(column, sign); len(members) > 0 {
					alike[key] = &group{sign: sign, members: members}
					groups = append(groups, alike[key])
				}
			}
			if g := alike[key]; g != nil {
				g.targets = append(g.targets, i)
			}
		}
	}
	return t.merged(groups)
}

func asBytes(column []change) []byte {
	bytes := make([]byte, len(column))
	for i, c := range column {
		bytes[i] = byte(c)
	}
	return bytes
}

// membersOf returns the regions for which a column changes by itself, and those within them
// for which the same is open in both: exceptions that are told by the values that let them in.
// What changes for nodes as for everybody is no change of its own.
func (t *table) membersOf(column []change, sign change) map[int]bool {
	members := map[int]bool{}
	for known := range int(identities) {
		in := func(i int) bool { return members[i*int(identities)+known] }
		// Those within come after.
		for i, r := range t.regions {
			if r.class < 0 {
				continue
			}
			is, others := column[r.class*int(identities)+known], column[r.class*int(identities)]
			own := is == sign && (as(known) == stranger || others != sign)
			parent := r.parent
			for parent >= 0 && t.regions[parent].class < 0 {
				parent = t.regions[parent].parent
			}
			if own || parent >= 0 && in(parent) && (is == sign || is == open || is == absent) {
				members[i*int(identities)+known] = true
			}
		}
		t.fill(members, known)
	}
	return members
}

// fill adds the regions of which nothing is left but networks that are members.
func (t *table) fill(members map[int]bool, known int) {
	for i, r := range slices.Backward(t.regions) {
		if r.class < 0 && len(r.within) > 0 && !slices.ContainsFunc(r.within, func(w int) bool { return !members[w*int(identities)+known] }) {
			members[i*int(identities)+known] = true
		}
	}
}

// whosOf returns the members of a group as the table knows them.
func (t *table) whosOf(members map[int]bool) (whos []who) {
	for member := range members {
		if c := t.regions[member/int(identities)].class; c >= 0 {
			whos = append(whos, c*int(identities)+member%int(identities))
		}
	}
	slices.Sort(whos)
	return slices.Compact(whos)
}

// all tells whether all of some targets are one of these for all of some whos.
func (t *table) all(targets []int, whos []who, of ...change) bool {
	for _, target := range targets {
		for _, who := range whos {
			if !slices.Contains(of, t.changes[target][who]) {
				return false
			}
		}
	}
	return true
}

// merged joins each group with a larger one, where all that this says more is open in both
// or can't be.
func (t *table) merged(groups []*group) (kept []*group) {
	slices.SortFunc(groups, func(a, b *group) int {
		return cmp.Or(len(b.members)-len(a.members), len(b.targets)-len(a.targets), a.targets[0]-b.targets[0])
	})
	for _, g := range groups {
		if !slices.ContainsFunc(kept, func(larger *group) bool { return t.join(larger, g) }) {
			kept = append(kept, g)
		}
	}
	return kept
}

// join makes a group part of a larger one, if it can be.
func (t *table) join(larger, g *group) bool {
	if larger.sign != g.sign {
		return false
	}
	more, others := maps.Clone(larger.members), maps.Clone(g.members)
	maps.DeleteFunc(more, func(member int, _ bool) bool { return g.members[member] })
	maps.DeleteFunc(others, func(member int, _ bool) bool { return larger.members[member] })
	if !t.all(g.targets, t.whosOf(more), g.sign, open, absent) || !t.all(larger.targets, t.whosOf(others), absent) {
		return false
	}
	maps.Copy(larger.members, g.members)
	larger.targets = append(larger.targets, g.targets...)
	slices.Sort(larger.targets)
	return true
}
