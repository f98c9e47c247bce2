package links

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestIPVSIsUntrackedWhereItHasServicesAndNoConntrack(t *testing.T) {
	const head = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
	const service = "TCP  0A600001:01BB rr \n  -> C0000201:192B      Masq    1      0          0\n"
	for name, test := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"no IPVS":             {nil, false},
		"no services":         {map[string]string{"sys/net/ipv4/vs/conntrack": "0\n", "net/ip_vs": head}, false},
		"tracked":             {map[string]string{"sys/net/ipv4/vs/conntrack": "1\n", "net/ip_vs": head + service}, false},
		"untracked":           {map[string]string{"sys/net/ipv4/vs/conntrack": "0\n", "net/ip_vs": head + service}, true},
		"untracked, by marks": {map[string]string{"sys/net/ipv4/vs/conntrack": "0\n", "net/ip_vs": head + "FWM  00000001 rr \n"}, true},
		"services unreadable": {map[string]string{"sys/net/ipv4/vs/conntrack": "0\n"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			for file, content := range test.files {
				path := filepath.Join(proc, file)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			}
			assert.Equal(t, test.want, untracked(proc))
		})
	}
}
