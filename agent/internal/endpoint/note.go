package endpoint

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// StateAnnotation holds the note that an agent leaves on its endpoint.
const StateAnnotation = ownPrefix + "state"

// Note says, on an endpoint of ours, how its node is, and remembers which labels
// the agent wrote, so that it can take them off again under other settings.
type Note struct {
	State  string    `json:"state"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	// Enforced says by which families of addresses the set is seen to be enforced, or why
	// that is not known.
	Enforced string `json:"enforced,omitempty"`
	// Wanted is the set that the agent was rolled out with.
	Wanted string `json:"wanted,omitempty"`
	// Labels are the keys of labels that come and go with the settings.
	Labels []string `json:"labels,omitempty"`
	// Before are the labels of that kind which the endpoint had before it moved to Wanted, and
	// gets again where it goes back.
	Before map[string]string `json:"before,omitempty"`
}

// Proof is Note.Enforced without the details.
func Proof(enforced string) string {
	return enforced[:strings.IndexAny(enforced+",", ",:")]
}

// NoteOf reads the note of an endpoint. Where there is none, or one that can't be
// read, it is empty.
func NoteOf(hep metav1.Object) Note {
	var note Note
	if text := effective(hep).annotations[StateAnnotation]; json.Unmarshal([]byte(text), &note) != nil {
		return Note{}
	}
	return note
}

// SetNote writes the note to an endpoint that is to be, with the labels to remember, which
// are those of the endpoint itself. current may be nil.
func SetNote(desired, current *v3.HostEndpoint, note Note) {
	if current != nil {
		was := NoteOf(current)
		if note.Before = was.Before; SetOf(current) != SetOf(desired) && SetOf(desired) == note.Wanted {
			note.Before = Given(current)
		}
		if was.State == note.State && !was.Since.IsZero() {
			note.Since = was.Since
		}
	}
	keys := maps.Clone(desired.Labels)
	maps.DeleteFunc(keys, func(key, _ string) bool { return IsOwn(key) })
	note.Since = note.Since.UTC().Truncate(time.Second)
	note.Labels = slices.Sorted(maps.Keys(keys))
	// Texts and a time can always be encoded.
	text, _ := json.Marshal(note)
	desired.Annotations = map[string]string{StateAnnotation: string(text)}
}

// Given returns the labels that an endpoint has by the settings of an agent, as its note
// remembers: those of the user's own policies, and of the Node.
func Given(hep *v3.HostEndpoint) map[string]string {
	labels, note := maps.Clone(LabelsOf(hep)), NoteOf(hep)
	maps.DeleteFunc(labels, func(key, _ string) bool { return !slices.Contains(note.Labels, key) })
	return labels
}

// Give gives an endpoint that is to be the labels of other settings in the place of those that
// it has by these.
func Give(desired *v3.HostEndpoint, labels map[string]string) {
	maps.DeleteFunc(desired.Labels, func(key, _ string) bool { return !IsOwn(key) })
	maps.Copy(desired.Labels, labels)
}
