package calico

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestErrorOfTheAPIServerSaysWhatToDo(t *testing.T) {
	resource := schema.GroupResource{Group: "projectcalico.org", Resource: "hostendpoints"}
	reset := func(from string) error {
		source, err := net.ResolveTCPAddr("tcp", from)
		assert.NoError(t, err)
		return &url.Error{Op: "Get", URL: "https://192.0.2.1", Err: &net.OpError{
			Op: "read", Net: "tcp", Source: source, Err: os.NewSyscallError("read", syscall.ECONNRESET)}}
	}
	for name, test := range map[string]struct {
		err  error
		verb string
		want string
	}{
		"no right":      {apierrors.NewForbidden(resource, "n1", errors.New("no")), "patch", `the account lacks the right "patch" on "hostendpoints": `},
		"no token":      {apierrors.NewUnauthorized("who"), "list", "the API server does not know the account's token: "},
		"no CRD":        {apierrors.NewNotFound(resource, ""), "watch", "the API server does not serve hostendpoints, Calico's CRD may be missing: "},
		"no endpoint":   {apierrors.NewNotFound(resource, "n1"), "patch", `hostendpoints.projectcalico.org "n1" not found`},
		"conflict":      {apierrors.NewConflict(resource, "n1", errors.New("newer")), "patch", "Operation cannot be fulfilled"},
		"broken":        {apierrors.NewInternalError(errors.New("etcd")), "create", "Internal error occurred: etcd"},
		"away":          {reset("192.0.2.9:40000"), "list", "the API server is not reached: read: connection reset by peer"},
		"out of time":   {context.DeadlineExceeded, "list", "context deadline exceeded"},
		"anything else": {errors.New("else"), "list", "else"},
	} {
		t.Run(name, func(t *testing.T) {
			got := explain(test.err, test.verb, "hostendpoints")
			assert.ErrorContains(t, got, test.want)
			assert.Equal(t, codeOf(test.err), codeOf(got), "the reason stays wrapped")
		})
	}
	assert.Equal(t, explain(reset("192.0.2.9:40000"), "list", "nodes").Error(), explain(reset("192.0.2.9:50000"), "list", "nodes").Error(),
		"the same trouble in the same words")
}
