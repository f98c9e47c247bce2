package links

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// UntrackedIPVS tells whether IPVS balances connections here without conntrack following
// them (net.ipv4.vs.conntrack). Their packets are INVALID to it then, which Calico drops on
// every interface that has an endpoint, armed or not. Nobody needs a right to read that.
func UntrackedIPVS() bool { return untracked("/proc") }

// untracked reads it in a /proc, where IPVS has no files unless its module is loaded.
func untracked(proc string) bool {
	setting, err := os.ReadFile(filepath.Join(proc, "sys/net/ipv4/vs/conntrack"))
	if err != nil || strings.TrimSpace(string(setting)) != "0" {
		return false
	}
	table, err := os.Open(filepath.Join(proc, "net/ip_vs"))
	if err != nil {
		return false
	}
	defer table.Close()
	for lines := bufio.NewScanner(table); lines.Scan(); {
		if kind, _, _ := strings.Cut(lines.Text(), " "); slices.Contains([]string{"TCP", "UDP", "SCTP", "FWM"}, kind) {
			return true
		}
	}
	return false
}
