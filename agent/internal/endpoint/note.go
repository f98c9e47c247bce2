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

// SetNote writes the note to an endpoint that is to be. The labels to remember are
// those of the endpoint itself, and with keep those that current remembers: then
// they are left as they are for now. current may be nil.
func SetNote(desired, current *v3.HostEndpoint, note Note, keep bool) {
	keys := maps.Clone(desired.Labels)
	delete(keys, ReleaseLabel)
	delete(keys, NodeLabel)
	delete(keys, SetLabel)
	if current != nil {
		before := NoteOf(current)
		if keep {
			for _, key := range before.Labels {
				keys[key] = ""
			}
		}
		if before.State == note.State && !before.Since.IsZero() {
			note.Since = before.Since
		}
	}
	note.Since = note.Since.UTC().Truncate(time.Second)
	note.Labels = slices.Sorted(maps.Keys(keys))
	// Texts and a time can always be encoded.
	text, _ := json.Marshal(note)
	desired.Annotations = map[string]string{StateAnnotation: string(text)}
}
