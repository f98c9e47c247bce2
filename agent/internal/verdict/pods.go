package verdict

import (
	"net/netip"
	"slices"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
)

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
	for _, text := range podCIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err == nil && !slices.ContainsFunc(pods, func(pool netip.Prefix) bool { return pool.Bits() <= cidr.Bits() && pool.Contains(cidr.Addr()) }) {
			pods = append(pods, cidr.Masked())
		}
	}
	return pods
}
