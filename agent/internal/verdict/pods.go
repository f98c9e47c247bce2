package verdict

import (
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

// byPods decides where pods are let in.
const byPods = "cluster.trustPods"

// Pods returns the networks of pods: Calico's pools from which it gives pods addresses, and the podCIDRs of
// Nodes that are in none of them. A disabled pool gives out none: most often it is there so that nobody
// translates addresses of a network (natOutgoing of another pool), and everybody may live in it. Texts
// that are no networks are left out.
func Pods(pools []*v3.IPPool, podCIDRs []string) (pods []netip.Prefix) {
	for _, pool := range pools {
		uses := pool.Spec.AllowedUses
		if pool.Spec.Disabled || len(uses) > 0 && !slices.Contains(uses, v3.IPPoolAllowedUseWorkload) {
			continue
		}
		if cidr, err := netip.ParsePrefix(pool.Spec.CIDR); err == nil {
			pods = append(pods, cidr.Masked())
		}
	}
	ofPools := pods
	for _, text := range podCIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err == nil && !slices.ContainsFunc(ofPools, func(pool netip.Prefix) bool { return pool.Bits() <= cidr.Bits() && pool.Contains(cidr.Addr()) }) {
			pods = append(pods, cidr.Masked())
		}
	}
	return pods
}

// TrustsPods tells whether the set lets in pods, whoever they are: then it has to be known who is one.
func (s Set) TrustsPods() bool {
	return slices.ContainsFunc(slices.Concat(s.preDNAT, s.normal), func(p *policy) bool {
		return slices.ContainsFunc(p.rules, func(r rule) bool { return r.by == byPods })
	})
}
