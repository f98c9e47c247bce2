package calico

import (
	"context"
	"errors"
	"net/http"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// awaitGroup returns the API group by which Calico is reached. It asks until
// there is one, and returns an empty one when the context has ended before.
func (c *Cluster) awaitGroup(ctx context.Context) (group string) {
	// It ends when there is an answer, or the context ends.
	_ = backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (done bool, _ error) {
		found, err := c.findGroup(ctx)
		if err == nil || ctx.Err() != nil {
			group = found
			return true, nil
		}
		if problem := err.Error(); c.problem.Swap(problem) != problem {
			c.options.Log.Warn("Calico's API not found, trying again", "problem", problem)
			c.wake()
		}
		return false, nil
	})
	return group
}

// findGroup asks once. Where both groups are served, GroupV3 is the one to
// write: what is written there wins over what is written underneath it. So it
// must be known that GroupV3 is missing, not just out of reach, before GroupCRD
// is taken.
func (c *Cluster) findGroup(ctx context.Context) (string, error) {
	for _, group := range []string{GroupV3, GroupCRD} {
		if served, err := c.serves(ctx, group); served || err != nil {
			return group, err
		}
	}
	return "", errors.New("the API server serves Calico's HostEndpoints neither in " + GroupV3 + " nor in " + GroupCRD + ": install Calico or its CRDs")
}

// serves tells whether the group has the resources that the agent needs. It
// reads the one document that lists them, to which every account has access.
func (c *Cluster) serves(ctx context.Context, group string) (bool, error) {
	var list metav1.APIResourceList
	where := "/apis/" + group
	err := c.ask(ctx, "get", "resources of "+group, where, where, &metav1.ListOptions{}, &list)
	if codeOf(err) == http.StatusNotFound {
		return false, nil
	}
	has := func(kind string) bool {
		return slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == resourceOf(kind) })
	}
	return has(v3.KindHostEndpoint) && has(v3.KindGlobalNetworkPolicy), err
}
