package helm_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// manyNetworks are a company's VPN and office networks, of both families.
func manyNetworks(count int) []string {
	networks := make([]string, count)
	for i := range networks {
		high, low := byte(i>>8), byte(i)
		networks[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, high, low, 0}), 26+i%7).String()
		if i%2 == 1 {
			networks[i] = fmt.Sprintf("2001:db8:%x:%x::/%d", high, low, 64+i%65)
		}
	}
	return networks
}

func sshFor(networks []string) setting {
	return setting{values: fmt.Sprintf(`ssh: {cidrs: ["%s"]}`, strings.Join(networks, `", "`))}
}

func TestThousandsOfNetworksAreLetInAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	given := manyNetworks(2000)
	r := render(t, sshFor(append(given, given[:10]...)))
	rules := r.policy(t, "allow-ssh").Spec.Ingress
	require.Len(t, rules, 2)
	isIPv6 := func(network string) bool { return strings.Contains(network, ":") }
	v6 := slices.DeleteFunc(slices.Clone(given), func(network string) bool { return !isIPv6(network) })
	require.Equal(t, slices.DeleteFunc(slices.Clone(given), isIPv6), rules[0].Source.Nets)
	require.Equal(t, v6, rules[1].Source.Nets)
	require.Equal(t, strings.Join(given, ","), argumentsOf(t, r)["ssh-cidrs"])
}

// 2,000 have to render within two seconds on a slow machine.
func BenchmarkThousandsOfNetworks(b *testing.B) {
	for _, count := range []int{2000, 4000} {
		s := sshFor(manyNetworks(count))
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			for range b.N {
				_, err := tryRenderChart(b, chartWith(b, s.reused), s)
				require.NoError(b, err)
			}
		})
	}
}

// Everybody, cut into pieces at random, is still everybody; and is not, as soon as a piece is missing.
func TestPiecesOfEverybodyAreEverybody(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(15, 0))
	for _, whole := range []string{"0.0.0.0/0", "2000::/3"} {
		for range 5 {
			pieces := []netip.Prefix{netip.MustParsePrefix(whole)}
			for range 1 + random.IntN(60) {
				i := random.IntN(len(pieces))
				if pieces[i].IsSingleIP() {
					continue
				}
				low, high := halves(pieces[i])
				pieces[i] = low
				pieces = append(pieces, high)
			}
			random.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
			texts := []string{pieces[0].String()} // one that others contain, or that is there twice
			for _, piece := range pieces {
				texts = append(texts, piece.String())
			}
			_, err := tryRender(t, sshFor(texts))
			require.ErrorContains(t, err, "leaves nobody out", texts)

			// 128.0.0.0 and 2000:: are somebody's, whatever the pieces that begin there.
			missing := slices.IndexFunc(pieces, func(piece netip.Prefix) bool {
				return slices.Contains([]string{"128.0.0.0", "2000::"}, piece.Addr().String())
			})
			render(t, sshFor(slices.DeleteFunc(texts, func(text string) bool { return text == pieces[missing].String() })))
		}
	}
}

// halves are the two networks that make up one.
func halves(network netip.Prefix) (low, high netip.Prefix) {
	bits := network.Bits() + 1
	address := network.Addr().AsSlice()
	address[(bits-1)/8] |= 0x80 >> ((bits - 1) % 8)
	last, _ := netip.AddrFromSlice(address)
	return netip.PrefixFrom(network.Addr(), bits), netip.PrefixFrom(last, bits)
}
