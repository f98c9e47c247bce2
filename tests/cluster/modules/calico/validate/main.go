// Command validate asks Calico itself whether it takes policies: it reads GlobalNetworkPolicies from standard input, a JSON
// array, and writes what Calico finds wrong with each to standard output, a JSON array of the same length, empty where it finds
// nothing. It stands in the module of Felix, for the validator needs an older version of Calico's API than the chart's tests.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	validator "github.com/projectcalico/calico/libcalico-go/lib/validator/v3"
)

func main() {
	if err := validate(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func validate(policies io.Reader, complaints io.Writer) error {
	var given []v3.GlobalNetworkPolicy
	decoder := json.NewDecoder(policies)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&given); err != nil {
		return fmt.Errorf("read policies: %w", err)
	}
	found := make([]string, len(given))
	for i := range given {
		if err := validator.Validate(&given[i]); err != nil {
			found[i] = err.Error()
		}
	}
	if err := json.NewEncoder(complaints).Encode(found); err != nil {
		return fmt.Errorf("write what is wrong: %w", err)
	}
	return nil
}
