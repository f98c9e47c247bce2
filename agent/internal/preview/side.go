package preview

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"k8s.io/apimachinery/pkg/util/yaml"
	kubeyaml "sigs.k8s.io/yaml"

	"github.com/host-firewall/host-firewall/agent/internal/endpoint"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
	"github.com/host-firewall/host-firewall/agent/internal/settings"
	"github.com/host-firewall/host-firewall/agent/internal/verdict"
	"github.com/host-firewall/host-firewall/agent/internal/workload"
)

// Side is one of the two that are compared: what a release is rendered or installed as.
type Side struct {
	Name       string   `json:"name"` // of the file, or Installed
	Release    string   `json:"release"`
	Set        string   `json:"set"`
	Mode       string   `json:"mode"`
	Interfaces []string `json:"interfaces"`

	set      verdict.Set
	policies []verdict.Policy
	failsafe []v3.ProtoPort
	narrowed *failsafe.Want
	// enforced is what mode enforce narrows the failsafe to, and forAll what else says which that is.
	enforced *failsafe.Want
	forAll   *failsafe.Configuration
}

// object is what is read of each document.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec     map[string]any `json:"spec"`
	Template map[string]any `json:"template"` // of a PodTemplate
}

// Read reads a rendering, as helm template and helm get manifest write it. Where it holds
// several releases, release says which one counts. An error names the document, by its place.
func Read(name string, text []byte, release string) (*Side, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, fmt.Errorf("%s is empty: did helm template fail?", called(name))
	}
	objects, err := documents(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", called(name), err)
	}
	agents := map[string]object{}
	for _, o := range objects {
		// Where no agents run the controller is told what they would be.
		isAgent := o.Kind == workload.DaemonSet || o.Kind == workload.PodTemplate || o.Kind == "Deployment"
		if of := o.Metadata.Labels[endpoint.ReleaseLabel]; of != "" && isAgent && (o.Kind != "Deployment" || agents[of].Kind == "") {
			agents[of] = o
		}
	}
	if len(agents) == 1 {
		release = slices.Collect(maps.Keys(agents))[0]
	}
	agent, there := agents[release]
	switch {
	case len(agents) == 0:
		return nil, fmt.Errorf("%s: there is neither a DaemonSet of this chart in it, nor a PodTemplate, nor a Deployment: give all that helm template or helm get manifest writes", called(name))
	case !there:
		return nil, fmt.Errorf("%s: it holds the releases %s: say which one with --release", called(name), strings.Join(slices.Sorted(maps.Keys(agents)), ", "))
	}
	var policies []Policy
	for _, o := range objects {
		if o.Kind == v3.KindGlobalNetworkPolicy && o.Metadata.Labels[endpoint.ReleaseLabel] == release {
			policies = append(policies, Policy{Name: o.Metadata.Name, Set: o.Metadata.Labels[endpoint.SetLabel], Spec: o.Spec})
		}
	}
	return sideOf(name, argumentsOf(agent), policies)
}

// documents takes a rendering apart.
func documents(text []byte) (objects []object, err error) {
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for n := 1; ; n++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		var o object
		if err == nil {
			err = kubeyaml.Unmarshal(document, &o)
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		objects = append(objects, o)
	}
}

// argumentsOf returns those of the first container, which is the agent, and what it is told by its environment as if
// it were arguments.
func argumentsOf(agents object) (arguments []string) {
	at := any(agents.Template)
	if agents.Template == nil {
		at = agents.Spec["template"]
	}
	for _, key := range []string{"spec", "containers"} {
		fields, _ := at.(map[string]any)
		at = fields[key]
	}
	if containers, _ := at.([]any); len(containers) > 0 {
		container, _ := containers[0].(map[string]any)
		environment, _ := container["env"].([]any)
		for _, variable := range environment {
			of, _ := variable.(map[string]any)
			if name, ours := strings.CutPrefix(fmt.Sprint(of["name"]), "HOST_FIREWALL_"); ours && of["value"] != nil {
				arguments = append(arguments, fmt.Sprintf("--%s=%v", strings.ReplaceAll(strings.ToLower(name), "_", "-"), of["value"]))
			}
		}
		listed, _ := container["args"].([]any)
		for _, argument := range listed {
			arguments = append(arguments, fmt.Sprint(argument))
		}
	}
	return arguments
}

// Policy is a GlobalNetworkPolicy of a release, and the set that its label names.
type Policy struct {
	Name, Set string
	Spec      map[string]any
}

// sideOf returns what agents with such arguments do with those of the policies that are of
// their set.
func sideOf(name string, arguments []string, all []Policy) (*Side, error) {
	told, err := settings.Rendered(arguments)
	if err != nil {
		return nil, fmt.Errorf("%s: the arguments of the agents: %w", called(name), err)
	}
	s := &Side{Name: name, Release: told.Release, Set: told.Set, Mode: told.Mode, Interfaces: told.Interfaces, failsafe: failsafe.Builtin()}
	for _, p := range all {
		if p.Set == told.Set {
			s.policies = append(s.policies, verdict.Policy{Name: p.Name, Spec: p.Spec})
		}
	}
	if len(s.policies) == 0 {
		return nil, fmt.Errorf("%s: there is no GlobalNetworkPolicy of set %s in it", called(name), told.Set)
	}
	if s.set, err = verdict.Of(told.Release, s.policies); err != nil {
		return nil, fmt.Errorf("%s: %w", called(name), err)
	}
	if told.NarrowFailsafe && len(told.SSHCIDRs) > 0 {
		s.enforced = &failsafe.Want{Ports: told.SSHPorts, CIDRs: told.SSHCIDRs}
	}
	if told.Mode == settings.ModeEnforce {
		s.narrowed = s.enforced
	}
	return s, s.follow(nil)
}

// follow makes Felix's failsafe the one that a FelixConfiguration for all nodes says, nil
// where there is none, narrowed as the agents do it.
func (s *Side) follow(forAll *failsafe.Configuration) (err error) {
	s.forAll = forAll
	s.failsafe, err = failsafe.Inbound(nil, forAll, s.narrowed)
	return err
}

// judge says what becomes of a connection.
func (s *Side) judge(c verdict.Connection, w verdict.World) verdict.Verdict {
	if s.Mode == settings.ModeOff {
		return verdict.Verdict{Allowed: true, By: "mode: off"}
	}
	w.Failsafe = s.failsafe
	v := s.set.Judge(c, w)
	if v.By == verdict.ByFailsafe && s.narrowed != nil && c.Protocol == verdict.TCP && slices.Contains(s.narrowed.Ports, c.Port) {
		v.By = "ssh.cidrs" // which the failsafe of these ports is narrowed to
	}
	return v
}

// enforcing is the side, which is one in mode audit, as if that were enforce.
func (s *Side) enforcing() (*Side, error) {
	enforcing := *s
	enforcing.set, enforcing.narrowed = s.set.Enforcing(), s.enforced
	return &enforcing, enforcing.follow(s.forAll)
}

// title is what the side is called for people.
func (s *Side) title() string { return fmt.Sprintf("%s (set %s)", called(s.Name), s.Set) }

// called is what a file is called for people.
func called(name string) string {
	switch name {
	case settings.Installed:
		return "what is installed"
	case "-":
		return "the standard input"
	}
	return name
}

// outbound tells whether what goes out is allowed by a policy of the set.
func (s *Side) outbound() bool {
	return slices.ContainsFunc(s.policies, func(p verdict.Policy) bool {
		egress, _ := p.Spec["egress"].([]any)
		return len(egress) > 0
	})
}
