package verdict_test

import (
	"net/netip"
	"testing"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"

	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

func TestPodsAreWherePoolsGiveThemAddresses(t *testing.T) {
	pool := func(cidr string, disabled bool, uses ...v3.IPPoolAllowedUse) *v3.IPPool {
		return &v3.IPPool{Spec: v3.IPPoolSpec{CIDR: cidr, Disabled: disabled, AllowedUses: uses}}
	}
	got := verdict.Pods([]*v3.IPPool{
		pool("10.42.0.0/16", false),
		pool("10.0.0.0/8", true), // as Calico's documentation has it for networks that are not to be NATed
		pool("10.43.0.0/16", false, v3.IPPoolAllowedUseTunnel),
		pool("10.44.0.7/16", false, v3.IPPoolAllowedUseTunnel, v3.IPPoolAllowedUseWorkload),
		pool("nonsense", false),
	}, []string{"10.42.7.0/24", "10.200.1.0/24", "fd00::/64", "nonsense"})
	assert.Equal(t, []netip.Prefix{
		netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.44.0.0/16"),
		netip.MustParsePrefix("10.200.1.0/24"), netip.MustParsePrefix("fd00::/64"),
	}, got, "a podCIDR of a disabled pool counts, for pods may come from there by another way")
	assert.Empty(t, verdict.Pods(nil, nil))
}
