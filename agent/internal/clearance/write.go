package clearance

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// This file is what only the controller asks for.

// Data returns the data of the ConfigMap. What there is nothing to say of has no key.
func (c Clearance) Data() map[string]string {
	data := map[string]string{}
	for key, field := range c.keys() {
		if text := write(field); text != "" {
			data[key] = text
		}
	}
	return data
}

// write returns the text of a field; empty: there is nothing in it.
func write(field any) string {
	value := reflect.ValueOf(field).Elem()
	if value.IsZero() || slices.Contains([]reflect.Kind{reflect.Map, reflect.Slice}, value.Kind()) && value.Len() == 0 {
		return ""
	}
	switch v := field.(type) {
	case *[]string:
		return strings.Join(*v, " ")
	case *time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case *string, *bool, *time.Duration:
		return fmt.Sprint(value)
	}
	// Maps of texts can always be encoded, and come out in one order.
	text, _ := json.Marshal(field)
	return string(text)
}
