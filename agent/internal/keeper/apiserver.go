package keeper

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// apiServer is the last answer to the question whether everybody who reaches an API
// server on this node still would if the node were armed.
type apiServer struct {
	question
	closed []uint16 // the ports that nothing lets anybody in to
}

// guardsAPIServer tells whether that question is asked at all. It is in audit, too, which
// loses nothing: from there an armed node goes on to enforce without being asked again.
func (c Config) guardsAPIServer() bool { return len(c.APIServerPorts) > 0 && !c.Off }

// lost says which API server would be lost to who is outside the cluster; empty: none.
func (c Config) lost(f facts) string {
	if len(f.apiServer.closed) == 0 {
		return ""
	}
	return fmt.Sprintf("this node's API server is on tcp %s, to which neither essential.apiServerPorts nor Calico's failsafe lets anybody in: write essential.apiServerPorts: [%s]",
		portsOf(f.apiServer.closed), portsOf(append(slices.Clone(c.APIServerPorts), f.apiServer.closed...)))
}

// mayLose says why the API server might be lost to them; empty: it would not be.
func (c Config) mayLose(f facts) string {
	switch {
	case !c.guardsAPIServer():
		return ""
	case !f.apiServer.asked:
		return "asking for the port of the API server"
	case f.apiServer.err != nil:
		return "cannot tell whether an API server of this node stays open: " + f.apiServer.err.Error()
	}
	return c.lost(f)
}

func portsOf(ports []uint16) string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(ports)), ", "), "[]")
}

// askAPIServer finds out which ports would be closed.
func (k *Keeper) askAPIServer(ctx context.Context, node *corev1.Node) {
	closed, err := k.closedPorts(ctx, node)
	if err == nil {
		k.apiServer.closed = closed
		if len(closed) == 0 {
			// Then it is asked at each resync, which is seldom enough.
			k.apiServer.delay = 0
		}
	}
	k.apiServer.answered(time.Now(), 0, err)
}

// closedPorts returns the ports of API servers on the Node that nothing lets anybody in to.
// A node that is none has nothing to lose, wherever the API server is.
func (k *Keeper) closedPorts(ctx context.Context, node *corev1.Node) (closed []uint16, err error) {
	addresses, ports, err := k.api.APIServer(ctx)
	if err != nil {
		return nil, err
	}
	if has, err := k.hasAny(node, addresses); err != nil || !has {
		return nil, err
	}
	closed = slices.DeleteFunc(ports, func(port uint16) bool { return slices.Contains(k.config.APIServerPorts, port) })
	if len(closed) == 0 {
		return nil, nil
	}
	own, err := k.api.ReadFelix(ctx, failsafe.Name(node.Name))
	if err != nil {
		return nil, err
	}
	forAll, err := k.api.ReadFelix(ctx, failsafe.ForAll)
	if err != nil {
		return nil, err
	}
	open, err := failsafe.Ports(own, forAll)
	return slices.DeleteFunc(closed, func(port uint16) bool { return slices.Contains(open, port) }), err
}

// hasAny tells whether one of the addresses is the Node's, or one of its interfaces has it:
// an API server may be told to say another one than the Node's.
func (k *Keeper) hasAny(node *corev1.Node, addresses []string) (bool, error) {
	var own []netip.Addr
	if k.config.Addresses != nil {
		var err error
		if own, err = k.config.Addresses(); err != nil {
			return false, err
		}
	}
	for _, address := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(address.Address); err == nil {
			own = append(own, addr)
		}
	}
	return slices.ContainsFunc(addresses, func(text string) bool {
		addr, err := netip.ParseAddr(text)
		return err == nil && slices.Contains(own, addr)
	}), nil
}
