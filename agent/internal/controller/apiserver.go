package controller

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

const (
	// askAgain is when the question is put again where an API server would be lost or there
	// was no answer, and askNew where Nodes have come that were not asked about.
	askAgain = 30 * time.Second
	askNew   = time.Second
)

// apiServers is the last answer to the question whether everybody who reaches an API
// server on a node still would if the node were armed.
type apiServers struct {
	asked, answered time.Time
	err             error               // of the last attempt
	closed          map[string][]uint16 // by Node, the ports that nothing lets anybody in to
}

// guardsAPIServers tells whether that question is asked at all. It is in audit, too, which
// loses nothing: from there an armed node goes on to enforce without being asked again.
func (c Config) guardsAPIServers() bool { return len(c.APIServerPorts) > 0 && !c.Off }

// lost says which API server would be lost to who is outside the cluster.
func (c Config) lost(closed []uint16) string {
	return fmt.Sprintf("this node's API server is on tcp %s, to which neither essential.apiServerPorts nor Calico's failsafe lets anybody in: write essential.apiServerPorts: [%s]",
		portsOf(closed), portsOf(append(slices.Clone(c.APIServerPorts), closed...)))
}

func portsOf(ports []uint16) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(ports)), ", "), "[]")
}

// asksAPIServers tells whether to ask now.
func (c Config) asksAPIServers(f facts, m *memory) bool {
	return c.guardsAPIServers() && !f.now.Before(c.nextAsk(f, m))
}

// nextAsk returns when to ask.
func (c Config) nextAsk(f facts, m *memory) time.Time {
	last := f.apiServers
	every := c.Resync
	switch {
	case last.answered.IsZero():
		every = askNew
	case last.err != nil || len(last.closed) > 0:
		every = min(every, askAgain)
	}
	for _, object := range f.nodes {
		if n := m.nodes[object.Name]; last.err == nil && (n == nil || n.known.After(last.answered)) {
			every = askNew
			break
		}
	}
	return last.asked.Add(every)
}

// askAPIServers finds out which ports would be closed. What was found out before is
// believed until there is an answer.
func (k *Controller) askAPIServers(ctx context.Context, f facts) apiServers {
	answer := f.apiServers
	answer.asked = f.now
	closed, err := k.closedPorts(ctx, f)
	if answer.err = err; err == nil {
		answer.answered, answer.closed = f.now, closed
	}
	return answer
}

// closedPorts returns the ports of API servers that nothing lets anybody in to, by Node. A
// node that has none has nothing to lose, wherever the API server is.
func (k *Controller) closedPorts(ctx context.Context, f facts) (map[string][]uint16, error) {
	addresses, ports, err := k.api.APIServer(ctx)
	if err != nil {
		return nil, err
	}
	ports = slices.DeleteFunc(slices.Clone(ports), func(port uint16) bool { return slices.Contains(k.config.APIServerPorts, port) })
	if len(ports) == 0 {
		return nil, nil
	}
	closed := map[string][]uint16{}
	for _, node := range nodesWith(addresses, f) {
		own, err := k.api.ReadFelix(ctx, failsafe.Name(node))
		if err != nil {
			return nil, err
		}
		open, err := failsafe.Ports(own, f.felix)
		if err != nil {
			return nil, err
		}
		if lost := slices.DeleteFunc(slices.Clone(ports), func(port uint16) bool { return slices.Contains(open, port) }); len(lost) > 0 {
			closed[node] = lost
		}
	}
	return closed, nil
}

// nodesWith returns the names of the Nodes of which one of the addresses is: an API
// server may be told to say another one than the Node's, which an endpoint then has.
func nodesWith(addresses []netip.Addr, f facts) (names []string) {
	on := byNode(f)
	for _, object := range f.nodes {
		if slices.ContainsFunc(addressesOf(object, on[object.Name]), func(addr netip.Addr) bool { return slices.Contains(addresses, addr) }) {
			names = append(names, object.Name)
		}
	}
	return names
}
