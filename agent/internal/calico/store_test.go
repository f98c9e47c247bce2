package calico

import (
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// as is what is kept of an object that was read in the group.
func as(group string) cache.TransformFunc {
	return func(read any) (any, error) { return kept(group, read), nil }
}

func TestStoreWakesWithObjectsAndVersionThatBelongTogether(t *testing.T) {
	var s *store
	var seen []string // what every wake finds
	s = newStore(as(GroupCRD), func() {
		objects, version := s.read()
		text := version + ":"
		for _, object := range objects {
			o := object.(metav1.Object)
			text += " " + o.GetName() + "@" + o.GetResourceVersion()
		}
		seen = append(seen, text)
	})
	hep := func(version string) *v3.HostEndpoint {
		return &v3.HostEndpoint{ObjectMeta: metav1.ObjectMeta{Name: "node", ResourceVersion: version}}
	}
	assert.False(t, s.synced())
	require.NoError(t, s.Replace(nil, "1"))
	assert.True(t, s.synced(), "an empty list is complete")
	require.NoError(t, s.Add(hep("2")))
	require.NoError(t, s.Update(hep("3")))
	require.NoError(t, s.Delete(hep("4")))
	require.NoError(t, s.Bookmark("5"))
	require.NoError(t, s.Replace([]any{hep("6")}, "7"))
	assert.Equal(t, []string{"1:", "2: node@2", "3: node@3", "4:", "7: node@6"}, seen, "a bookmark wakes nobody")

	require.NoError(t, s.Delete(hep("8")))
	require.NoError(t, s.Bookmark("9"))
	_, version := s.read()
	assert.Equal(t, "9", version)
	require.Error(t, s.Add("no object"))
}

func TestHeartbeatOfANodeWakesNobody(t *testing.T) {
	woken := 0
	s := newStore(as(GroupCRD), func() { woken++ })
	beat := func(version string, status corev1.ConditionStatus) *node {
		n := &node{ObjectMeta: metav1.ObjectMeta{Name: "node", ResourceVersion: version, Labels: map[string]string{"a": "b"}}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, LastHeartbeatTime: metav1.Now(), Message: version}}
		return n
	}
	require.NoError(t, s.Replace([]any{beat("1", corev1.ConditionTrue)}, "1"))
	require.NoError(t, s.Update(beat("2", corev1.ConditionTrue)))
	assert.Equal(t, 1, woken)
	objects, _ := s.read()
	assert.Equal(t, "2", objects[0].(metav1.Object).GetResourceVersion())
	require.NoError(t, s.Update(beat("3", corev1.ConditionUnknown)))
	assert.Equal(t, 2, woken)
	require.NoError(t, s.Delete(beat("4", corev1.ConditionUnknown)))
	assert.Equal(t, 3, woken)
}

// As while a release moves to Calico's own API server: x is the old policy x and
// the new policy default.x.
func TestObjectsOfOneNameAreToldApart(t *testing.T) {
	s := newStore(as(GroupV3), func() {})
	policy := func(uid string) *v3.GlobalNetworkPolicy {
		return &v3.GlobalNetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "x", UID: types.UID(uid), ResourceVersion: "1"}}
	}
	require.NoError(t, s.Replace([]any{policy("new"), policy("old")}, "1"))
	require.NoError(t, s.Delete(policy("old")))
	left, _ := s.read()
	require.Len(t, left, 1)
	assert.Equal(t, types.UID("new"), left[0].(metav1.Object).GetUID())
}
