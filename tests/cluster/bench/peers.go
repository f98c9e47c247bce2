package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/host-firewall/host-firewall/tests/cluster"
	"github.com/host-firewall/host-firewall/tests/cluster/host"
	"github.com/host-firewall/host-firewall/tests/cluster/release"
)

// Peers is the name of the part that measures what it costs to see who is connected.
const Peers = "peers"

const (
	// peersOpen is how many connections are open, from so many addresses, and peersShort how many more come and go in a second.
	peersOpen, peersAddresses, peersShort = 10_000, 100, 100
	// peersLook is the longest between two looks of an agent.
	peersLook = 2 * time.Minute
	// peersAnnotation is where the agent tells of them.
	peersAnnotation = "host-firewall.io/peers"
)

// wants tells whether a part is to be measured.
func (b *bench) wants(part string) bool {
	return len(b.settings.Only) == 0 || slices.Contains(b.settings.Only, part)
}

// peers measures an agent that looks who is connected, as it does in audit for as long as that lasts, on a node with very many connections.
func (b *bench) peers(ctx context.Context) (p *PeersCost, err error) {
	b.head("an agent that sees %d connections", peersOpen)
	agent := &contender{name: Agent, namespace: releaseNamespace, pods: "app.kubernetes.io/name=host-firewall,app.kubernetes.io/component!=controller", user: "system:serviceaccount:" + releaseNamespace + ":" + releaseName, perNode: true}
	to, err := b.port(agent.node(b), cluster.OrdinaryPort)
	if err != nil {
		return nil, err
	}
	t := &traffic{to: to.AddrPort}
	defer t.end()
	if err := t.begin(b); err != nil {
		return nil, err
	}
	if err := release.LoadAgent(ctx, b.root, b.cluster, b.out); err != nil {
		return nil, err
	}
	r, err := b.release()
	if err != nil {
		return nil, err
	}
	v := values()
	v["mode"] = "audit"
	if _, err := r.Install(ctx, v); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.stopAgent(ctx)) }()
	if err := release.WaitArmed(ctx, b.cluster, releaseNamespace); err != nil {
		return nil, err
	}
	p = &PeersCost{Connections: peersOpen, Addresses: peersAddresses, Short: peersShort}
	told := time.Now().Add(peersLook)
	if p.Still, err = b.idle(ctx, agent, told); err != nil {
		return nil, err
	}
	stop := t.shorts(ctx)
	p.Busy, err = b.idle(ctx, agent, time.Now())
	stop()
	if err != nil {
		return nil, err
	}
	hep, err := b.calico("hostendpoints").Get(ctx, agent.node(b), metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read endpoint: %w", err)
	}
	text := hep.GetAnnotations()[peersAnnotation]
	if p.Annotation = len(text); !strings.Contains(text, fmt.Sprintf(`{"port":%d,"addresses":%d,`, cluster.OrdinaryPort, peersAddresses)) {
		return nil, fmt.Errorf("the agent does not tell of %d addresses at port %d: %s", peersAddresses, cluster.OrdinaryPort, text)
	}
	b.say("annotation of %d bytes", p.Annotation)
	return p, nil
}

// traffic is connections of an outsider to a node.
type traffic struct {
	to      netip.AddrPort
	from    string // network namespace
	sources []netip.Addr
	open    []net.Conn
}

// begin opens them all.
func (t *traffic) begin(b *bench) error {
	outsider, err := b.cluster.Host(cluster.StrangerHost)
	if err != nil {
		return err
	}
	t.from = outsider.NetNS()
	handle, err := outsider.Netlink()
	if err != nil {
		return err
	}
	defer handle.Close()
	eth0, err := handle.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("find the link of %s: %w", outsider.Name, err)
	}
	addr := netip.MustParsePrefix(b.cluster.StrangerCIDRs()[0]).Addr()
	for range 255 - peersAddresses {
		addr = addr.Next()
	}
	for range peersAddresses {
		if err := handle.AddrAdd(eth0, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(32, 32)}}); err != nil {
			return fmt.Errorf("give %s the address %s: %w", outsider.Name, addr, err)
		}
		t.sources = append(t.sources, addr)
		addr = addr.Next()
	}
	for i := range peersOpen {
		conn, err := t.dial(t.sources[i%peersAddresses])
		if err != nil {
			return fmt.Errorf("open connection %d: %w", i+1, err)
		}
		t.open = append(t.open, conn)
	}
	return nil
}

func (t *traffic) dial(from netip.Addr) (conn net.Conn, err error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: eventLimit}
	err = host.InNetNS(t.from, func() error {
		conn, err = dialer.Dial("tcp", t.to.String())
		return err
	})
	return conn, err
}

// shorts opens and closes connections, so many in a second, until it is stopped.
func (t *traffic) shorts(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(time.Second / peersShort)
		defer tick.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			if conn, err := t.dial(t.sources[i%peersAddresses]); err == nil {
				_ = conn.Close()
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// end closes them all.
func (t *traffic) end() {
	for _, conn := range t.open {
		_ = conn.Close()
	}
}
