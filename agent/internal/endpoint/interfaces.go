package endpoint

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
)

// AllInterfaces is Calico's name for an endpoint that covers every interface of
// its node, forwarded traffic included.
const AllInterfaces = allInterfaces

const (
	// maxName is how long the name of a Kubernetes object may be.
	maxName = 253
	// hashLength is how many hex digits keep names apart that were made to fit.
	hashLength = 12
	// calicoPrefix is what Calico's own interfaces of pods start with.
	calicoPrefix = "cali"
)

var (
	// interfaceName is what Calico takes as the name of an interface.
	interfaceName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,15}$`)
	// plainInterface is one that can end the name of a Kubernetes object.
	plainInterface = regexp.MustCompile(`^[a-z0-9]+(\.[a-z0-9]+)*$`)
	// unfit is what the name of a Kubernetes object can't hold.
	unfit = regexp.MustCompile(`[^a-z0-9]+`)
	// hashed is what ends a name that was made to fit.
	hashed = regexp.MustCompile(`-[0-9a-f]{12}$`)
)

// Link is a network interface of the node.
type Link struct {
	Name      string
	Addresses []netip.Addr
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
		if !interfaceName.MatchString(link.Name) {
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

// usable returns addresses by which others can reach an interface, each once,
// sorted. Loopback and link-local ones are no node's own.
func usable(addresses []netip.Addr) (kept []netip.Addr) {
	for _, addr := range addresses {
		addr = addr.Unmap().WithZone("")
		if addr.IsValid() && !addr.IsUnspecified() && !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && !addr.IsMulticast() {
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
	if plain := node + "-" + iface; plainInterface.MatchString(iface) && len(plain) <= maxName && !hashed.MatchString(plain) {
		return plain
	}
	sum := sha256.Sum256([]byte(node + "\x00" + iface))
	tail := "-" + hex.EncodeToString(sum[:])[:hashLength]
	head := node
	if fitted := strings.Trim(unfit.ReplaceAllString(strings.ToLower(iface), "-"), "-"); fitted != "" {
		head += "-" + fitted
	}
	head = head[:min(len(head), maxName-len(tail))]
	return strings.TrimRight(head, "-.") + tail
}
