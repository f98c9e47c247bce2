package peers

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

// Accept is what may be cut, and nobody has to be told.
type Accept struct {
	Ports []uint16
	CIDRs []netip.Prefix
}

func (a Accept) accepts(port uint16, from netip.Addr) bool {
	return slices.Contains(a.Ports, port) || slices.ContainsFunc(a.CIDRs, func(cidr netip.Prefix) bool { return cidr.Contains(from) })
}

// Advice is what agents have seen on nodes that a person may want to write values for.
type Advice struct {
	Text string `json:"text"`
	// Nodes are the first nodes of which it is so, by name, and More is how many others there are.
	Nodes []string `json:"nodes"`
	More  int      `json:"more,omitempty"`
}

// Findings are what a controller makes of what agents say.
type Findings struct {
	// WouldCut are those who are or were lately connected to nodes and that a set would cut off there, most
	// connections first, and WouldCutMore is how many others there are.
	WouldCut     []Cut `json:"wouldCut,omitempty"`
	WouldCutMore int   `json:"wouldCutMore,omitempty"`
	// Advice is what else agents have seen.
	Advice []Advice `json:"advice,omitempty"`
}

// Alike tells whether both name the same, in whatever numbers. Where there are more than can be named, these decide
// who is, so that others are no news.
func (f Findings) Alike(other Findings) bool {
	crowded := f.WouldCutMore > 0 && other.WouldCutMore > 0
	return (crowded || slices.Equal(whom(f.WouldCut), whom(other.WouldCut))) &&
		slices.EqualFunc(f.Advice, other.Advice, func(a, b Advice) bool { return a.Text == b.Text && slices.Equal(a.Nodes, b.Nodes) })
}

// whom returns cuts without their numbers of connections, in one order.
func whom(cuts []Cut) []Cut {
	cuts = slices.Clone(cuts)
	for i := range cuts {
		cuts[i].Connections = 0
	}
	slices.SortFunc(cuts, Compare)
	return cuts
}

// Cuts returns whom the set would cut off who is in the summary of a node, by Compare. All of them
// are connected to processes of the node: whom kube-proxy passes on is no socket of the node.
func Cuts(node string, s Summary, set verdict.Set, w verdict.World, accept Accept) (cuts []Cut) {
	for _, port := range s.Ports {
		for _, peer := range port.From {
			from := peer.Addr.Unmap().WithZone("")
			if accept.accepts(port.Port, from) {
				continue
			}
			if !set.Judge(verdict.Connection{From: from, Protocol: verdict.TCP, Port: port.Port, Way: verdict.ToHost}, w).Allowed {
				cuts = append(cuts, Cut{Node: node, Port: port.Port, From: from, Connections: peer.Connections})
			}
		}
	}
	slices.SortFunc(cuts, Compare)
	return cuts
}

// With returns the summary with the peer of a cut in it that it may not tell any more: of many
// at one port it tells others each time.
func (s Summary) With(cut Cut) Summary {
	peer := Peer{Addr: cut.From, Connections: cut.Connections}
	ports := slices.Clone(s.Ports)
	s.Ports = ports
	at := slices.IndexFunc(ports, func(p Port) bool { return p.Port == cut.Port })
	if at < 0 {
		s.Ports = append(ports, Port{Port: cut.Port, Addresses: 1, From: []Peer{peer}})
	} else if !slices.ContainsFunc(ports[at].From, func(p Peer) bool { return p.Addr.Unmap().WithZone("") == cut.From }) {
		ports[at].From = append(slices.Clone(ports[at].From), peer)
	}
	return s
}

// Compare orders cuts for people: those with most connections first.
func Compare(a, b Cut) int {
	return cmp.Or(cmp.Compare(b.Connections, a.Connections), cmp.Compare(a.Port, b.Port), a.From.Compare(b.From), cmp.Compare(a.Node, b.Node))
}
