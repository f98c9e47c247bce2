package bench

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/host-firewall/host-firewall/tests/cluster/image"
)

// Report is all that was measured.
type Report struct {
	Date       string            `json:"date"`
	Machine    Machine           `json:"machine"`
	Versions   map[string]string `json:"versions"`
	Settings   settingsRecord    `json:"settings"`
	Minutes    float64           `json:"minutes"`
	Contenders []Result          `json:"contenders"`
	Wire       *Wire             `json:"wire,omitempty"`
	Peers      *PeersCost        `json:"peers,omitempty"`
	Scale      []Scale           `json:"scale"`
	Promises   []Promise         `json:"promises"`
}

// Machine is what everything ran on, all of the cluster included.
type Machine struct {
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memoryBytes"`
	Kernel      string `json:"kernel"`
	Platform    string `json:"platform"`
}

type settingsRecord struct {
	Rounds      int     `json:"rounds"`
	Joins       int     `json:"joins"`
	BareNodes   int     `json:"bareNodes"`
	IdleSeconds float64 `json:"idleSeconds"`
	Scale       []int   `json:"scale"`
}

func (s Settings) record() settingsRecord {
	return settingsRecord{Rounds: s.Rounds, Joins: s.Joins, BareNodes: s.BareNodes, IdleSeconds: s.Idle.Seconds(), Scale: s.Scale}
}

// Result is what was measured of one contender.
type Result struct {
	Name      string        `json:"name"`
	What      string        `json:"what"`
	PerNode   bool          `json:"perNode"`
	Image     image.Size    `json:"imageBytes"`
	Repair    Distribution  `json:"repairMilliseconds"`
	Joins     *Joins        `json:"joinMilliseconds,omitempty"`
	BareNodes *Distribution `json:"bareNodeMilliseconds,omitempty"`
	Idle      *Idle         `json:"idle"`
}

// Wire is what was measured with connections.
type Wire struct {
	// Label is from a label on an endpoint to the first connection that is dropped.
	Label  Distribution `json:"labelToEnforcedMilliseconds"`
	Undone []Undo       `json:"undone"`
}

// Undo is a change that was undone by the node which tried it.
type Undo struct {
	Cut   float64 `json:"cutSeconds"` // how long what worked before did not
	Moved int     `json:"moved"`      // nodes
}

// PeersCost is what an agent needs that sees very many connections: while none comes or goes, and while some do all the time.
type PeersCost struct {
	Connections int   `json:"connections"`
	Addresses   int   `json:"addresses"`
	Short       int   `json:"shortPerSecond"`
	Annotation  int   `json:"annotationBytes"`
	Still       *Idle `json:"still"`
	Busy        *Idle `json:"busy"`
}

// Joins is what was measured when nodes joined.
type Joins struct {
	Created     Distribution `json:"registeredToCreated"`
	Armed       Distribution `json:"registeredToArmed"`
	FromProcess Distribution `json:"processStartToArmed"`
}

// Idle is what one instance needs when there is nothing to do.
type Idle struct {
	Seconds       float64        `json:"seconds"`
	CPU           float64        `json:"cpuSeconds"`
	Resident      int64          `json:"residentBytes"`
	Anonymous     int64          `json:"anonymousBytes"`
	PeakResident  int64          `json:"peakResidentBytes,omitempty"` // with all the processes that it starts
	PeakAnonymous int64          `json:"peakAnonymousBytes,omitempty"`
	Requests      map[string]int `json:"requests"`
}

// Scale is what was measured with very many nodes.
type Scale struct {
	Nodes             int            `json:"nodes"`
	Starts            []Start        `json:"starts"`
	Changes           []Change       `json:"changes,omitempty"`
	Repair            Distribution   `json:"repairMilliseconds"`
	BytesPerKeeper    int64          `json:"residentBytesPerKeeper"`
	AnonymousPer      int64          `json:"anonymousBytesPerKeeper"`
	Watches           int            `json:"watchesIdle"`
	RequestsIdle      map[string]int `json:"requestsIdle"`
	IdleSeconds       float64        `json:"idleSeconds"`
	Controller        Use            `json:"controllerIdle"` // CPU seconds in the idle time, all else since its start
	ServerCPU         float64        `json:"apiServerIdleCPUSeconds"`
	ServerCPUWithout  float64        `json:"apiServerIdleCPUSecondsWithoutKeepers"`
	ServerMemory      int64          `json:"apiServerResidentBytes"`
	ServerMemoryEmpty int64          `json:"apiServerResidentBytesWithoutKeepers"`
}

// Start is what was measured when a release was installed, and when it was uninstalled.
type Start struct {
	First        string         `json:"firstNode"` // what the first Node by name is
	Keepers      int            `json:"keepers"`
	Armed        int            `json:"armed"`
	ArmedSeconds float64        `json:"armedSeconds"` // until all were, after all had started together
	ArmedP50     float64        `json:"armedSecondsP50"`
	ArmedP99     float64        `json:"armedSecondsP99"`
	Ready        int            `json:"ready"`
	ReadySeconds float64        `json:"readySeconds"`
	Requests     map[string]int `json:"requestsUntilArmed"`
	Controller   Use            `json:"controllerUntilReady"`
	ServerCPU    float64        `json:"apiServerCPUSecondsUntilArmed"`
	Uninstall    Uninstall      `json:"uninstall"`
	TooMany      int            `json:"tooManyRequests"`     // until the end, as the next
	Disobeyed    map[string]int `json:"retryAfterDisobeyed"` // by what was asked for again too soon
}

// Use is what a process has needed.
type Use struct {
	CPU       float64        `json:"cpuSeconds"`
	Resident  int64          `json:"residentBytes"`
	Anonymous int64          `json:"anonymousBytes"`
	Peak      int64          `json:"peakResidentBytes"`
	Requests  map[string]int `json:"requests"`
}

// What a release is changed to.
const (
	Upgraded    = "upgrade to another set of policies"
	SwitchedOff = "mode: off"
	SwitchedOn  = "mode: enforce again"
)

// Change is what was measured when the values of a release changed, with a rolling update of its keepers.
type Change struct {
	Name         string         `json:"name"`
	Done         int            `json:"done"`
	Seconds      float64        `json:"seconds"` // until all endpoints were as they should be
	Unarmed      int            `json:"seenUnarmed"`
	Ready        int            `json:"ready"`
	ReadySeconds float64        `json:"readySeconds"`
	Requests     map[string]int `json:"requests"`
	Controller   Use            `json:"controller"`
}

// Uninstall is what was measured of the hook of an uninstall, with all keepers running.
type Uninstall struct {
	Seconds          float64        `json:"seconds"`
	EndpointsSeconds float64        `json:"endpointsSeconds"` // until the last endpoint was gone
	Requests         map[string]int `json:"requests"`         // of the keepers
	Left             int            `json:"objectsLeft"`
}

// Promise is one of what the agent is held to.
type Promise struct {
	What string `json:"what"`
	Kept bool   `json:"kept"`
}

const (
	mb               = 1_000_000
	binaryBudget     = 18 * mb
	residentBudget   = 20 * mb
	anonymousBudget  = 5 * mb
	annotationBudget = 25_000
	floorFactor      = 2
	scaleSeconds     = 60
	undoneSeconds    = 60 // 45 of them are Trying's
	mostWatches      = 5  // three, and two while the failsafe is narrowed
)

func megabytes(bytes int64) float64 { return float64(bytes) / mb }

// promises compares what was measured with what the agent is held to. What was not measured is not promised.
func promises(r *Report) []Promise {
	var all []Promise
	add := func(kept bool, format string, args ...any) {
		all = append(all, Promise{fmt.Sprintf(format, args...), kept})
	}
	by := map[string]*Result{}
	for i := range r.Contenders {
		by[r.Contenders[i].Name] = &r.Contenders[i]
	}
	agent, floor, calico := by[Agent], by[Floor], by[Calico]
	if agent != nil {
		add(agent.Repair.Missed == 0, "every deleted endpoint came back")
		add(agent.Image.Binary <= binaryBudget, "binary %.2f MB, at most %d", megabytes(agent.Image.Binary), binaryBudget/mb)
		add(agent.Idle.Resident <= residentBudget, "resident memory %.2f MB, at most %d", megabytes(agent.Idle.Resident), residentBudget/mb)
		add(agent.Idle.Anonymous <= anonymousBudget, "anonymous memory %.2f MB, at most %d", megabytes(agent.Idle.Anonymous), anonymousBudget/mb)
		renewals, others := agent.Idle.sorted()
		add(len(others) == 0, "no API request in %.0f idle seconds beyond watches that are renewed (%s): %s", agent.Idle.Seconds, counts(renewals), counts(others))
	}
	if agent != nil && floor != nil {
		add(agent.Repair.P99 <= floorFactor*floor.Repair.P99, "back and armed within %.1f ms (p99), at most %d times the floor's %.1f ms", agent.Repair.P99, floorFactor, floor.Repair.P99)
	}
	if agent != nil && calico != nil {
		add(agent.Repair.P50 < calico.Repair.P50, "sooner back than with Calico's automatic host endpoints, ms: %s; with those: %s", agent.Repair.text(), calico.Repair.text())
	}
	if r.Wire != nil {
		add(r.Wire.Label.Missed == 0, "what a label closes was closed, ms: %s", r.Wire.Label.text())
		for _, u := range r.Wire.Undone {
			add(u.Cut <= undoneSeconds && u.Moved == 1, "what a change cut was back after %.1f s, at most %d, and %d node had tried it", u.Cut, undoneSeconds, u.Moved)
		}
	}
	if r.Peers != nil {
		for _, i := range []*Idle{r.Peers.Still, r.Peers.Busy} {
			add(i.Anonymous <= anonymousBudget && i.Resident <= residentBudget, "%.2f MB resident and %.2f MB anonymous with %d connections, at most %d and %d",
				megabytes(i.Resident), megabytes(i.Anonymous), r.Peers.Connections, residentBudget/mb, anonymousBudget/mb)
		}
		add(r.Peers.Annotation <= annotationBudget, "%d bytes tell of %d connections, at most %d", r.Peers.Annotation, r.Peers.Connections, annotationBudget)
	}
	for _, s := range r.Scale {
		for _, start := range s.Starts {
			add(start.Armed == start.Keepers && start.ArmedSeconds <= scaleSeconds, "%d of %d keepers armed after %.1f s, at most %d; the first Node is %s",
				start.Armed, start.Keepers, start.ArmedSeconds, scaleSeconds, start.First)
			add(len(start.Disobeyed) == 0, "%d keepers got %d answers 429; not obeyed: %s", start.Keepers, start.TooMany, counts(start.Disobeyed))
			add(start.Uninstall.Left == 0, "%d objects of a release for %d nodes left by its uninstall", start.Uninstall.Left, s.Nodes)
		}
		for _, c := range s.Changes {
			add(c.Done == s.Nodes && c.Ready == s.Nodes, "%d nodes, %s: %d endpoints as they should be, %d keepers ready", s.Nodes, c.Name, c.Done, c.Ready)
			if c.Name == Upgraded {
				add(c.Unarmed == 0, "%d nodes, %s: endpoints were seen unarmed %d times", s.Nodes, c.Name, c.Unarmed)
			}
		}
		add(s.Watches <= s.Nodes*mostWatches, "%.2f watches per idle keeper, at most %d", float64(s.Watches)/float64(s.Nodes), mostWatches)
	}
	return all
}

// sorted are the requests of an agent that has nothing to do: the watches that it renews, and those that nothing explains.
func (i *Idle) sorted() (renewals, others map[string]int) {
	renewals, others = map[string]int{}, map[string]int{}
	for kind, n := range i.Requests {
		if strings.HasPrefix(kind, "watch ") {
			renewals[kind] = n
		} else {
			others[kind] = n
		}
	}
	return renewals, others
}

// Broken are the promises that were not kept.
func (r *Report) Broken() []string {
	var broken []string
	for _, p := range r.Promises {
		if !p.Kept {
			broken = append(broken, p.What)
		}
	}
	return broken
}

// Write writes benchmarks.md and benchmarks.json into a folder.
func (r *Report) Write(dir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	for name, text := range map[string][]byte{"benchmarks.json": append(raw, '\n'), "benchmarks.md": []byte(r.Markdown())} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	return nil
}

// Markdown is the report for people.
func (r *Report) Markdown() string {
	var t strings.Builder
	fmt.Fprintf(&t, `# Benchmarks

Written by `+"`make bench`"+`; every figure was measured by it, in one run. Do not edit. All samples are in
[benchmarks.json](benchmarks.json).

%s. Machine: %d cores, %.0f GiB memory, Linux %s, %s, with all of the cluster on it: a control plane (etcd does not wait for
the disk) and two workers with containerd, kubelet, kube-proxy and Felix. Versions: %s. It took %.0f minutes.

1 MB is 1,000,000 bytes.

`, r.Date, r.Machine.Cores, float64(r.Machine.MemoryBytes)/(1<<30), r.Machine.Kernel, r.Machine.Platform, versions(r.Versions), r.Minutes)
	if len(r.Contenders) > 0 {
		r.writeContenders(&t)
	}
	if r.Wire != nil {
		r.writeWire(&t)
	}
	if r.Peers != nil {
		r.writePeers(&t)
	}
	if len(r.Scale) > 0 {
		r.writeScale(&t)
	}
	if len(r.Promises) > 0 {
		t.WriteString("## What is promised\n\n")
	}
	for _, p := range r.Promises {
		verdict := "kept"
		if !p.Kept {
			verdict = "**not kept**"
		}
		fmt.Fprintf(&t, "- %s: %s\n", verdict, p.What)
	}
	return t.String()
}

func (r *Report) writeContenders(t *strings.Builder) {
	t.WriteString("## Beside what else one could run\n\nOne after the other on the same cluster.\n\n")
	rows := [][]string{{""}}
	add := func(title string, cell func(Result) string) {
		row := []string{title}
		for _, c := range r.Contenders {
			row = append(row, cell(c))
		}
		rows = append(rows, row)
	}
	for _, c := range r.Contenders {
		rows[0] = append(rows[0], c.Name)
	}
	add("deleted endpoint back and armed, ms: p50 / p90 / p99 / max", func(c Result) string { return c.Repair.text() })
	add("rounds of that", func(c Result) string { return c.Repair.rounds() })
	joins := func(get func(*Joins) Distribution) func(Result) string {
		return func(c Result) string {
			if c.Joins == nil {
				return "-"
			}
			d := get(c.Joins)
			return fmt.Sprintf("%.0f (%.0f)", d.P50, d.Max)
		}
	}
	add(fmt.Sprintf("node joins: Node to endpoint, ms: median (max) of %d", r.Settings.Joins), joins(func(j *Joins) Distribution { return j.Created }))
	add("node joins: Node to armed endpoint", joins(func(j *Joins) Distribution { return j.Armed }))
	add("node joins: start of its process there to armed endpoint", joins(func(j *Joins) Distribution { return j.FromProcess }))
	add("bare Node object to endpoint, ms: p50 / p90 / p99 / max", func(c Result) string {
		if c.BareNodes == nil {
			return "-"
		}
		return c.BareNodes.text()
	})
	add("resident memory, MB", func(c Result) string { return memoryText(c.Idle.Resident, c.Idle.PeakResident) })
	add("anonymous memory of that, MB", func(c Result) string { return memoryText(c.Idle.Anonymous, c.Idle.PeakAnonymous) })
	add(fmt.Sprintf("CPU seconds in %.0f idle seconds", r.Settings.IdleSeconds), func(c Result) string { return fmt.Sprintf("%.2f", c.Idle.CPU) })
	add("API requests in that time", func(c Result) string { return counts(c.Idle.Requests) })
	add("largest binary, MB", func(c Result) string { return fmt.Sprintf("%.1f", megabytes(c.Image.Binary)) })
	add("image, compressed, MB", func(c Result) string { return fmt.Sprintf("%.1f", megabytes(c.Image.Layers)) })
	add("runs", func(c Result) string {
		if c.PerNode {
			return "on every node"
		}
		return "once for the cluster"
	})
	writeTable(t, rows)
	fmt.Fprintf(t, `
Times of repair run from the request that deletes an endpoint until a watch shows it again, with what makes its policies
apply; after %d rounds that were given up no more were made. A node that joins is a real one: the time includes its pod. Memory,
CPU and requests are one instance's, after all the other rounds; the requests are those in the API server's audit log.

`, mostMissed)
	for _, c := range r.Contenders {
		fmt.Fprintf(t, "- %s: %s.\n", c.Name, c.What)
	}
	t.WriteString("\n")
}

func (r *Report) writeWire(t *strings.Builder) {
	t.WriteString("## On the wire\n\n")
	writeTable(t, [][]string{
		{"", Agent},
		{"label to enforced on the wire, ms: p50 / p90 / p99 / max", r.Wire.Label.text()},
		{"rounds of that", r.Wire.Label.rounds()},
		{"policy broken to back again, s, each time", seconds(r.Wire.Undone)},
	})
	t.WriteString(`
The first is Felix's: the endpoint's label is written by hand, and a stranger connects again and again until nothing answers; it runs from the request to
the start of that connection. The second is an upgrade by which a policy of the administrator's own cuts kubelets off: it runs from the first
connection to one that fails to the first that comes about again, with nobody at the keyboard.

`)
}

func (r *Report) writePeers(t *strings.Builder) {
	p := r.Peers
	row := func(what string, of func(*Idle) string) []string { return []string{what, of(p.Still), of(p.Busy)} }
	fmt.Fprintf(t, "## Who is connected\n\nAn agent in `mode: audit`, where it looks who is connected for as long as that lasts, on a node with %d connections from %d addresses; and while %d more come\nand go in each second.\n\n",
		p.Connections, p.Addresses, p.Short)
	writeTable(t, [][]string{
		{"", "all stay", "some come and go"},
		row("CPU, s in a minute", func(i *Idle) string { return fmt.Sprintf("%.2f", i.CPU/i.Seconds*60) }),
		row("resident memory, MB", func(i *Idle) string { return fmt.Sprintf("%.2f", megabytes(i.Resident)) }),
		row("anonymous memory of that, MB", func(i *Idle) string { return fmt.Sprintf("%.2f", megabytes(i.Anonymous)) }),
		row("requests", func(i *Idle) string { return fmt.Sprintf("%s in %.0f s", counts(i.Requests), i.Seconds) }),
	})
	fmt.Fprintf(t, "\nThe annotation had %d bytes.\n\n", p.Annotation)
}

func (r *Report) writeScale(t *strings.Builder) {
	t.WriteString(`## At scale

The agent's own loop for every node in one process, each with its own client, connection and watches, and the controller as
itself, against the one API server of a cluster that has just started. The process of the keepers leaves half of the cores to that
server. But for one, the Nodes are objects with a Ready condition, and all of a release but its workloads is there. Nobody runs those
Nodes: controller manager, scheduler and Felix are stopped meanwhile.

`)
	r.writeStarts(t)
	var rows [][]string
	add := func(title string, cell func(Scale) string) {
		row := []string{title}
		for _, s := range r.Scale {
			row = append(row, cell(s))
		}
		rows = append(rows, row)
	}
	add("nodes, when all is done", func(s Scale) string { return fmt.Sprint(s.Nodes) })
	add("deleted endpoint back and armed, ms: p50 / p90 / p99 / max", func(s Scale) string { return s.Repair.text() })
	add("rounds of that", func(s Scale) string { return s.Repair.rounds() })
	add("resident memory per keeper, kB", func(s Scale) string { return fmt.Sprintf("%.0f", float64(s.BytesPerKeeper)/1000) })
	add("watches per keeper", func(s Scale) string { return fmt.Sprintf("%.2f", float64(s.Watches)/float64(s.Nodes)) })
	add("other requests of all keepers in the idle time", func(s Scale) string { return counts(s.RequestsIdle) })
	add("controller: CPU in percent of a core when idle", func(s Scale) string { return fmt.Sprintf("%.2f", 100*s.Controller.CPU/s.IdleSeconds) })
	add("controller: resident memory, MB (at most)", func(s Scale) string {
		return fmt.Sprintf("%.1f (%.1f)", megabytes(s.Controller.Resident), megabytes(s.Controller.Peak))
	})
	add("API server: CPU in percent of a core when all are idle (without keepers)", func(s Scale) string {
		return fmt.Sprintf("%.1f (%.1f)", 100*s.ServerCPU/s.IdleSeconds, 100*s.ServerCPUWithout/s.IdleSeconds)
	})
	add("API server: resident memory, MB (without keepers)", func(s Scale) string {
		return fmt.Sprintf("%.0f (%.0f)", megabytes(s.ServerMemory), megabytes(s.ServerMemoryEmpty))
	})
	writeTable(t, rows)
	t.WriteString("\n")
	r.writeChanges(t)
}

// after says how long all took, or how far they came.
func after(all, count int, word string, seconds float64) string {
	if count < all {
		return fmt.Sprintf("only %d %s", count, word)
	}
	return fmt.Sprintf("%.1f", seconds)
}

// writeStarts writes a column for each start.
func (r *Report) writeStarts(t *strings.Builder) {
	rows := [][]string{{"nodes; the first one by name"}}
	add := func(title string, cell func(Start) string) {
		row := []string{title}
		for _, s := range r.Scale {
			for _, start := range s.Starts {
				row = append(row, cell(start))
			}
		}
		rows = append(rows, row)
	}
	for _, s := range r.Scale {
		for _, start := range s.Starts {
			rows[0] = append(rows[0], fmt.Sprintf("%d; %s", s.Nodes, start.First))
		}
	}
	add("controller and keepers started together; seconds until all keepers' nodes were armed", func(s Start) string { return after(s.Keepers, s.Armed, "armed", s.ArmedSeconds) })
	add("half of them, 99 of 100", func(s Start) string { return fmt.Sprintf("%.1f, %.1f", s.ArmedP50, s.ArmedP99) })
	add("all were ready, the failsafe of SSH narrowed", func(s Start) string { return after(s.Keepers, s.Ready, "ready", s.ReadySeconds) })
	add("requests per keeper until all were armed; and for the failsafe of those that were", func(s Start) string {
		all, failsafe := total(s.Requests), total(ofResource(s.Requests, "felixconfigurations"))
		return fmt.Sprintf("%.1f; %.1f", float64(all-failsafe)/float64(s.Keepers), float64(failsafe)/float64(s.Keepers))
	})
	add("answers 429 (of them not obeyed)", func(s Start) string { return fmt.Sprintf("%d (%d)", s.TooMany, total(s.Disobeyed)) })
	add("API server: CPU seconds until all were armed", func(s Start) string { return fmt.Sprintf("%.1f", s.ServerCPU) })
	add("controller: CPU seconds until all were ready", func(s Start) string { return fmt.Sprintf("%.1f", s.Controller.CPU) })
	add("controller: resident memory then, MB (at most)", func(s Start) string {
		return fmt.Sprintf("%.1f (%.1f)", megabytes(s.Controller.Resident), megabytes(s.Controller.Peak))
	})
	add("controller: requests", func(s Start) string { return counts(s.Controller.Requests) })
	add("uninstall: seconds until the hook was done", func(s Start) string { return fmt.Sprintf("%.1f", s.Uninstall.Seconds) })
	add("uninstall: seconds until the last endpoint was gone", func(s Start) string { return fmt.Sprintf("%.1f", s.Uninstall.EndpointsSeconds) })
	writeTable(t, rows)
	t.WriteString("\n")
}

// writeChanges writes a row for each change.
func (r *Report) writeChanges(t *strings.Builder) {
	rows := [][]string{{"a rolling update, a quarter of the keepers at a time", "nodes", "seconds until all endpoints were so", "until all were ready", "requests per keeper", "endpoints seen unarmed", "controller: CPU seconds"}}
	for _, s := range r.Scale {
		for _, c := range s.Changes {
			rows = append(rows, []string{
				c.Name, fmt.Sprint(s.Nodes), after(s.Nodes, c.Done, "so", c.Seconds), after(s.Nodes, c.Ready, "ready", c.ReadySeconds),
				fmt.Sprintf("%.1f", float64(total(c.Requests))/float64(s.Nodes)), fmt.Sprint(c.Unarmed), fmt.Sprintf("%.1f", c.Controller.CPU),
			})
		}
	}
	if len(rows) > 1 {
		writeTable(t, rows)
		t.WriteString("\n")
	}
}

// writeTable writes the first row as the head.
func writeTable(t *strings.Builder, rows [][]string) {
	for i, row := range rows {
		fmt.Fprintf(t, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(t, "|---|%s\n", strings.Repeat("---:|", len(row)-1))
		}
	}
}

func memoryText(now, peak int64) string {
	if peak == 0 {
		return fmt.Sprintf("%.1f", megabytes(now))
	}
	return fmt.Sprintf("%.1f asleep, %.1f at work", megabytes(now), megabytes(peak))
}

// text is the distribution in one cell.
func (d Distribution) text() string {
	figures := []float64{d.P50, d.P90, d.P99, d.Max}
	if slices.Min(figures) >= d.Limit {
		return d.given()
	}
	var list []string
	for _, f := range figures {
		if f >= d.Limit {
			list = append(list, d.given())
		} else {
			list = append(list, fmt.Sprintf("%.1f", f))
		}
	}
	return strings.Join(list, " / ")
}

// given says that a round was given up.
func (d Distribution) given() string { return fmt.Sprintf("not within %.0f s", d.Limit/1000) }

func (d Distribution) rounds() string {
	if d.Missed > 0 {
		return fmt.Sprintf("%d, %d given up", d.Rounds, d.Missed)
	}
	return fmt.Sprint(d.Rounds)
}

// counts lists a number of each kind.
func counts(kinds map[string]int) string {
	if len(kinds) == 0 {
		return "none"
	}
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		list = append(list, fmt.Sprintf("%d %s", kinds[kind], kind))
	}
	return strings.Join(list, ", ")
}

func total(kinds map[string]int) (sum int) {
	for _, n := range kinds {
		sum += n
	}
	return sum
}

// ofResource are the requests for one resource.
func ofResource(requests map[string]int, resource string) map[string]int {
	some := map[string]int{}
	for kind, n := range requests {
		if strings.Contains(kind, " "+resource+" ") {
			some[kind] = n
		}
	}
	return some
}

func versions(all map[string]string) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, name+" "+strings.TrimPrefix(all[name], "go"))
	}
	return strings.Join(list, ", ")
}
