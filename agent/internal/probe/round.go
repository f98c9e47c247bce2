package probe

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/trial"
)

// roundPatience is how long all probes of a round may take together: a round is made each
// second.
const roundPatience = time.Second

// Target is something that the node has to reach.
type Target struct {
	// Name is that of the probe in its result.
	Name string
	// Any are addresses as net.Dial takes them, of which one that is reached is enough.
	Any []string
	// Refused tells that to be refused is as good: nobody listens there.
	Refused bool
	// DNS tells that they are name servers, and are asked by UDP. It does not matter what
	// they answer.
	DNS bool
}

// DNS returns the first name server of a resolv.conf as a target. It has no address where the
// file names none.
func DNS(resolvConf string) Target {
	target := Target{Name: "DNS", DNS: true}
	file, err := os.Open(resolvConf)
	if err != nil {
		return target
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "nameserver" {
			target.Any = []string{net.JoinHostPort(fields[1], "53")}
			break
		}
	}
	return target
}

// Always are what a host has to reach whatever the cluster says: the API server at the URL, and DNS. The
// error says that it is none.
func Always(apiServer string) ([]Target, error) {
	at, err := url.Parse(apiServer)
	if err != nil {
		return nil, fmt.Errorf("read address of the API server: %w", err)
	}
	port := cmp.Or(at.Port(), map[string]string{"http": "80"}[at.Scheme], "443")
	return []Target{{Name: "API server", Any: []string{net.JoinHostPort(at.Hostname(), port)}}, DNS("/etc/resolv.conf")}, nil
}

// Targets are what a node has to reach whatever its set. The kubelets of other nodes are one:
// some may be in trouble of their own.
func Targets(node *corev1.Node, said *clearance.Clearance, set string) (targets []Target) {
	add := func(name string, addresses ...string) {
		if len(addresses) > 0 {
			targets = append(targets, Target{Name: name, Any: addresses})
		}
	}
	if own := endpoint.KubeletOf(node); own.IsValid() {
		add("kubelet of this node", own.String())
	}
	var peers []string
	for name, kubelet := range said.Peers {
		if name != node.Name {
			peers = append(peers, kubelet.String())
		}
	}
	add("kubelets of other nodes", peers...)
	if w, ok := said.Witnesses[set]; ok {
		targets = append(targets, Target{Name: "loopback", Any: []string{netip.AddrPortFrom(w.Control, clearance.WitnessPort).String()}, Refused: true})
	}
	return targets
}

// Round probes all targets side by side, with new connections, for roundPatience at most. The
// results are in the order of the targets. A problem has the same words each time.
func Round(ctx context.Context, targets []Target) []trial.Result {
	ctx, cancel := context.WithTimeout(ctx, roundPatience)
	defer cancel()
	results := make([]trial.Result, len(targets))
	var probes sync.WaitGroup
	for i, target := range targets {
		probes.Go(func() {
			results[i].Probe = target.Name
			if err := target.reach(ctx); err != nil {
				results[i].Problem = err.Error()
			}
		})
	}
	probes.Wait()
	return results
}

// reach tries the addresses one after the other, each node in an order of its own: the first of
// them would else get the connections of all nodes.
func (t Target) reach(ctx context.Context) error {
	problems := make([]string, len(t.Any))
	deadline, _ := ctx.Deadline()
	for tried, i := range rand.Perm(len(t.Any)) {
		share := time.Until(deadline) / time.Duration(len(t.Any)-tried)
		err := t.try(ctx, t.Any[i], share)
		if err == nil {
			return nil
		}
		problems[i] = err.Error()
	}
	if len(problems) == 0 {
		return errors.New("no address of it is known")
	}
	return errors.New(strings.Join(problems, "; "))
}

func (t Target) try(ctx context.Context, address string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if t.DNS {
		return query(ctx, address)
	}
	connection, err := (&net.Dialer{KeepAlive: -1}).DialContext(ctx, "tcp", address)
	if t.Refused && errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return err
	}
	return connection.Close()
}

// question is a DNS query for the address of localhost, which name servers answer by
// themselves (RFC 6761, 6.3), with recursion desired, as they get from everybody.
const question = "\x00\x00\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + "\x09localhost\x00" + "\x00\x01\x00\x01"

// query asks a name server.
func query(ctx context.Context, server string) error {
	connection, err := (&net.Dialer{}).DialContext(ctx, "udp", server)
	if err != nil {
		return err
	}
	defer connection.Close()
	deadline, _ := ctx.Deadline()
	if err = connection.SetDeadline(deadline); err == nil {
		_, err = connection.Write([]byte(question))
	}
	if err == nil {
		_, err = connection.Read(make([]byte, 512))
	}
	if operation := (*net.OpError)(nil); errors.As(err, &operation) {
		// What it is of names our port, another one each time.
		err = fmt.Errorf("ask udp %s: %w", server, operation.Err)
	}
	return err
}
