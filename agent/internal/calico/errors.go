package calico

import (
	"errors"
	"fmt"
	"net"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// explain says in front of an error of the API server what to do about it, where
// the error itself leaves that open. The error stays wrapped. What it says of a
// failed connection is the same for each attempt, so that it can be logged once.
func explain(err error, verb, resource string) error {
	switch code := codeOf(err); code {
	case http.StatusUnauthorized:
		return fmt.Errorf("the API server does not know the account's token: %w", err)
	case http.StatusForbidden:
		return fmt.Errorf("the account lacks the right %q on %q: %w", verb, resource, err)
	case http.StatusNotFound:
		if verb == "list" || verb == "watch" {
			return fmt.Errorf("the API server does not serve %s, Calico's CRD may be missing: %w", resource, err)
		}
	case 0:
		// The whole text of a broken connection names a port that differs each time.
		if broken := new(net.OpError); errors.As(err, &broken) {
			return fmt.Errorf("the API server is not reached: %w", broken.Err)
		}
	}
	return err
}

// codeOf returns the HTTP status that the API server answered with, 0 when it
// did not answer.
func codeOf(err error) int {
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return int(status.Status().Code)
	}
	return 0
}
