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
	"slices"
	"strconv"
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

func policy(group, name string) *v3.GlobalNetworkPolicy {
	return &v3.GlobalNetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: group, Kind: "GlobalNetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1", Labels: map[string]string{"host-firewall.io/release": "fw"}},
		Spec:       v3.GlobalNetworkPolicySpec{Selector: "all()"},
	}
}

const (
	nodesPath   = "/api/v1/nodes"
	needed      = "hostendpoints globalnetworkpolicies felixconfigurations clusterinformations"
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
	s.on("GET "+base+"/hostendpoints", list(group, "HostEndpoint", hep(group, "1")))
	s.on("watch "+base+"/hostendpoints", stream(events))
	s.on("GET "+base+"/globalnetworkpolicies", list(group, "GlobalNetworkPolicy", policy(group, "fw-a"), policy(group, "fw-b")))
	s.on("watch "+base+"/globalnetworkpolicies", stream(nil))
	s.on("GET "+base+"/clusterinformations", list(group, "ClusterInformation"))
	s.on("watch "+base+"/clusterinformations", stream(nil))
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
	heps, _ := a.Endpoints()
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
	a := &agent{woken: make(chan struct{}, 1), log: &logBuffer{}, ended: make(chan struct{})}
	cluster, err := calico.New(&rest.Config{Host: s.URL}, calico.Options{
		Node: "n1", Release: "fw", APIGroup: group, UserAgent: "agent/test", Log: slog.New(slog.NewTextHandler(a.log, nil)),
	})
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
			base := "/apis/" + group
			streamed := func(what string) {
				first := s.asked("watch " + what)[0].query
				assert.Contains(t, first, "resourceVersion=0&", "etcd is spared")
				assert.Contains(t, first, "sendInitialEvents=true")
			}
			streamed(base + "/hostendpoints")
			streamed(base + "/globalnetworkpolicies")
			later := []string{nodesPath, base + "/clusterinformations"}
			for _, what := range later {
				require.Len(t, s.asked("GET "+what), 1)
				assert.Regexp(t, "resourceVersion=0$", s.asked("GET " + what)[0].query)
				assert.Empty(t, s.asked("watch "+what), "which costs the API server more")
			}
			a.Follow()
			for _, what := range later {
				require.Eventually(t, func() bool { return len(s.asked("watch "+what)) > 0 }, deadline, 10*time.Millisecond)
				streamed(what)
			}
			var names []string
			for _, p := range a.Policies() {
				names = append(names, p.Name)
			}
			assert.ElementsMatch(t, []string{"fw-a", "fw-b"}, names)

			for what, selection := range map[string]string{
				nodesPath:                       "fieldSelector=metadata.name%3Dn1",
				base + "/hostendpoints":         "fieldSelector=metadata.name%3Dn1",
				base + "/globalnetworkpolicies": "labelSelector=host-firewall.io%2Frelease%3Dfw",
				base + "/clusterinformations":   "fieldSelector=metadata.name%3Ddefault",
			} {
				for _, verb := range []string{"GET ", "watch "} {
					for _, r := range s.asked(verb + what) {
						assert.Contains(t, r.query, selection, verb+what)
					}
				}
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
		"no right": {failure(403, metav1.StatusReasonForbidden), `account lacks the right \"list\" on \"globalnetworkpolicies\"`},
		"nonsense": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{")) }, "GlobalNetworkPolicies of release fw"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t)
			s.serveAll(calico.GroupV3)
			path := inV3 + "/globalnetworkpolicies"
			works := s.answers["GET "+path]
			s.on("GET "+path, test.answer)
			a := run(t, s, calico.GroupV3)
			tries := func(n int) func() bool {
				return func() bool { return len(s.asked("GET "+path)) >= n }
			}
			require.Eventually(t, tries(2), deadline, 10*time.Millisecond, "it is tried again")
			assert.Contains(t, a.Problem(), "cannot list GlobalNetworkPolicies of release fw: ")
			assert.Equal(t, 1, strings.Count(a.log.String(), "cannot list"), "log:\n%s", a.log)
			assert.Contains(t, a.log.String(), test.want)

			s.on("GET "+path, works)
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
			s := newAPIServer(t)
			s.serveAll(group)
			path := "/apis/" + group + "/globalnetworkpolicies"
			over := make(chan struct{})
			s.on("watch "+path, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Get("sendInitialEvents") != "" {
					stream(nil)(w, r)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				// A watch that brings nothing for less than a second is followed by a list anyway.
				_ = json.NewEncoder(w).Encode(map[string]any{"type": "ADDED", "object": policy(group, "fw-a")})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-over: // as after its timeout
				case <-r.Context().Done():
				}
			})
			a := run(t, s, group)
			a.awaitComplete(t)
			require.Len(t, a.Policies(), 2)

			s.on("GET "+path, list(group, "GlobalNetworkPolicy", policy(group, "fw-a")))
			watches := func() int { return len(s.asked("watch " + path)) }
			require.Eventually(t, func() bool { return watches() == 2 }, deadline, 10*time.Millisecond, "refused to list, then watched")
			close(over)
			require.Eventually(t, func() bool { return watches() > 2 }, deadline, 10*time.Millisecond, "watched again")
			if group == calico.GroupV3 {
				a.await(t, "the policy is gone", func() bool { return len(a.Policies()) == 1 })
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
	a.await(t, "all four have failed", func() bool {
		return strings.Count(a.log.String(), "cannot watch") == 2 && strings.Count(a.log.String(), "cannot list") == 2
	})
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

func TestListsAreReadAsTheyArriveAndFromTheAPIServersCache(t *testing.T) {
	t.Parallel()
	s, a := runComplete(t, calico.GroupCRD)
	last := func(what string) string {
		asked := s.asked(what)
		return asked[len(asked)-1].query
	}

	s.on("GET "+nodesPath, list("v1", "Node", node("n1"), node("n2")))
	nodes, err := a.ListNodes(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, nodes, 2)
	for i, name := range []string{"n1", "n2"} {
		want := node(name)
		assert.Equal(t, corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Status:     corev1.NodeStatus{Addresses: want.Status.Addresses, Conditions: want.Status.Conditions},
		}, nodes[i], "no more than is looked at")
	}
	assert.Equal(t, "resourceVersion=0", last("GET "+nodesPath))

	path := inCRD + "/hostendpoints"
	other := hep(calico.GroupCRD, "2")
	other.Name, other.Spec.Node = "n2", "n2"
	s.on("GET "+path, list(calico.GroupCRD, "HostEndpoint", hep(calico.GroupCRD, "1"), other))
	endpoints, err := a.ListEndpoints(t.Context(), "")
	require.NoError(t, err)
	assert.Len(t, endpoints, 2)
	assert.Equal(t, "labelSelector=host-firewall.io%2Frelease%3Dfw&resourceVersion=0", last("GET "+path))

	_, err = a.ListNodes(t.Context(), "n2")
	require.NoError(t, err)
	assert.Equal(t, "fieldSelector=metadata.name%3Dn2&resourceVersion=0", last("GET "+nodesPath))
	_, err = a.ListEndpoints(t.Context(), "n2")
	require.NoError(t, err)
	assert.Equal(t, "labelSelector=host-firewall.io%2Frelease%3Dfw%2Chost-firewall.io%2Fnode%3Dn2&resourceVersion=0", last("GET "+path))

	here, all, err := a.ListForeignEndpoints(t.Context())
	require.NoError(t, err)
	assert.Equal(t, 2, all)
	require.Len(t, here, 1)
	assert.Equal(t, "n1", here[0].Name)
	assert.Empty(t, here[0].ManagedFields)
	assert.Equal(t, "labelSelector=host-firewall.io%2Frelease%21%3Dfw&resourceVersion=0", last("GET "+path))

	_, err = a.ListOwnEndpoints(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "labelSelector=host-firewall.io%2Frelease%3Dfw%2Chost-firewall.io%2Fnode%3Dn1&resourceVersion=0", last("GET "+path))

	s.on("GET "+path, failure(403, metav1.StatusReasonForbidden))
	_, err = a.ListEndpoints(t.Context(), "")
	assert.ErrorContains(t, err, `list hostendpoints: the agent's account lacks the right "list"`)
	s.on("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"items":[{"spec":{}},`)) })
	_, err = a.ListEndpoints(t.Context(), "")
	assert.ErrorContains(t, err, "list hostendpoints: ", "half a list is none")
}

func TestAPIServerIsWhereItSaysItself(t *testing.T) {
	t.Parallel()
	const slice = "GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
	s := newAPIServer(t)
	s.serveAll(calico.GroupCRD)
	a := run(t, s, calico.GroupCRD)
	a.await(t, "the caches are complete", func() bool { return a.Problem() == "" })

	addresses, ports, err := a.APIServer(t.Context())
	require.NoError(t, err, "where there is no slice nobody can tell")
	assert.Empty(t, addresses)
	assert.Empty(t, ports)

	s.on(slice, object(http.StatusOK, map[string]any{
		"endpoints": []any{map[string]any{"addresses": []string{"192.0.2.1"}}, map[string]any{"addresses": []string{"192.0.2.2"}}},
		"ports":     []any{map[string]any{"name": "https", "protocol": "TCP", "port": 16443}},
	}))
	addresses, ports, err = a.APIServer(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"192.0.2.1", "192.0.2.2"}, addresses)
	assert.Equal(t, []uint16{16443}, ports)

	s.on(slice, failure(http.StatusForbidden, metav1.StatusReasonForbidden))
	_, _, err = a.APIServer(t.Context())
	assert.ErrorContains(t, err, `get EndpointSlice default/kubernetes: the agent's account lacks the right "get" on "endpointslices"`)
}

func TestOneArmedEndpointIsEnoughToTell(t *testing.T) {
	t.Parallel()
	for group, selection := range map[string]string{
		calico.GroupCRD: "labelSelector=host-firewall.io%2Frelease%3Dfw%2Chost-endpoint%3Dingress&limit=1&resourceVersion=1&resourceVersionMatch=NotOlderThan",
		calico.GroupV3:  "labelSelector=host-firewall.io%2Frelease%3Dfw%2Chost-endpoint%3Dingress&resourceVersion=0",
	} {
		s, a := runComplete(t, group)
		path := "/apis/" + group + "/hostendpoints"
		s.on("GET "+path, list(group, "HostEndpoint"))
		armed, err := a.AnyArmed(t.Context(), map[string]string{"host-endpoint": "ingress"})
		require.NoError(t, err)
		assert.False(t, armed)
		asked := s.asked("GET " + path)
		assert.Equal(t, selection, asked[len(asked)-1].query)

		s.on("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"items":[{"spec":{}},nonsense`)) })
		armed, err = a.AnyArmed(t.Context(), map[string]string{"host-endpoint": "ingress"})
		require.NoError(t, err, "what follows is not read")
		assert.True(t, armed)
		s.on("GET "+path, failure(403, metav1.StatusReasonForbidden))
		armed, err = a.AnyArmed(t.Context(), map[string]string{"host-endpoint": "ingress"})
		assert.ErrorContains(t, err, `lacks the right "list"`)
		assert.False(t, armed)
	}
}

func TestCountingReadsOneObjectAndBelievesTheAPIServer(t *testing.T) {
	t.Parallel()
	s, a := runComplete(t, calico.GroupCRD)
	for name, test := range map[string]struct {
		metadata map[string]any
		want     int
	}{
		"all there are": {map[string]any{}, 1},
		"many more":     {map[string]any{"continue": "more", "remainingItemCount": 4999}, 5000},
	} {
		s.on("GET "+nodesPath, object(200, map[string]any{"metadata": test.metadata, "items": []any{node("n1")}}))
		got, first, err := a.CountNodes(t.Context())
		require.NoError(t, err, name)
		assert.Equal(t, test.want, got, name)
		assert.Equal(t, "n1", first, name)
	}
	asked := s.asked("GET " + nodesPath)
	assert.Equal(t, "limit=1&resourceVersion=1&resourceVersionMatch=NotOlderThan", asked[len(asked)-1].query)
	s.on("GET "+nodesPath, object(200, map[string]any{"metadata": map[string]any{"continue": "more"}, "items": []any{node("n1")}}))
	_, _, err := a.CountNodes(t.Context())
	assert.ErrorContains(t, err, "does not say how many")
}

func TestFirstEndpointIsTheFirstOfTheRelease(t *testing.T) {
	t.Parallel()
	theirs, ours := hep(calico.GroupCRD, "1"), hep(calico.GroupCRD, "1")
	theirs.Name, ours.Name = "a", "b"
	ours.Labels = map[string]string{"host-firewall.io/release": "fw"}
	more := map[string]any{"continue": "more", "remainingItemCount": 4999}
	for name, test := range map[string]struct {
		metadata      map[string]any
		items, ofOurs []any // ofOurs is what there is with the release's label
		count         int
		first         string
	}{
		"none":                   {map[string]any{}, nil, nil, 0, ""},
		"ours":                   {more, []any{ours}, []any{ours}, 5000, "b"},
		"theirs comes before":    {more, []any{theirs}, []any{ours}, 5000, "b"},
		"all are theirs":         {more, []any{theirs}, nil, 5000, ""},
		"all are sent":           {map[string]any{}, []any{theirs, ours}, []any{ours}, 2, "b"},
		"all are sent, not ours": {map[string]any{}, []any{theirs}, nil, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, a := runComplete(t, calico.GroupCRD)
			path := inCRD + "/hostendpoints"
			s.on("GET "+path, func(w http.ResponseWriter, r *http.Request) {
				items := test.items
				if r.URL.Query().Get("labelSelector") == "host-firewall.io/release=fw" {
					items = test.ofOurs
				}
				object(200, map[string]any{"metadata": test.metadata, "items": append([]any{}, items...)})(w, r)
			})
			before := len(s.asked("GET " + path))
			count, err := a.CountEndpoints(t.Context())
			require.NoError(t, err)
			assert.Equal(t, test.count, count)
			first, err := a.FirstEndpoint(t.Context())
			require.NoError(t, err)
			assert.Equal(t, test.first, first)
			assert.Len(t, s.asked("GET " + path)[before:], 2, "each is one request")
		})
	}
}

func TestCachesThatAreNotAlwaysNeededAreKeptOnlyThen(t *testing.T) {
	t.Parallel()
	s := newAPIServer(t)
	s.serveAll(calico.GroupCRD)
	theirs := policy(calico.GroupCRD, "theirs")
	theirs.Labels = nil
	theirs.Spec.Ingress = []v3.Rule{{Action: v3.Deny}}
	policies, felix := inCRD+"/globalnetworkpolicies", inCRD+"/felixconfigurations"
	s.on("GET "+policies, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Query().Get("labelSelector"), "!=") {
			list(calico.GroupCRD, "GlobalNetworkPolicy", theirs)(w, r)
			return
		}
		list(calico.GroupCRD, "GlobalNetworkPolicy")(w, r)
	})
	changes := make(chan any)
	s.on("watch "+policies, func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Query().Get("labelSelector"), "!=") {
			stream(changes)(w, r)
			return
		}
		stream(nil)(w, r)
	})
	a := run(t, s, calico.GroupCRD)
	a.awaitComplete(t)
	_, problem := a.Foreign()
	assert.NotEmpty(t, problem)
	assert.Empty(t, s.asked("GET "+felix))

	ofOthers := func(what string) int {
		asked := slices.Clone(s.asked(what + " " + policies))
		return len(slices.DeleteFunc(asked, func(r request) bool { return !strings.Contains(r.query, "%21%3D") }))
	}
	a.FollowForeign(true, false)
	a.FollowForeign(true, false)
	a.await(t, "others' policies are known", func() bool { _, problem := a.Foreign(); return problem == "" })
	foreign, _ := a.Foreign()
	require.Len(t, foreign, 1)
	assert.Equal(t, v3.GlobalNetworkPolicySpec{Selector: "all()"}, foreign[0].Spec, "whom it selects, and no more")
	assert.Equal(t, 1, ofOthers("GET"))
	assert.Zero(t, ofOthers("watch"), "which lasts")
	a.FollowForeign(true, true)
	require.Eventually(t, func() bool { return ofOthers("watch") > 0 }, deadline, 10*time.Millisecond, "changes are followed")
	foreign, problem = a.Foreign()
	assert.Len(t, foreign, 1, "what was read is known meanwhile")
	assert.Empty(t, problem)
	a.FollowForeign(true, false)
	gone := *theirs
	gone.ResourceVersion = "13"
	changes <- map[string]any{"type": "DELETED", "object": gone}
	a.await(t, "changes are followed also when nobody asks for them any more, for what was read first is old", func() bool {
		foreign, problem := a.Foreign()
		return problem == "" && len(foreign) == 0
	})
	a.FollowForeign(false, false)
	_, problem = a.Foreign()
	assert.NotEmpty(t, problem)

	_, _, problem = a.Felix()
	assert.NotEmpty(t, problem)
	own, err := a.ReadFelix(t.Context(), "node.n1")
	require.NoError(t, err)
	assert.Nil(t, own)
	asked := s.asked("GET " + felix)
	require.Len(t, asked, 1)
	assert.Equal(t, "fieldSelector=metadata.name%3Dnode.n1&resourceVersion=0", asked[0].query)
	a.FollowFelix()
	a.await(t, "the configurations are known", func() bool { _, _, problem := a.Felix(); return problem == "" })

	s.on("GET "+inCRD+"/hostendpoints", func(w http.ResponseWriter, r *http.Request) {
		peer := hep(calico.GroupCRD, "2")
		peer.Name = strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
		list(calico.GroupCRD, "HostEndpoint", peer)(w, r)
	})
	assert.Nil(t, a.Peer())
	for _, name := range []string{"n2", "n3"} {
		a.FollowPeer(name)
		require.Eventually(t, func() bool { peer := a.Peer(); return peer != nil && peer.Name == name }, deadline, 10*time.Millisecond)
	}
	a.FollowPeer("")
	assert.Nil(t, a.Peer())
}

func TestPoliciesOfOthersThatCannotBeReadAreAskedForAgain(t *testing.T) {
	t.Parallel()
	s, a := runComplete(t, calico.GroupCRD)
	policies := inCRD + "/globalnetworkpolicies"
	answer := func(ofOthers http.HandlerFunc) {
		s.on("GET "+policies, func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Query().Get("labelSelector"), "!=") {
				ofOthers(w, r)
				return
			}
			list(calico.GroupCRD, "GlobalNetworkPolicy")(w, r)
		})
	}
	problem := func() string { _, problem := a.Foreign(); return problem }
	answer(failure(403, metav1.StatusReasonForbidden))
	a.FollowForeign(true, false)
	a.await(t, "the refusal is told", func() bool { return strings.Contains(problem(), `lacks the right "list"`) })
	answer(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"items":[{"metadata":{"name":"a"}},`))
	})
	a.await(t, "half a list is none", func() bool { return strings.Contains(problem(), "EOF") })
	answer(list(calico.GroupCRD, "GlobalNetworkPolicy", policy(calico.GroupCRD, "theirs")))
	a.await(t, "the policies are known", func() bool { return problem() == "" })
	foreign, _ := a.Foreign()
	require.Len(t, foreign, 1)
	assert.Equal(t, "theirs", foreign[0].Name)
}

func TestDatastoreIsReadyUnlessItSaysNot(t *testing.T) {
	t.Parallel()
	no, yes := false, true
	for name, test := range map[string]struct {
		ready *bool
		want  bool
	}{"not said": {nil, true}, "ready": {&yes, true}, "not ready": {&no, false}} {
		t.Run(name, func(t *testing.T) {
			s := newAPIServer(t)
			s.serveAll(calico.GroupCRD)
			path, changes := inCRD+"/clusterinformations", make(chan any, 1)
			s.on("GET "+path, list(calico.GroupCRD, "ClusterInformation", information(test.ready, "1")))
			s.on("watch "+path, stream(changes))
			a := run(t, s, calico.GroupCRD)
			a.awaitComplete(t)
			assert.Equal(t, test.want, a.DatastoreReady())
			assert.Len(t, s.asked("GET "+path), 1)
			assert.Empty(t, s.asked("watch "+path), "which costs the API server more")

			a.Follow()
			a.Follow()
			for i, ready := range []bool{!test.want, test.want} {
				changes <- map[string]any{"type": "MODIFIED", "object": information(&ready, strconv.Itoa(20+i))}
				a.await(t, "the change is seen", func() bool { return a.DatastoreReady() == ready })
			}
		})
	}
}

// information is Calico's ClusterInformation.
func information(ready *bool, version string) v3.ClusterInformation {
	return v3.ClusterInformation{
		TypeMeta:   metav1.TypeMeta{APIVersion: calico.GroupCRD, Kind: "ClusterInformation"},
		ObjectMeta: metav1.ObjectMeta{Name: "default", ResourceVersion: version},
		Spec:       v3.ClusterInformationSpec{DatastoreReady: ready},
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
	assert.JSONEq(t, `{"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"hep-uid","resourceVersion":"7"}}`, asked[0].body)
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
		Node: "n1", Release: "fw", Log: slog.New(slog.DiscardHandler),
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
	assert.Equal(t, 4, counts["list 200"])
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
