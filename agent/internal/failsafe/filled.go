package failsafe

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
)

// An API server fills in defaults of its own, whenever somebody writes a
// FelixConfiguration without them, and each version of Calico has others. In the object of
// a node such a field is no default: there it wins over what the object default says. So
// where default says something else, we have to write that too. And it is nobody's, so it
// keeps no object alive that we made.

// filling is what is known of a field that was filled in.
type filling struct {
	// Preset is what the API server put there.
	Preset any `json:"preset"`
	// Pinned is what we wrote there, null if nothing: what default says.
	Pinned any `json:"pinned,omitempty"`
}

// has tells whether the field still has a value that nobody else has given it.
func (f filling) has(value any) bool {
	return value != nil && (equal(value, f.Preset) || f.Pinned != nil && equal(value, f.Pinned))
}

// Filled returns what came back when the change was written that had not been sent,
// by the name of the field; nil for what was sent and did not stay.
func (c Change) Filled(stored *Configuration) map[string]any {
	if c.Create == nil && c.Patch == nil {
		return nil
	}
	filled := map[string]any{}
	for name, value := range fieldsOf(stored) {
		switch before := c.sent[name]; {
		case name == inbound:
		case before == nil || before == "":
			filled[name] = value
		case !equal(before, value):
			filled[name] = nil
		}
	}
	return filled
}

// appeared returns the fields that nobody has ever written: a later version of Calico fills
// them in when the object is read. Where the API server does not say who manages what, none.
func appeared(own *Configuration) map[string]any {
	if own == nil || len(own.ManagedFields) == 0 {
		return nil
	}
	fields := fieldsOf(own)
	for _, entry := range own.ManagedFields {
		var managed map[string]map[string]json.RawMessage
		if entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &managed) != nil {
			return nil
		}
		spec, there := managed["f:spec"]
		if there && len(spec) == 0 {
			return nil // all of it, as one
		}
		for name := range spec {
			delete(fields, strings.TrimPrefix(name, "f:"))
		}
	}
	return fields
}

// known returns what is known to be filled in: what we noted, what has come back since, and
// what has appeared in an object that we made.
func (r *record) known(own *Configuration, filled map[string]any) map[string]filling {
	known := map[string]filling{}
	if r != nil {
		maps.Copy(known, r.Filled)
	}
	if r != nil && r.Created {
		for name, value := range appeared(own) {
			known[name] = filling{Preset: value}
		}
	}
	for name, value := range filled {
		known[name] = filling{Preset: value}
		if value == nil {
			delete(known, name)
		}
	}
	return known
}

// pin keeps in an object the values of default in force for the fields that are filled in,
// and returns what should be noted of these. What somebody else has set is no such field.
func pin(own, def *Configuration, known map[string]filling) (noted map[string]filling) {
	theirs, noted := fieldsOf(def), map[string]filling{}
	for name, field := range known {
		if current := own.Spec[name]; field.has(current) {
			field.Pinned = nil
			want := field.Preset
			if value := theirs[name]; value != nil && !equal(value, want) {
				field.Pinned, want = value, value
			}
			if !equal(current, want) {
				own.Spec[name] = want
			}
			noted[name] = field
		}
	}
	return noted
}

// equal compares two values as JSON has them: numbers come in several types.
func equal(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
