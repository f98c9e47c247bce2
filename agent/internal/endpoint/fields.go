package endpoint

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/host-firewall/host-firewall/agent/internal/peers"
)

// Fields returns what a merge patch sets, each as its path and value, without
// the version and what the agent only tells.
func Fields(object string, patch []byte) []string {
	var tree map[string]any
	if json.Unmarshal(patch, &tree) != nil {
		return nil
	}
	var fields []string
	var walk func(path string, node any)
	walk = func(path string, node any) {
		if branch, ok := node.(map[string]any); ok {
			for _, key := range slices.Sorted(maps.Keys(branch)) {
				if key != StateAnnotation && key != peers.Annotation && path+key != "metadata.resourceVersion" {
					walk(path+key+".", branch[key])
				}
			}
			return
		}
		value, _ := json.Marshal(node)
		fields = append(fields, object+" "+path[:len(path)-1]+"="+string(value))
	}
	walk("", tree)
	return fields
}
