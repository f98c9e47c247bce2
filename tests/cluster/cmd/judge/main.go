// Command judge judges the record of a test again (dist/records). It ends with 1 if a promise was broken.
package main

import (
	"fmt"
	"os"

	"github.com/host-firewall/host-firewall/tests/cluster/record"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "judge: name one record: go run ./tests/cluster/cmd/judge dist/records/TEST.jsonl")
		os.Exit(2)
	}
	file, err := os.Open(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "judge:", err)
		os.Exit(1)
	}
	verdicts, err := record.JudgeAll(file)
	if err != nil {
		fmt.Fprintf(os.Stderr, "judge: %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	code := 0
	for _, v := range verdicts {
		fmt.Println(v)
		if len(v.Broken) > 0 {
			code = 1
		}
	}
	os.Exit(code)
}
