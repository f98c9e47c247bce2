// Package readme reads from the chart's README what to write where: the table that each reader takes one row of.
package readme

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// Row is one situation, and the values for it.
type Row struct {
	Name   string
	Values map[string]any
}

// heading is above the table.
const heading = "## Your distribution or situation\n"

// Rows reads the table; root is the checkout.
func Rows(root string) ([]Row, error) {
	page, err := os.ReadFile(filepath.Join(root, "charts", "host-firewall", "README.md"))
	if err != nil {
		return nil, fmt.Errorf("read situations: %w", err)
	}
	_, section, found := strings.Cut(string(page), heading)
	if !found {
		return nil, fmt.Errorf("read situations: the README has no %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows []Row
	for _, cells := range regexp.MustCompile("(?m)^\\| (.+) \\| `(.+)` \\|$").FindAllStringSubmatch(section, -1) {
		row := Row{Name: cells[1]}
		if err := yaml.UnmarshalStrict([]byte(cells[2]), &row.Values); err != nil {
			return nil, fmt.Errorf("read situation %q: %w", row.Name, err)
		}
		rows = append(rows, row)
	}
	if wanted := strings.Count(section, "\n| ") - 1; len(rows) != wanted || wanted < 1 {
		return nil, fmt.Errorf("read situations: %d of %d rows hold values", len(rows), wanted)
	}
	return rows, nil
}

// Merge puts the values of all rows together: lists one behind the other.
func Merge(rows []Row) map[string]any {
	all := map[string]any{}
	for _, row := range rows {
		merge(all, row.Values)
	}
	return all
}

func merge(into, values map[string]any) {
	for key, value := range values {
		switch value := value.(type) {
		case map[string]any:
			if into[key] == nil {
				into[key] = map[string]any{}
			}
			merge(into[key].(map[string]any), value)
		case []any:
			before, _ := into[key].([]any)
			into[key] = append(before, value...)
		default:
			into[key] = value
		}
	}
}
