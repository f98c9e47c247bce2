package kind

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/host-firewall/host-firewall/tests/cluster"
)

// hostile makes of this process, until the test ends, one whose user has other programs, settings and habits than ours. What it starts is
// to be as ever.
func hostile(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for _, program := range []string{"bpftool", "conntrack", "ip", "ip6tables-nft-save", "ipset", "iptables-nft-save", "mount", "nft", "runc"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for name, value := range map[string]string{
		"CONTAINERD_ADDRESS":             "/theirs",
		"FELIX_FAILSAFEINBOUNDHOSTPORTS": "none",
		"GOMEMLIMIT":                     "1",
		"HELM_NAMESPACE":                 "theirs",
		"HOME":                           filepath.Join(dir, "nowhere"),
		"HTTP_PROXY":                     "http://192.0.2.254:1",
		"HTTPS_PROXY":                    "http://192.0.2.254:1",
		"KUBECONFIG":                     "/theirs",
		"LC_ALL":                         "theirs",
	} {
		t.Setenv(name, value)
	}
	mask := unix.Umask(0o077)
	t.Cleanup(func() { unix.Umask(mask) })
}

// A Felix that was built without C, as the cluster's is, panics where it finds a bpftool. The node has one of its own for a while, as if
// it had been installed on the machine.
func TestFelixStartsWhereBpftoolIsInstalled(t *testing.T) {
	local(t, "end Felix")
	node := worker(t, 1)
	onNode := func(ctx context.Context, commands string) error {
		cmd, err := nodes.Command(ctx, node, "sh", "-euc", commands)
		if err != nil {
			return err
		}
		return told(cmd)
	}
	t.Cleanup(func() { require.NoError(t, onNode(context.WithoutCancel(t.Context()), "umount /usr/local/sbin")) })
	require.NoError(t, onNode(t.Context(), `
		mount -t tmpfs none /usr/local/sbin
		printf '#!/bin/sh\necho "$@" >> /run/bpftool\nexit 1\n' > /usr/local/sbin/bpftool
		chmod +x /usr/local/sbin/bpftool
		! bpftool version
		rm /run/bpftool`))
	crash(t, node, cluster.Felix)
	eventually(t, "Felix to be ready again", func(ctx context.Context) error {
		return cluster.FelixReady(ctx, hostOf(t, node))
	})
	require.NoError(t, hostOf(t, node).Dying())
	require.NoError(t, onNode(t.Context(), "test ! -e /run/bpftool"), "Felix has found it")
}
