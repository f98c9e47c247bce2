package policyset

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
)

// Rivals returns, for each endpoint of somebody else that is for an interface of ours on
// the node, which it is, whose, and what to do: Felix enforces only one of the two, and the
// other one may be what protects the node now. Another release is a rival wherever it is.
//
// On an interface Felix asks that endpoint whose name is first, of those that name the
// interface, or name none and expect one of its addresses. Only where there is none, it
// asks that whose name is first, of those of all interfaces.
//
// patterns are of the interfaces that get an endpoint of ours, addresses those of the
// node, and on are all endpoints of the node. adopt tells that what has the name of one of
// ours, and is of no release, is taken over.
func Rivals(release, node string, patterns []string, addresses []netip.Addr, on []*v3.HostEndpoint, adopt bool) (reasons []string) {
	ours := own{node: node, patterns: patterns, addresses: addresses, all: slices.Contains(patterns, endpoint.AllInterfaces)}
	var others []*v3.HostEndpoint
	for _, hep := range on {
		if endpoint.ReleaseOf(hep) == release {
			ours.endpoints = append(ours.endpoints, hep)
		} else {
			others = append(others, hep)
		}
	}
	slices.SortFunc(others, func(a, b *v3.HostEndpoint) int { return strings.Compare(a.Name, b.Name) })
	for _, hep := range others {
		claimed := endpoint.ReleaseOf(hep) != ""
		switch named := ours.hasName(hep); {
		case named && !claimed && (adopt || endpoint.NoteOf(hep).State != ""):
			// The agent takes it over, or makes it its own again.
		case named || claimed || ours.meet(hep):
			reasons = append(reasons, fmt.Sprintf("HostEndpoint %s of this node (%s) is %s: %s", hep.Name, where(hep), endpoint.Owner(hep), ours.remedy(hep)))
		}
	}
	return reasons
}

// own is what is known of our endpoints of a node.
type own struct {
	node      string
	patterns  []string
	all       bool // one of them is that of all interfaces
	addresses []netip.Addr
	endpoints []*v3.HostEndpoint // those that are there
}

// hasName tells whether an endpoint has the name that one of ours has, or would have.
func (o own) hasName(hep *v3.HostEndpoint) bool {
	return slices.ContainsFunc(append(slices.Clip(o.patterns), hep.Spec.InterfaceName), func(iface string) bool {
		return endpoint.Name(o.node, iface) == hep.Name && o.covers(iface)
	})
}

// covers tells whether an interface, or all of them, gets an endpoint of its own from us.
func (o own) covers(iface string) bool {
	if iface == endpoint.AllInterfaces {
		return o.all
	}
	selected, _ := endpoint.Select(o.patterns, []endpoint.Link{{Name: iface}})
	return slices.ContainsFunc(selected, func(i endpoint.Interface) bool { return i.Name == iface })
}

// meet tells whether an endpoint and one of ours are for the same interface.
func (o own) meet(hep *v3.HostEndpoint) bool {
	switch name := hep.Spec.InterfaceName; {
	case name == endpoint.AllInterfaces:
		return o.all
	case name != "":
		return o.all || o.covers(name)
	}
	return slices.ContainsFunc(hep.Spec.ExpectedIPs, func(text string) bool {
		addr, err := netip.ParseAddr(text)
		return err == nil && slices.Contains(o.reached(), addr.Unmap())
	})
}

// reached returns the addresses of the interfaces that our endpoints are for. While those
// of single interfaces are not there, nobody can tell, and it may be any of the node.
func (o own) reached() (addresses []netip.Addr) {
	for _, hep := range o.endpoints {
		for _, text := range hep.Spec.ExpectedIPs {
			if addr, err := netip.ParseAddr(text); err == nil {
				addresses = append(addresses, addr.Unmap())
			}
		}
	}
	if o.all || len(o.endpoints) == 0 {
		addresses = append(addresses, o.addresses...)
	}
	return addresses
}

// where says for what an endpoint is.
func where(hep *v3.HostEndpoint) string {
	if name := hep.Spec.InterfaceName; name != "" {
		return fmt.Sprintf("interface %q", name)
	}
	return "expectedIPs " + strings.Join(hep.Spec.ExpectedIPs, ", ")
}

// remedy says what to do about an endpoint of somebody else.
func (o own) remedy(hep *v3.HostEndpoint) string {
	switch {
	case endpoint.ReleaseOf(hep) != "":
		return "uninstall one of the two releases from this node"
	case hep.Spec.InterfaceName == "" && !o.all:
		return "delete it, or write interfaceName into it if it is for another interface than ours"
	}
	return "delete it, or uninstall host-firewall from this node"
}
