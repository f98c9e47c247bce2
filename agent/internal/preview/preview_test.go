package preview

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/host-firewall/host-firewall/agent/internal/verdict"
)

var testdata = filepath.Join("..", "..", "..", "tests", "helm", "testdata")

// rendering is a text as helm template writes it, with a DaemonSet of these arguments.
func rendering(release string, arguments []string, policies []json.RawMessage) string {
	args, _ := json.Marshal(arguments)
	text := fmt.Sprintf("---\n# Source: host-firewall/templates/daemonset.yaml\nkind: DaemonSet\nmetadata: {labels: {host-firewall.io/release: %s}}\nspec: {template: {spec: {containers: [{args: %s}]}}}\n", release, args)
	for _, policy := range policies {
		text += "---\n" + string(policy) + "\n"
	}
	return text
}

// renderings are those of the chart's values files. Tests of the chart keep true what they are made of.
func renderings(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(testdata, "agent-args", "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	texts := map[string]string{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		arguments, err := os.ReadFile(path)
		require.NoError(t, err)
		content, err := os.ReadFile(filepath.Join(testdata, "policies", name+".json"))
		require.NoError(t, err)
		var policies []json.RawMessage
		require.NoError(t, json.Unmarshal(content, &policies))
		texts[name] = rendering("host-firewall", strings.Fields(string(arguments)), policies)
	}
	return texts
}

func read(t *testing.T, name, text string) *Side {
	t.Helper()
	side, err := Read(name, []byte(text), "")
	require.NoError(t, err)
	return side
}

// mirrored are the changes the other way round, in any order.
func mirrored(r *Report) (changes []string) {
	other := map[string]string{"opens": "closes", "closes": "opens"}
	for _, c := range r.Changes {
		changes = append(changes, fmt.Sprint(other[c.Does], c.What, c.On, c.To, c.But))
	}
	return changes
}

func TestEveryPairOfRenderingsHasAText(t *testing.T) {
	sides := map[string]*Side{}
	for name, text := range renderings(t) {
		sides[name] = read(t, name, text)
	}
	for from, before := range sides {
		for to, after := range sides {
			r, _, err := compareSides(before, after)
			require.NoError(t, err)
			text := r.String()
			for line := range strings.Lines(text) {
				assert.LessOrEqual(t, len(line), columns+1, line)
			}
			assert.LessOrEqual(t, strings.Count(text, "\n"), 28, text)
			assert.Equal(t, len(r.Changes) == 0, strings.Contains(text, "nothing changes in who may reach what"), text)
			if from == to {
				assert.Empty(t, r.Changes, text)
				assert.Contains(t, text, "it is the same set of policies")
			}
			var changes []string
			for _, c := range r.Changes {
				changes = append(changes, fmt.Sprint(c.Does, c.What, c.On, c.To, c.But))
			}
			back, _, err := compareSides(after, before)
			require.NoError(t, err)
			assert.ElementsMatch(t, changes, mirrored(back), "%s -> %s", from, to)
		}
	}
}

// What a person reads.
func TestTextSaysInFewLinesWhatMatters(t *testing.T) {
	texts := renderings(t)
	for _, test := range []struct{ from, to, want string }{
		{"default", "ssh", `
  closes tcp/22 to everybody, but what cluster and ssh.cidrs let in
  opens tcp/2200-2299 to 192.0.2.0/24, 198.51.100.7 and 2001:db8:a::/48
`},
		{"default", "ingress", `
  opens tcp/80, tcp/443, ICMP and ICMPv6 to everybody
  opens tcp/30000-32767 to 192.0.2.0/24 and 2001:db8:a::/48
  opens udp/3784, sctp/36412 and protocol 112 to 198.51.100.0/24
`},
		{"ssh", "article", `
  closes everything to nodes, pods and API servers, but what cluster.cidrs,
    essential and failsafe let in
  opens tcp/22 to everybody
  closes tcp/2200-2299 to 192.0.2.0/24, 198.51.100.7 and 2001:db8:a::/48
  opens everything to 10.240.0.0/16 and 192.168.0.0/16
`},
		{"audit", "ssh", `
  mode audit becomes enforce: what audit only logs is dropped. To see what else
    the values change, compare a rendering with mode=audit
  closes everything to everybody, but what cluster, essential, failsafe and
    ssh.cidrs let in
`},
		{"ssh", "off", `
  mode enforce becomes off
  opens everything to everybody
`},
		{"host-ports-only", "default", `
  closes everything to everybody, on NodePorts and for what nodes forward, but
    what cluster, essential and failsafe let in
  opens tcp/22 to everybody, on the hosts themselves
`},
		{"default", "interfaces", `
  nothing changes in who may reach what
  hostEndpoint.interfaces [*] become [*, eth*, bond?]
  it is the same set of policies: no node moves to another one
`},
	} {
		r, _, err := compareSides(read(t, test.from+".yaml", texts[test.from]), read(t, test.to+".yaml", texts[test.to]))
		require.NoError(t, err)
		first := fmt.Sprintf("From %s.yaml (set %s) to %s.yaml (set %s):", test.from, r.Before.Set, test.to, r.After.Set)
		assert.Equal(t, first+test.want, r.String())
	}
}

// values are like those of the chart.
type values struct {
	mode                        string
	nodes, pods, apiServer      bool
	narrow                      bool
	cidrs, sshCIDRs             []string
	sshPorts, apiServerPorts    []int
	ingress                     []entry
	icmpEcho, preDNAT, localDNS bool
}

type entry struct {
	cidrs    []string
	protocol any
	ports    []any
}

func (v values) rules() map[string][]any {
	from := func(cidrs []string, protocol any, ports []any, name string) (rules []any) {
		for _, six := range []bool{false, true} {
			var nets []any
			for _, cidr := range cidrs {
				if strings.Contains(cidr, ":") == six {
					nets = append(nets, cidr)
				}
			}
			if len(nets) == 0 {
				continue
			}
			rule := map[string]any{"action": "Allow", "source": map[string]any{"nets": nets}}
			if protocol != nil {
				rule["protocol"] = protocol
			}
			if len(ports) > 0 {
				rule["destination"] = map[string]any{"ports": ports}
			}
			if name != "" {
				rule["metadata"] = map[string]any{"annotations": map[string]any{"host-firewall.io/ingress": name}}
			}
			rules = append(rules, rule)
		}
		return rules
	}
	numbers := func(of []int) (ports []any) {
		for _, port := range of {
			ports = append(ports, float64(port))
		}
		return ports
	}
	allow := func(fields map[string]any) any { fields["action"] = "Allow"; return fields }
	loop := func(cidr string) any {
		return allow(map[string]any{"source": map[string]any{"nets": []any{cidr}}, "destination": map[string]any{"nets": []any{cidr}}})
	}
	essential := []any{loop("127.0.0.0/8"), loop("::1/128")}
	if v.localDNS {
		essential = append(essential, from([]string{"169.254.20.10/32"}, nil, nil, "")...)
	}
	if len(v.apiServerPorts) > 0 {
		essential = append(essential, allow(map[string]any{"protocol": "TCP", "destination": map[string]any{"ports": numbers(v.apiServerPorts)}}))
	}
	if v.icmpEcho {
		essential = append(essential, allow(map[string]any{"ipVersion": 4.0, "protocol": "ICMP", "icmp": map[string]any{"type": 8.0}}),
			allow(map[string]any{"ipVersion": 6.0, "protocol": "ICMPv6", "icmp": map[string]any{"type": 128.0}}))
	}
	var cluster []any
	if v.nodes {
		cluster = append(cluster, allow(map[string]any{"source": map[string]any{"selector": "host-firewall.io/release == 'fw' && host-firewall.io/trust == 'node'", "namespaceSelector": "global()"}}))
	}
	if v.pods {
		cluster = append(cluster, allow(map[string]any{"source": map[string]any{"selector": "has(projectcalico.org/orchestrator)", "namespaceSelector": "all()"}}))
	}
	if v.apiServer {
		cluster = append(cluster, allow(map[string]any{"source": map[string]any{"services": map[string]any{"name": "kubernetes", "namespace": "default"}}}))
	}
	cluster = append(cluster, from(v.cidrs, nil, nil, "")...)
	var ingress []any
	for i, e := range v.ingress {
		ingress = append(ingress, from(e.cidrs, e.protocol, e.ports, fmt.Sprintf("e%d", i))...)
	}
	drop := map[string]any{"action": map[bool]string{true: "Log", false: "Deny"}[v.mode == "audit"]}
	return map[string][]any{"allow-essential": essential, "allow-cluster": cluster, "allow-ssh": from(v.sshCIDRs, "TCP", numbers(v.sshPorts), ""), "allow-ingress": ingress, "drop-other": {drop}}
}

// side is what the chart renders for them.
func (v values) side(t *testing.T, name, set string) *Side {
	t.Helper()
	return read(t, name, v.text(t, set))
}

func (v values) text(t *testing.T, set string) string {
	t.Helper()
	arguments := []string{"--release=fw", "--namespace=ns", "--mode=" + v.mode, "--set=" + set, "--interfaces=*"}
	if v.narrow && len(v.sshCIDRs) > 0 {
		arguments = append(arguments, "--narrow-failsafe=true", "--ssh-cidrs="+strings.Join(v.sshCIDRs, ","), "--ssh-ports="+strings.Trim(strings.ReplaceAll(fmt.Sprint(v.sshPorts), " ", ","), "[]"))
	}
	var policies []json.RawMessage
	all := v.rules()
	for _, purpose := range slices.Sorted(maps.Keys(all)) {
		rules := all[purpose]
		if len(rules) == 0 {
			continue
		}
		spec := map[string]any{"order": 10, "types": []string{"Ingress"}, "ingress": rules, "selector": "host-firewall.io/release == 'fw' && host-firewall.io/set contains '" + set + "'"}
		if purpose == "drop-other" {
			spec["order"] = 20
		}
		if v.preDNAT {
			spec["preDNAT"], spec["applyOnForward"] = true, true
		}
		policy, err := json.Marshal(map[string]any{"kind": "GlobalNetworkPolicy", "spec": spec, "metadata": map[string]any{
			"name": fmt.Sprintf("fw-%s-%s", purpose, set), "labels": map[string]string{"host-firewall.io/release": "fw", "host-firewall.io/set": set},
		}})
		require.NoError(t, err)
		policies = append(policies, policy)
	}
	return rendering("fw", arguments, policies)
}

// Networks within each other, and apart.
var networks = []string{
	"10.0.0.0/8", "10.4.0.0/16", "10.4.7.0/24", "10.4.7.9/32", "10.5.0.0/16", "192.0.2.0/24", "192.0.2.128/25", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1",
	"2001:db8::/32", "2001:db8:a::/48", "::/0", "fd00::/8", "2000::/3",
}

func some(r *rand.Rand, of []string, most int) (chosen []string) {
	for range r.IntN(most + 1) {
		if one := of[r.IntN(len(of))]; !slices.Contains(chosen, one) {
			chosen = append(chosen, one)
		}
	}
	return chosen
}

func randomValues(r *rand.Rand) values {
	yes := func() bool { return r.IntN(3) > 0 }
	v := values{
		mode: []string{"enforce", "enforce", "enforce", "enforce", "audit", "off"}[r.IntN(6)], nodes: yes(), pods: yes(), apiServer: yes(), narrow: yes(), icmpEcho: yes(), preDNAT: yes(), localDNS: yes(),
		cidrs: some(r, networks[:7], 2), sshCIDRs: some(r, networks, 3), sshPorts: [][]int{{22}, {22, 2222}, {2222}}[r.IntN(3)], apiServerPorts: [][]int{{6443}, {443}, nil}[r.IntN(3)],
	}
	if v.mode == "audit" {
		v.preDNAT = true
	}
	for range r.IntN(4) {
		v.ingress = append(v.ingress, []entry{
			{some(r, networks, 3), "TCP", []any{443.0, "9000:9100"}},
			{some(r, networks, 3), "TCP", []any{9050.0}},
			{some(r, networks, 3), "UDP", []any{"1:65535"}},
			{some(r, networks, 3), "TCP", []any{"1:65535"}},
			{some(r, networks[:10], 3), "ICMP", nil},
			{some(r, networks[10:], 3), "ICMPv6", nil},
			{some(r, networks, 3), 112.0, nil},
			{some(r, networks, 3), "SCTP", []any{36412.0}},
		}[r.IntN(8)])
	}
	return v
}

// randomConnection is one from inside or near a network, of somebody who is known as something.
func randomConnection(r *rand.Rand) (verdict.Connection, as) {
	network := netip.MustParsePrefix(networks[r.IntN(len(networks))])
	bytes := network.Addr().AsSlice()
	for bit := network.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= byte(r.IntN(2)) << (7 - bit%8)
	}
	from, _ := netip.AddrFromSlice(bytes)
	if r.IntN(4) == 0 {
		from = netip.MustParseAddr([]string{"198.51.100.1", "2620:fe::9", "169.254.20.10", "10.4.7.9"}[r.IntN(4)])
	}
	c := verdict.Connection{From: from, Way: ways[r.IntN(len(ways))], Protocol: []string{"TCP", "TCP", "TCP", "UDP", "SCTP", "ICMP", "ICMPv6", "112", "99"}[r.IntN(9)]}
	switch c.Protocol {
	case "TCP", "UDP", "SCTP":
		c.Port = []uint16{22, 2222, 443, 6443, 179, 9000, 9050, 9100, 9101, 36412, uint16(1 + r.IntN(65535))}[r.IntN(11)]
	case "ICMP", "ICMPv6":
		c.ICMPType = []int{8, 128, 3, 135, r.IntN(256)}[r.IntN(5)]
		from = netip.MustParseAddr(map[string]string{"ICMP": "10.4.7.1", "ICMPv6": "2001:db8:a::1"}[c.Protocol])
		if c.From.Is4() != from.Is4() {
			c.From = from
		}
	}
	return c, as(r.IntN(int(identities)))
}

// holds tells whether the text is about the connection, by a change with that sign, and which values it excepts.
func (r *Report) holds(table *table, c verdict.Connection, known as, sign change) (is bool, but []string) {
	if _, err := fmt.Sscan(c.Protocol, new(int)); err == nil && !slices.ContainsFunc(table.whats, func(w what) bool { return w.protocol == c.Protocol }) {
		c.Protocol = rest
	}
	if c.Protocol == verdict.ICMP || c.Protocol == verdict.ICMPv6 {
		if !slices.ContainsFunc(table.whats, func(w what) bool { return w.protocol == c.Protocol && int(w.first) == c.ICMPType }) {
			other := table.whats[slices.IndexFunc(table.whats, func(w what) bool { return w.protocol == c.Protocol && w.rest })]
			c.ICMPType = int(other.first)
		}
	}
	_, world := connection(c.From, known, target{})
	for _, change := range r.Changes {
		if change.group.sign == sign && table.concerns(change, c, world) {
			is, but = true, append(but, change.But...)
		}
	}
	return is, but
}

// Each change that is told is true of every connection that it is about, and each connection
// that is judged otherwise is in a change that is told.
func TestTextIsTrueOfEveryConnection(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 18))
	changes := map[change]int{}
	for round := range 80 {
		before, after := randomValues(r), randomValues(r)
		if round%2 == 0 { // the usual: some of it changes
			kept := after
			after = before
			after.ingress, after.sshCIDRs = kept.ingress, kept.sshCIDRs
		}
		a, b := before.side(t, "a", "aaaa"), after.side(t, "b", "bbbb")
		report, table, err := compareSides(a, b)
		require.NoError(t, err)
		for range 400 {
			c, known := randomConnection(r)
			_, world := connection(c.From, known, target{})
			was, is := report.Before.judge(c, world), report.After.judge(c, world)
			opened, _ := report.holds(table, c, known, opens)
			shut, but := report.holds(table, c, known, closes)
			happened := closed
			switch {
			case was.Allowed && is.Allowed:
				happened = open
				assert.True(t, !shut || slices.Contains(but, is.By), "told as closed, and let in by %s", is.By)
			case is.Allowed:
				happened = opens
				assert.True(t, opened && !shut, "opened, and not told so")
			case was.Allowed:
				happened = closes
				assert.True(t, shut && !opened, "closed, and not told so")
			default:
				assert.False(t, shut || opened, "told, and was and is closed")
			}
			if changes[happened]++; t.Failed() {
				t.Fatalf("seed %d: %+v known as %d\n%s\n%+v\n%+v", seed, c, known, report, before, after)
			}
		}
		back, _, err := compareSides(b, a)
		require.NoError(t, err)
		var told []string
		for _, c := range report.Changes {
			told = append(told, fmt.Sprint(c.Does, c.What, c.On, c.To, c.But))
		}
		require.ElementsMatch(t, told, mirrored(back), "seed %d:\n%s\n%s\n%+v\n%+v", seed, report, back, before, after)
	}
	for _, kind := range []change{closed, open, opens, closes} {
		assert.Greater(t, changes[kind], 300, "the samples show something: %v", changes)
	}
}
