package calico_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/host-firewall/host-firewall/agent/internal/calico"
	"github.com/host-firewall/host-firewall/agent/internal/clearance"
	"github.com/host-firewall/host-firewall/agent/internal/failsafe"
)

// deadline is for what should come at once; most waits end long before it.
const deadline = 20 * time.Second

// apiServer answers with what the test puts in, and notes what it was asked. It
// stands for the faults that a real API server can't be made to have.
type apiServer struct {
	*httptest.Server
	mu       sync.Mutex
	answers  map[string]http.HandlerFunc // by method and path, "watch" for a GET that watches
	requests []request
}

type request struct {
	what        string // as the keys of answers
	query       string
	contentType string
	body        string
}

func newAPIServer(t *testing.T) *apiServer {
	s := &apiServer{answers: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) serve(w http.ResponseWriter, r *http.Request) {
	what := r.Method + " " + r.URL.Path
	if r.URL.Query().Get("watch") == "true" {
		what = "watch " + r.URL.Path
	}
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.requests = append(s.requests, request{what, r.URL.Query().Encode(), r.Header.Get("Content-Type"), string(body)})
	answer := s.answers[what]
	s.mu.Unlock()
	if answer == nil {
		answer = failure(http.StatusNotFound, metav1.StatusReasonNotFound)
	}
	answer(w, r)
}

func (s *apiServer) on(what string, answer http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[what] = answer
}

// asked returns the requests of one kind.
func (s *apiServer) asked(what string) []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var asked []request
	for _, r := range s.requests {
		if r.what == what {
			asked = append(asked, r)
		}
	}
	return asked
}

func failure(code int, reason metav1.StatusReason) http.HandlerFunc {
	return object(code, metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: "the test says " + string(reason),
	})
}

func object(code int, o any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(o)
	}
}

// resources answers a discovery of one group.
func resources(names ...string) http.HandlerFunc {
	list := metav1.APIResourceList{}
	for _, name := range names {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: name})
	}
	return object(200, list)
}

// list answers with a list at resource version 10.
func list(group, kind string, items ...any) http.HandlerFunc {
	return object(200, page(group, kind, "", items...))
}

func page(group, kind, next string, items ...any) map[string]any {
	if items == nil {
		items = []any{}
	}
	return map[string]any{
		"apiVersion": group, "kind": kind + "List",
		"metadata": map[string]any{"resourceVersion": "10", "continue": next}, "items": items,
	}
}

// stream is feed by an API server that does not list by watching, and refuses to.
func stream(events <-chan any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("sendInitialEvents") != "" {
			failure(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)(w, r)
			return
		}
		feed(events)(w, r)
	}
}

// feed answers a watch with the events that arrive, until the client goes.
func feed(events <-chan any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case <-r.Context().Done():
				return
			case event := <-events:
				_ = json.NewEncoder(w).Encode(event)
				_ = http.NewResponseController(w).Flush()
			}
		}
	}
}

func hep(group, version string) *v3.HostEndpoint {
	return &v3.HostEndpoint{
		TypeMeta: metav1.TypeMeta{APIVersion: group, Kind: "HostEndpoint"},
		ObjectMeta: metav1.ObjectMeta{
			Name: "n1", ResourceVersion: version,
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "m"}},
			Annotations:   map[string]string{"projectcalico.org/metadata": "{}"},
		},
		Spec: v3.HostEndpointSpec{Node: "n1"},
	}
}

func node(name string) *corev1.Node {
	return &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1", Annotations: map[string]string{"big": "annotation"}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Images:     []corev1.ContainerImage{{Names: []string{"big"}}},
		},
	}
}

// saying is the ConfigMap by which the controller speaks.
func saying(version string, data, annotations map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Name: "fw", Namespace: "ns", ResourceVersion: version, Annotations: annotations},
		Data:       data,
	}
}

const (
	nodesPath   = "/api/v1/nodes"
	sayingPath  = "/api/v1/namespaces/ns/configmaps"
	needed      = "hostendpoints globalnetworkpolicies felixconfigurations"
	inV3, inCRD = "/apis/projectcalico.org/v3", "/apis/crd.projectcalico.org/v1"
)

// serveAll makes the server serve one object of each kind in the group, and
// returns a channel for events about endpoints.
func (s *apiServer) serveAll(group string) chan any {
	events := make(chan any, 10)
	base := "/apis/" + group
	s.on("GET "+base, resources(strings.Fields(needed)...))
	s.on("GET "+nodesPath, list("v1", "Node", node("n1")))
	s.on("watch "+nodesPath, stream(nil))
	s.on("GET "+sayingPath, list("v1", "ConfigMap", saying("1", map[string]string{"set": "aaaa0001"}, nil)))
	s.on("watch "+sayingPath, stream(nil))
	s.on("GET "+base+"/hostendpoints", list(group, "HostEndpoint", hep(group, "1")))
	s.on("watch "+base+"/hostendpoints", stream(events))
	s.on("GET "+base+"/felixconfigurations", list(group, "FelixConfiguration"))
	s.on("watch "+base+"/felixconfigurations", stream(nil))
	return events
}

// agent is a Cluster that runs for the length of a test.
type agent struct {
	*calico.Cluster
	woken chan struct{}
	log   *logBuffer
	stop  context.CancelFunc
	ended chan struct{}
}

func (a *agent) endpoints() []*v3.HostEndpoint {
	heps, _ := a.KnownEndpoints()
	return heps
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// runComplete runs an agent against an API server that serves a group, and returns when its caches are complete.
func runComplete(t *testing.T, group string) (*apiServer, *agent) {
	t.Helper()
	s := newAPIServer(t)
	s.serveAll(group)
	a := run(t, s, group)
	a.awaitComplete(t)
	return s, a
}

func run(t *testing.T, s *apiServer, group string) *agent {
	t.Helper()
	return runWith(t, s, calico.Options{APIGroup: group})
}

// runWith runs an agent with options beside those that all have.
func runWith(t *testing.T, s *apiServer, options calico.Options) *agent {
	t.Helper()
	a := &agent{woken: make(chan struct{}, 1), log: &logBuffer{}, ended: make(chan struct{})}
	options.Node, options.Release, options.Namespace, options.UserAgent = "n1", "fw", "ns", "agent/test"
	options.Log = slog.New(slog.NewTextHandler(a.log, nil))
	cluster, err := calico.New(&rest.Config{Host: s.URL}, options)
	require.NoError(t, err)
	a.Cluster = cluster
	ctx, stop := context.WithCancel(t.Context())
	a.stop = stop
	go func() {
		defer close(a.ended)
		cluster.Run(ctx, func() {
			select {
			case a.woken <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-a.ended:
		case <-time.After(deadline):
			t.Error("Run has not returned")
		}
	})
	return a
}

// await looks at the condition whenever the agent has been woken. What it sees
// belongs to the failure.
func (a *agent) await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	late := time.After(deadline)
	for !condition() {
		select {
		case <-a.woken:
		case <-late:
			t.Fatalf("not after %s: %s; problem %q; log:\n%s", deadline, what, a.Problem(), a.log)
		}
	}
}

func (a *agent) awaitComplete(t *testing.T) {
	t.Helper()
	a.await(t, "caches are complete", func() bool { return a.Problem() == "" })
}

func TestGroupIsTheOneThatIsServedV3First(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		told     string
		v3, crd  http.HandlerFunc
		want     string // path of the group that is used
		asked    int    // documents of groups
		problems string // a part of the problem, when no group is to be used
	}{
		"v3 alone":                 {v3: resources(strings.Fields(needed)...), want: inV3, asked: 1},
		"both":                     {v3: resources(strings.Fields(needed)...), crd: resources(strings.Fields(needed)...), want: inV3, asked: 1},
		"crd alone":                {crd: resources(strings.Fields(needed)...), want: inCRD, asked: 2},
		"v3 without endpoints":     {v3: resources("globalnetworkpolicies"), crd: resources(strings.Fields(needed)...), want: inCRD, asked: 2},
		"told":                     {told: calico.GroupCRD, v3: resources(strings.Fields(needed)...), want: inCRD, asked: 0},
		"none":                     {problems: "install Calico"},
		"v3 registered but broken": {v3: failure(503, metav1.StatusReasonServiceUnavailable), crd: resources(strings.Fields(needed)...), problems: "projectcalico.org/v3"},
		"no right to ask":          {v3: failure(403, metav1.StatusReasonForbidden), problems: "lacks the right"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(t)
			s.serveAll(calico.GroupV3)
			s.serveAll(calico.GroupCRD)
			s.on("GET "+inV3, test.v3)
			s.on("GET "+inCRD, test.crd)
			a := run(t, s, test.told)
			if test.want == "" {
				a.await(t, "problem is known", func() bool { return strings.Contains(a.Problem(), test.problems) })
				assert.Empty(t, s.asked("GET "+inCRD+"/hostendpoints"), "nothing may be used")
				assert.Empty(t, s.asked("GET "+inV3+"/hostendpoints"), "nothing may be used")
				return
			}
			a.awaitComplete(t)
			assert.NotEmpty(t, s.asked("GET "+test.want+"/hostendpoints"))
			assert.Len(t, append(s.asked("GET "+inV3), s.asked("GET "+inCRD)...), test.asked)
		})
	}
}

func TestCalicoThatIsInstalledLaterIsFound(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	a := run(t, s, "")
	a.await(t, "problem is known", func() bool { return strings.Contains(a.Problem(), "install Calico") })
	s.serveAll(calico.GroupCRD)
	a.awaitComplete(t)
	assert.Equal(t, 1, strings.Count(a.log.String(), "install Calico"), "said once")
}

func TestCachesHoldWhatTheAgentLooksAtInBothGroups(t *testing.T) {
	t.Parallel()
	for _, group := range []string{calico.GroupV3, calico.GroupCRD} {
		t.Run(group, func(t *testing.T) {
			s := newAPIServer(t)
			events := s.serveAll(group)
			a := run(t, s, group)
			a.awaitComplete(t)

			assert.Equal(t, "192.0.2.1", a.Node().Status.Addresses[0].Address)
			assert.Empty(t, a.Node().Status.Images, "not looked at, so not kept")
			assert.Equal(t, "n1", a.endpoints()[0].Spec.Node)
			assert.Empty(t, a.endpoints()[0].ManagedFields)
			_, shadowed := a.endpoints()[0].Annotations["projectcalico.org/metadata"]
			assert.Equal(t, group == calico.GroupCRD, shadowed, "it means something in the CRD group only")
			said, problem := a.Clearance()
			require.Empty(t, problem)
			assert.Equal(t, "aaaa0001", said.Wanted.Revision)
			for _, what := range []string{nodesPath, sayingPath, "/apis/" + group + "/hostendpoints"} {
				first := s.asked("watch " + what)[0].query
				assert.Contains(t, first, "resourceVersion=0&", "etcd is spared")
				assert.Contains(t, first, "sendInitialEvents=true")
			}

			events <- map[string]any{"type": "MODIFIED", "object": hep(group, "11")}
			a.await(t, "change is seen", func() bool { return len(a.endpoints()) == 1 && a.endpoints()[0].ResourceVersion == "11" })
			events <- map[string]any{"type": "DELETED", "object": hep(group, "12")}
			a.await(t, "deletion is seen", func() bool { return len(a.endpoints()) == 0 })
			assert.Empty(t, a.Problem())
			assert.NotContains(t, a.log.String(), "cannot", "an API server that does not list by watching is no trouble")
		})
	}
}

func TestTroubleWithAWatchIsToldOnceAndPasses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"no right": {failure(403, metav1.StatusReasonForbidden), `account lacks the right \"list\" on \"configmaps\"`},
		"nonsense": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{")) }, "ConfigMap ns/fw"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t)
			s.serveAll(calico.GroupV3)
			works := s.answers["GET "+sayingPath]
			s.on("GET "+sayingPath, test.answer)
			a := run(t, s, calico.GroupV3)
			tries := func(n int) func() bool {
				return func() bool { return len(s.asked("GET "+sayingPath)) >= n }
			}
			require.Eventually(t, tries(2), deadline, 10*time.Millisecond, "it is tried again")
			assert.Contains(t, a.Problem(), "cannot list ConfigMap ns/fw: ")
			assert.Equal(t, 1, strings.Count(a.log.String(), "cannot list"), "log:\n%s", a.log)
			assert.Contains(t, a.log.String(), test.want)

			s.on("GET "+sayingPath, works)
			a.awaitComplete(t)
			assert.Equal(t, 1, strings.Count(a.log.String(), "can list again"), "log:\n%s", a.log)
		})
	}
}

// Listing works and watching does not: the one must not make the other seem well.
func TestForbiddenWatchIsToldOnceAlthoughListingWorks(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.serveAll(calico.GroupV3)
	path := inV3 + "/hostendpoints"
	s.on("watch "+path, failure(403, metav1.StatusReasonForbidden))
	a := run(t, s, calico.GroupV3)
	require.Eventually(t, func() bool { return len(s.asked("GET "+path)) >= 2 }, deadline, 10*time.Millisecond)
	log := a.log.String()
	assert.Equal(t, 1, strings.Count(log, "cannot watch"), "log:\n%s", log)
	assert.Contains(t, log, `lacks the right \"watch\" on \"hostendpoints\"`)
	assert.NotContains(t, log, "can list again")
	assert.NotContains(t, log, "can watch again")
}

// An API server that lists by watching is never asked for a plain list again.
func TestTroubleWithAListIsOverWhenAWatchBringsTheList(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.serveAll(calico.GroupV3)
	path := inV3 + "/hostendpoints"
	s.on("GET "+path, failure(403, metav1.StatusReasonForbidden))
	s.on("watch "+path, failure(403, metav1.StatusReasonForbidden))
	a := run(t, s, calico.GroupV3)
	a.await(t, "problem is known", func() bool { return strings.Contains(a.Problem(), "cannot list HostEndpoint n1") })

	events := make(chan any, 2)
	events <- map[string]any{"type": "ADDED", "object": hep(calico.GroupV3, "1")}
	end := hep(calico.GroupV3, "10")
	end.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	events <- map[string]any{"type": "BOOKMARK", "object": end}
	s.on("watch "+path, feed(events))
	a.awaitComplete(t)
	require.Len(t, a.endpoints(), 1)
	assert.Equal(t, "n1", a.endpoints()[0].Name)
	assert.Equal(t, 1, strings.Count(a.log.String(), "can list again"), "log:\n%s", a.log)
	assert.Equal(t, 1, strings.Count(a.log.String(), "can watch again"), "log:\n%s", a.log)
}

// Calico's own API server, unlike Kubernetes', says nothing when an object leaves
// what a watch selects by labels.
func TestObjectThatLeavesTheSelectionUnsaidIsMissedOnlyUntilTheNextWatch(t *testing.T) {
	t.Parallel()
	for _, group := range []string{calico.GroupV3, calico.GroupCRD} {
		t.Run(group, func(t *testing.T) {
			t.Parallel()
			single := func(name string) *v3.HostEndpoint {
				one := hep(group, "1")
				one.Name = name
				return one
			}
			s := newAPIServer(t)
			s.serveAll(group)
			path := "/apis/" + group + "/hostendpoints"
			s.on("GET "+path, list(group, "HostEndpoint", single("n1-eth0"), single("n1-eth1")))
			over := make(chan struct{})
			s.on("watch "+path, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("sendInitialEvents") != "" {
					stream(nil)(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				// A watch that brings nothing for less than a second is followed by a list anyway.
				_ = json.NewEncoder(w).Encode(map[string]any{"type": "ADDED", "object": single("n1-eth0")})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-over: // as after its timeout
				case <-r.Context().Done():
				}
			})
			a := runWith(t, s, calico.Options{APIGroup: group, ByLabel: true})
			a.awaitComplete(t)
			require.Len(t, a.endpoints(), 2)

			s.on("GET "+path, list(group, "HostEndpoint", single("n1-eth0")))
			watches := func() int { return len(s.asked("watch " + path)) }
			require.Eventually(t, func() bool { return watches() == 2 }, deadline, 10*time.Millisecond, "refused to list, then watched")
			close(over)
			require.Eventually(t, func() bool { return watches() > 2 }, deadline, 10*time.Millisecond, "watched again")
			if group == calico.GroupV3 {
				a.await(t, "the endpoint is gone", func() bool { return len(a.endpoints()) == 1 })
			} else {
				assert.Len(t, s.asked("GET "+path), 1, "there it would have been told")
			}
			assert.NotContains(t, a.log.String(), "cannot watch")
		})
	}
}

func TestAPIServerThatIsAwayIsToldOnceInTheSameWords(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.Close()
	a := run(t, s, calico.GroupV3)
	a.await(t, "problem is known", func() bool {
		return strings.Contains(a.Problem(), "the API server is not reached: connect: connection refused")
	})
	a.await(t, "all three have failed", func() bool { return strings.Count(a.log.String(), "cannot watch") == 3 })
}

func TestEndpointIsWrittenAsJSONInTheGroup(t *testing.T) {
	t.Parallel()
	for _, group := range []string{calico.GroupV3, calico.GroupCRD} {
		t.Run(group, func(t *testing.T) {
			s, a := runComplete(t, group)
			path := "/apis/" + group + "/hostendpoints"

			s.on("POST "+path, object(201, hep(group, "1")))
			wanted := &v3.HostEndpoint{
				ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"a": "b"}},
				Spec:       v3.HostEndpointSpec{Node: "n1", InterfaceName: "*"},
			}
			stored, err := a.CreateEndpoint(t.Context(), wanted)
			require.NoError(t, err)
			assert.Equal(t, "1", stored.ResourceVersion)
			assert.Empty(t, stored.ManagedFields)
			assert.Empty(t, wanted.Kind, "the argument is not changed")
			created := s.asked("POST " + path)
			require.Len(t, created, 1)
			assert.Equal(t, "application/json", created[0].contentType)
			assert.JSONEq(t, fmt.Sprintf(`{"apiVersion":%q,"kind":"HostEndpoint",
				"metadata":{"name":"n1","labels":{"a":"b"}},"spec":{"node":"n1","interfaceName":"*"}}`, group), created[0].body)

			s.on("PATCH "+path+"/n1", object(200, hep(group, "2")))
			stored, err = a.PatchEndpoint(t.Context(), "n1", []byte(`{"spec":{"node":"n1"}}`))
			require.NoError(t, err)
			assert.Equal(t, "2", stored.ResourceVersion)
			patched := s.asked("PATCH " + path + "/n1")
			require.Len(t, patched, 1)
			assert.Equal(t, "application/merge-patch+json", patched[0].contentType)
			assert.Equal(t, `{"spec":{"node":"n1"}}`, patched[0].body)
		})
	}
}

func TestWhatIsCreatedIsSentWhole(t *testing.T) {
	t.Parallel()
	s, a := runComplete(t, calico.GroupCRD)
	owners := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "node-uid"}}
	sent := func(path string, into any) {
		asked := s.asked("POST " + path)
		require.Len(t, asked, 1)
		require.NoError(t, json.Unmarshal([]byte(asked[0].body), into))
	}

	events := "/api/v1/namespaces/default/events"
	s.on("POST "+events, object(201, corev1.Event{}))
	event := &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Name: "n1.1", Namespace: "default"},
		InvolvedObject:      corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "node-uid"},
		Reason:              "Armed",
		Message:             "all policies are there",
		Source:              corev1.EventSource{Component: "agent", Host: "n1"},
		FirstTimestamp:      metav1.Unix(1, 0),
		LastTimestamp:       metav1.Unix(2, 0),
		Count:               3,
		Type:                corev1.EventTypeNormal,
		ReportingController: "host-firewall.io/agent",
		ReportingInstance:   "n1",
	}
	require.NoError(t, a.CreateEvent(t.Context(), event))
	var sentEvent corev1.Event
	sent(events, &sentEvent)
	event.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Event"}
	assert.Equal(t, *event, sentEvent)

	felix := inCRD + "/felixconfigurations"
	s.on("POST "+felix, object(201, v3.FelixConfiguration{}))
	configuration := &failsafe.Configuration{
		ObjectMeta: metav1.ObjectMeta{
			Name: "node.n1", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, OwnerReferences: owners,
		},
		Spec: map[string]any{"failsafeInboundHostPorts": []any{}},
	}
	_, err := a.CreateFelix(t.Context(), configuration)
	require.NoError(t, err)
	var sentFelix failsafe.Configuration
	sent(felix, &sentFelix)
	configuration.TypeMeta = metav1.TypeMeta{APIVersion: calico.GroupCRD, Kind: "FelixConfiguration"}
	assert.Equal(t, *configuration, sentFelix)
}

func TestRefusedWriteKeepsItsReasonAndSaysWhatItWas(t *testing.T) {
	t.Parallel()
	s, a := runComplete(t, calico.GroupV3)
	path := inV3 + "/hostendpoints"

	s.on("POST "+path, failure(409, metav1.StatusReasonAlreadyExists))
	_, err := a.CreateEndpoint(t.Context(), hep("", ""))
	assert.True(t, apierrors.IsAlreadyExists(err))
	assert.ErrorContains(t, err, "create HostEndpoint n1: ")

	s.on("PATCH "+path+"/n1", failure(409, metav1.StatusReasonConflict))
	_, err = a.PatchEndpoint(t.Context(), "n1", []byte("{}"))
	assert.True(t, apierrors.IsConflict(err))
	assert.ErrorContains(t, err, "patch HostEndpoint n1: ")

	s.on("PATCH "+path+"/n1", failure(403, metav1.StatusReasonForbidden))
	_, err = a.PatchEndpoint(t.Context(), "n1", []byte("{}"))
	assert.True(t, apierrors.IsForbidden(err))
	assert.ErrorContains(t, err, `lacks the right "patch" on "hostendpoints"`)

	s.on("PATCH "+path+"/n1", nil)
	_, err = a.PatchEndpoint(t.Context(), "n1", []byte("{}"))
	assert.True(t, apierrors.IsNotFound(err))
	assert.NotContains(t, err.Error(), "CRD", "one endpoint is missing, not its kind")
}

func TestListsAreReadAsTheyArrive(t *testing.T) {
	t.Parallel()
	s, a := runComplete(t, calico.GroupCRD)
	last := func(what string) string {
		asked := s.asked(what)
		return asked[len(asked)-1].query
	}
	path := inCRD + "/hostendpoints"
	other := hep(calico.GroupCRD, "2")
	other.Name = "n1-eth1"
	s.on("GET "+path, list(calico.GroupCRD, "HostEndpoint", hep(calico.GroupCRD, "1"), other))
	own, err := a.ListOwnEndpoints(t.Context())
	require.NoError(t, err)
	require.Len(t, own, 2)
	assert.Equal(t, "n1-eth1", own[1].Name)
	assert.Empty(t, own[0].ManagedFields)
	assert.Equal(t, "labelSelector=host-firewall.io%2Frelease%3Dfw%2Chost-firewall.io%2Fnode%3Dn1&resourceVersion=0", last("GET "+path), "etcd is spared")

	s.on("GET "+path, list(calico.GroupCRD, "HostEndpoint", other))
	one, err := a.ReadEndpoint(t.Context(), "n1-eth1")
	require.NoError(t, err)
	assert.Equal(t, "n1-eth1", one.Name)
	assert.Equal(t, "fieldSelector=metadata.name%3Dn1-eth1", last("GET "+path), "the newest there is")
	s.on("GET "+path, list(calico.GroupCRD, "HostEndpoint"))
	one, err = a.ReadEndpoint(t.Context(), "n1-eth1")
	require.NoError(t, err)
	assert.Nil(t, one)

	s.on("GET "+path, failure(403, metav1.StatusReasonForbidden))
	_, err = a.ListOwnEndpoints(t.Context())
	assert.ErrorContains(t, err, `list hostendpoints: the account lacks the right "list"`)
	_, err = a.ReadEndpoint(t.Context(), "n1")
	assert.ErrorContains(t, err, `list hostendpoints: the account lacks the right "list"`)
	s.on("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"items":[{"spec":{}},`)) })
	_, err = a.ListOwnEndpoints(t.Context())
	assert.ErrorContains(t, err, "list hostendpoints: ", "half a list is none")
}

func TestAPIServerIsWhereItSaysItself(t *testing.T) {
	t.Parallel()
	const slice = "GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
	s := newAPIServer(t)
	c, err := calico.NewController(&rest.Config{Host: s.URL}, calico.Options{Release: "fw", Namespace: "ns", Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)

	addresses, ports, err := c.APIServer(t.Context())
	require.NoError(t, err, "where there is no slice nobody can tell")
	assert.Empty(t, addresses)
	assert.Empty(t, ports)

	s.on(slice, object(http.StatusOK, map[string]any{
		"endpoints": []any{map[string]any{"addresses": []string{"192.0.2.1"}}, map[string]any{"addresses": []string{"192.0.2.2"}}},
		"ports":     []any{map[string]any{"name": "https", "protocol": "TCP", "port": 16443}},
	}))
	addresses, ports, err = c.APIServer(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, addresses)
	assert.Equal(t, []uint16{16443}, ports)

	s.on(slice, failure(http.StatusForbidden, metav1.StatusReasonForbidden))
	_, _, err = c.APIServer(t.Context())
	assert.ErrorContains(t, err, `get EndpointSlice default/kubernetes: the account lacks the right "get" on "endpointslices"`)
}

func TestFelixConfigurationsAreFollowedOnlyWhenAskedFor(t *testing.T) {
	t.Parallel()
	s, a := runComplete(t, calico.GroupCRD)
	path := inCRD + "/felixconfigurations"
	_, _, problem := a.Felix()
	assert.NotEmpty(t, problem)
	own, err := a.ReadFelix(t.Context(), "node.n1")
	require.NoError(t, err)
	assert.Nil(t, own)
	asked := s.asked("GET " + path)
	require.Len(t, asked, 1)
	assert.Equal(t, "fieldSelector=metadata.name%3Dnode.n1&resourceVersion=0", asked[0].query)
	assert.Empty(t, s.asked("watch "+path))

	s.on("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
		list(calico.GroupCRD, "FelixConfiguration", v3.FelixConfiguration{
			TypeMeta:   metav1.TypeMeta{APIVersion: calico.GroupCRD, Kind: "FelixConfiguration"},
			ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"},
		})(w, r)
	})
	a.FollowFelix()
	a.FollowFelix()
	a.await(t, "the configurations are known", func() bool { _, _, problem := a.Felix(); return problem == "" })
	own, forAll, _ := a.Felix()
	require.NotNil(t, own)
	require.NotNil(t, forAll)
	assert.Equal(t, []string{"node.n1", "default"}, []string{own.Name, forAll.Name})
	assert.Len(t, s.asked("GET "+path), 3, "each is read once")
}

// The promise to a large cluster: whatever an agent asks for is about its own node or
// release, so that nothing that it reads grows with the cluster.
func TestAgentListsAndWatchesOnlyWhatItSelects(t *testing.T) {
	t.Parallel()
	const ofNode = "labelSelector=host-firewall.io%2Frelease%3Dfw%2Chost-firewall.io%2Fnode%3Dn1"
	for _, group := range []string{calico.GroupV3, calico.GroupCRD} {
		for _, byLabel := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s by label %t", group, byLabel), func(t *testing.T) {
				t.Parallel()
				s := newAPIServer(t)
				s.serveAll(group)
				a := runWith(t, s, calico.Options{APIGroup: group, ByLabel: byLabel})
				a.awaitComplete(t)
				a.FollowFelix()
				a.await(t, "the configurations are known", func() bool { _, _, problem := a.Felix(); return problem == "" })
				_, err := a.ListOwnEndpoints(t.Context())
				require.NoError(t, err)
				_, err = a.ReadEndpoint(t.Context(), "n1")
				require.NoError(t, err)
				_, err = a.ReadFelix(t.Context(), "node.n1")
				require.NoError(t, err)

				base := "/apis/" + group
				selections := map[string][]string{
					nodesPath:                     {"fieldSelector=metadata.name%3Dn1"},
					sayingPath:                    {"fieldSelector=metadata.name%3Dfw"},
					base + "/hostendpoints":       {"fieldSelector=metadata.name%3Dn1", ofNode},
					base + "/felixconfigurations": {"fieldSelector=metadata.name%3Dnode.n1", "fieldSelector=metadata.name%3Ddefault"},
				}
				for where, allowed := range selections {
					require.Eventually(t, func() bool { return len(s.asked("watch "+where)) > 0 }, deadline, 10*time.Millisecond)
					for _, r := range append(s.asked("GET "+where), s.asked("watch "+where)...) {
						selects := slices.ContainsFunc(allowed, func(selection string) bool {
							return slices.Contains(strings.Split(r.query, "&"), selection)
						})
						assert.True(t, selects, "%s?%s", r.what, r.query)
					}
				}
				s.mu.Lock()
				defer s.mu.Unlock()
				for _, r := range s.requests {
					_, where, _ := strings.Cut(r.what, " ")
					assert.Contains(t, selections, where, "nothing else is read")
				}
			})
		}
	}
}

func TestClearanceIsWhatTheConfigMapSays(t *testing.T) {
	t.Parallel()
	good := map[string]string{"set": "aaaa0001"}
	broken := map[string]string{"set": "aaaa0001", "held": "{"}
	closing := map[string]string{"set": "aaaa0001", "held": "{", "closed": "true"}
	open := map[string]string{clearance.OpenAnnotation: "a drill"}
	for name, test := range map[string]struct {
		items   []any
		problem []string
		want    clearance.Clearance // what counts of it
	}{
		"absent":                    {problem: []string{"the controller has not said anything yet", "there is no ConfigMap ns/fw", "kubectl -n ns get deployments fw-controller"}},
		"good":                      {items: []any{saying("1", good, nil)}, want: clearance.Clearance{Wanted: clearance.Set{Revision: "aaaa0001"}}},
		"broken":                    {items: []any{saying("1", broken, nil)}, problem: []string{"ConfigMap ns/fw: ", "key held"}},
		"emptied":                   {items: []any{saying("1", nil, nil)}, problem: []string{"ConfigMap ns/fw: ", "key set"}},
		"opened":                    {items: []any{saying("1", good, open)}, want: clearance.Clearance{Wanted: clearance.Set{Revision: "aaaa0001"}, Opened: true, Open: "a drill"}},
		"opened although broken":    {items: []any{saying("1", broken, open)}, want: clearance.Clearance{Wanted: clearance.Set{Revision: "aaaa0001"}, Opened: true, Open: "a drill"}},
		"opened although emptied":   {items: []any{saying("1", nil, open)}, want: clearance.Clearance{Opened: true, Open: "a drill"}},
		"closed although broken":    {items: []any{saying("1", closing, nil)}, want: clearance.Clearance{Wanted: clearance.Set{Revision: "aaaa0001"}, Closed: true}},
		"closed, and never written": {items: []any{saying("1", clearance.Closing(), nil)}, want: clearance.Clearance{Closed: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t)
			s.serveAll(calico.GroupCRD)
			s.on("GET "+sayingPath, list("v1", "ConfigMap", test.items...))
			a := run(t, s, calico.GroupCRD)
			a.awaitComplete(t)
			said, problem := a.Clearance()
			if test.problem != nil {
				assert.Nil(t, said, "nothing to be acted on")
				for _, part := range test.problem {
					assert.Contains(t, problem, part)
				}
				return
			}
			require.Empty(t, problem)
			got := clearance.Clearance{Wanted: clearance.Set{Revision: said.Wanted.Revision}, Opened: said.Opened, Open: said.Open, Closed: said.Closed}
			assert.Equal(t, test.want, got)
		})
	}
}

func TestClearanceIsFollowed(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.serveAll(calico.GroupCRD)
	changes := make(chan any, 1)
	s.on("GET "+sayingPath, list("v1", "ConfigMap"))
	s.on("watch "+sayingPath, stream(changes))
	a := run(t, s, calico.GroupCRD)
	a.awaitComplete(t)
	problem := func() string { _, problem := a.Clearance(); return problem }
	assert.Contains(t, problem(), "there is no ConfigMap ns/fw")
	for _, step := range []struct {
		event  string
		object *corev1.ConfigMap
		seen   func() bool
	}{
		{"ADDED", saying("11", map[string]string{"set": "aaaa0001", "reason": "policies are missing"}, nil), func() bool {
			said, _ := a.Clearance()
			return said != nil && said.Reason == "policies are missing"
		}},
		{"MODIFIED", saying("12", map[string]string{"set": "aaaa0001", "nodes": "yesterday"}, nil), func() bool { return strings.Contains(problem(), "key nodes") }},
		{"MODIFIED", saying("13", map[string]string{"set": "bbbb0002"}, nil), func() bool {
			said, _ := a.Clearance()
			return said != nil && said.Wanted.Revision == "bbbb0002" && said.Reason == ""
		}},
		{"DELETED", saying("14", nil, nil), func() bool { return strings.Contains(problem(), "there is no ConfigMap ns/fw") }},
	} {
		changes <- map[string]any{"type": step.event, "object": step.object}
		a.await(t, step.object.ResourceVersion+" is seen", step.seen)
	}
}

func TestObjectsAreDeletedInTheVersionThatIsKnown(t *testing.T) {
	t.Parallel()
	s, a := runComplete(t, calico.GroupV3)
	s.on("DELETE "+inV3+"/hostendpoints/n1", object(200, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}}))
	known := hep(calico.GroupV3, "7")
	known.UID = "hep-uid"
	require.NoError(t, a.DeleteEndpoint(t.Context(), known))
	asked := s.asked("DELETE " + inV3 + "/hostendpoints/n1")
	require.Len(t, asked, 1)
	assert.JSONEq(t, `{"preconditions":{"uid":"hep-uid","resourceVersion":"7"}}`, asked[0].body)
}

// The keeper has to know when to come again: it has other things to do meanwhile.
func TestBusyAPIServerIsNotAskedAgainAtOnce(t *testing.T) {
	t.Parallel()
	s, a := runComplete(t, calico.GroupV3)
	s.on("POST "+inV3+"/hostendpoints", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "17")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
	})
	_, err := a.CreateEndpoint(t.Context(), hep("", ""))
	seconds, told := apierrors.SuggestsClientDelay(err)
	assert.True(t, told)
	assert.Equal(t, 17, seconds)
	assert.Len(t, s.asked("POST "+inV3+"/hostendpoints"), 1)
}

func TestAnswersAreCountedByVerbAndCode(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.serveAll(calico.GroupV3)
	var mu sync.Mutex
	counts := map[string]int{}
	cluster, err := calico.New(&rest.Config{Host: s.URL}, calico.Options{
		Node: "n1", Release: "fw", Namespace: "ns", Log: slog.New(slog.DiscardHandler),
		Count: func(verb string, code int) {
			mu.Lock()
			defer mu.Unlock()
			counts[fmt.Sprint(verb, " ", code)]++
		},
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cluster.Run(ctx, func() {})
	}()
	require.Eventually(t, func() bool { return cluster.Problem() == "" }, deadline, 10*time.Millisecond)
	_, _ = cluster.CreateEndpoint(t.Context(), hep("", ""))
	stop()
	<-ended
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, 1, counts["get 200"], "the resources of the group")
	assert.Equal(t, 3, counts["list 200"])
	assert.Equal(t, 1, counts["create 404"])
	assert.GreaterOrEqual(t, counts["watch 422"], 2)
}

func TestRunEndsWithItsContextWhereverItIs(t *testing.T) {
	t.Parallel()
	t.Run("looking for the group", func(t *testing.T) {
		a := run(t, newAPIServer(t), "")
		a.await(t, "problem is known", func() bool { return strings.Contains(a.Problem(), "install Calico") })
		a.endsWithin(t, 2*time.Second)
	})
	t.Run("waiting after a failure", func(t *testing.T) {
		a := run(t, newAPIServer(t), calico.GroupV3)
		a.await(t, "problem is known", func() bool { return strings.Contains(a.Problem(), "cannot list") })
		a.endsWithin(t, 2*time.Second)
	})
	t.Run("watching", func(t *testing.T) {
		_, a := runComplete(t, calico.GroupV3)
		a.endsWithin(t, 2*time.Second)
		assert.NotContains(t, a.log.String(), "cannot", "the end of the agent is no trouble")
	})
}

func (a *agent) endsWithin(t *testing.T, d time.Duration) {
	t.Helper()
	a.stop()
	select {
	case <-a.ended:
	case <-time.After(d):
		t.Errorf("Run has not returned after %s", d)
	}
}
