package endpoint

import (
	"net/netip"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// maxName is how long the name of a Kubernetes object may be.
	maxName = 253
	// hashLength is how many hex digits keep names apart that were made to fit.
	hashLength = 12
	// calicoPrefix is what Calico's own interfaces of pods start with.
	calicoPrefix = "cali"

	// plain are the characters that every name of a Kubernetes object can hold anywhere.
	plain = "abcdefghijklmnopqrstuvwxyz0123456789"
	// taken are those that Calico takes in the name of an interface.
	taken = plain + "ABCDEFGHIJKLMNOPQRSTUVWXYZ_.-"
	// longestInterface is what the kernel and Calico take.
	longestInterface = 15
)

// Link is a network interface of the node.
type Link struct {
	Name      string
	Addresses []netip.Addr
	Networks  []netip.Prefix // of these addresses
}

// Interface is an interface that gets an endpoint.
type Interface struct {
	// Name is AllInterfaces or the name of a link.
	Name string
	// Addresses are those of the link by which others reach it, each once, sorted.
	// AllInterfaces has none: its addresses are the node's.
	Addresses []netip.Addr
}

// Select returns the interfaces that get an endpoint, in a stable order,
// AllInterfaces first, and the names of links that a pattern matches but Calico
// can't take.
//
// A pattern is AllInterfaces, a name, or a name with the wildcards * ? and [...].
// A wildcard does not match what leads into the node only, such as loopback and
// the interfaces of pods. Calico's own interfaces of pods are never selected.
func Select(patterns []string, links []Link) (selected []Interface, invalid []string) {
	if slices.Contains(patterns, AllInterfaces) {
		selected = append(selected, Interface{Name: AllInterfaces})
	}
	links = slices.Clone(links)
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	for i, link := range links {
		if i > 0 && links[i-1].Name == link.Name || !slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, link.Name) }) {
			continue
		}
		if !holdsOnly(link.Name, taken) || len(link.Name) > longestInterface {
			invalid = append(invalid, link.Name)
			continue
		}
		selected = append(selected, Interface{Name: link.Name, Addresses: usable(link.Addresses)})
	}
	return selected, invalid
}

// ValidPattern tells whether Select understands a pattern.
func ValidPattern(pattern string) bool {
	_, err := path.Match(pattern, "")
	return err == nil && pattern != "" && !strings.ContainsAny(pattern, "/ \t\r\n")
}

// matches tells whether a pattern, other than AllInterfaces, means a link.
func matches(pattern, link string) bool {
	if pattern == AllInterfaces || strings.HasPrefix(link, calicoPrefix) {
		return false
	}
	if pattern == link {
		return true
	}
	matched, err := path.Match(pattern, link)
	return err == nil && matched && !insideOnly(link)
}

// insideOnly tells whether an interface leads to nowhere but into the node: it
// is loopback, the host's end of a pod's interface, by the names that network
// plugins give them, or holds addresses for kube-proxy or NodeLocal DNSCache.
func insideOnly(link string) bool {
	if slices.Contains([]string{"lo", "kube-ipvs0", "nodelocaldns"}, link) {
		return true
	}
	return slices.ContainsFunc([]string{"veth", "tap", "lxc", "azv", "eni", "gke"}, func(prefix string) bool {
		// A hash follows. A name that is shorter (tap0) is somebody's own.
		return strings.HasPrefix(link, prefix) && len(link) >= len(prefix)+8
	})
}

// Reached returns the addresses by which a node may come to others: those of its
// interfaces, but of those that lead into the node only, each once, sorted.
func Reached(links []Link) []netip.Addr {
	var all []netip.Addr
	for _, link := range links {
		if !strings.HasPrefix(link.Name, calicoPrefix) && !insideOnly(link.Name) && !IsBridgeOfContainers(link.Name) {
			all = append(all, link.Addresses...)
		}
	}
	return usable(all)
}

// IsBridgeOfContainers tells whether an interface is the bridge that a container runtime
// or a network plugin makes on each node, with the same address on all of them.
func IsBridgeOfContainers(link string) bool {
	if network, ok := strings.CutPrefix(link, "br-"); ok && hashed("-"+network) {
		return true
	}
	return slices.ContainsFunc([]string{"docker", "cni", "cbr", "virbr", "podman", "lxcbr", "lxdbr", "nerdctl", "kube-bridge"}, func(prefix string) bool {
		number, ok := strings.CutPrefix(link, prefix)
		return ok && (number == "" || holdsOnly(number, "0123456789"))
	})
}

// usable returns addresses by which others can reach an interface, each once,
// sorted. Link-local ones are not among them.
func usable(addresses []netip.Addr) (kept []netip.Addr) {
	for _, addr := range addresses {
		addr = addr.Unmap().WithZone("")
		if ofANode(addr) && !addr.IsLinkLocalUnicast() {
			kept = append(kept, addr)
		}
	}
	slices.SortFunc(kept, netip.Addr.Compare)
	return slices.Compact(kept)
}

// Name returns the name of the endpoint for an interface of a node: the node's
// own name for AllInterfaces, `<node>-<interface>` for another where that is the
// name of a Kubernetes object and of no other pair, else one that is made to fit
// and ends in a hash of the pair. So no two pairs of a node and a named interface
// have the same name. A node that is itself called like the endpoint of another
// node's interface remains possible: an endpoint's spec.node tells whose it is.
func Name(node, iface string) string {
	if iface == AllInterfaces {
		return node
	}
	// An interface without a dash makes the last dash the one between the two.
	if name := node + "-" + iface; !strings.Contains(iface, "-") && len(validation.IsDNS1123Subdomain(iface)) == 0 && len(name) <= maxName && !hashed(name) {
		return name
	}
	head := node
	unfit := func(r rune) bool { return !strings.ContainsRune(plain, r) }
	for _, fit := range strings.FieldsFunc(strings.ToLower(iface), unfit) {
		head += "-" + fit
	}
	return Shortened(head, maxName, node+"\x00"+iface, hashLength)
}

// hashed tells whether a name ends as those that are made to fit.
func hashed(name string) bool {
	dash := len(name) - hashLength - 1
	return dash >= 0 && name[dash] == '-' && holdsOnly(name[dash+1:], "0123456789abcdef")
}

// holdsOnly tells whether a text is of these characters, and of one at least.
func holdsOnly(text, characters string) bool {
	return text != "" && strings.Trim(text, characters) == ""
}

// BPFDevice is there as long as Felix uses eBPF, whether its environment (calico-bpf.yaml) or
// a FelixConfiguration says so.
const BPFDevice = "bpfin.cali"

// Blind says why policies decide nothing on loopback, where these patterns select the
// interfaces that have an endpoint, and these are there; empty: they do.
func Blind(patterns, present []string) string {
	switch {
	case !slices.Contains(patterns, AllInterfaces) && !slices.Contains(patterns, "lo"):
		return "only single interfaces have an endpoint, and loopback has none"
	case slices.Contains(present, BPFDevice):
		return "Felix uses eBPF on this node, and asks no policy on loopback"
	}
	return ""
}
