package controller

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// dialFor is how long a kubelet has to answer: the handshake takes milliseconds, and a first
// packet that was lost is sent again only after a second.
const dialFor = time.Second

// dial dials side by side, as many as it is told, and makes the loop look at the answers when all
// are there.
func (k *Controller) dial(ctx context.Context, dials []dial) {
	if len(dials) == 0 {
		return
	}
	var all sync.WaitGroup
	for _, one := range dials {
		all.Go(func() {
			a := answer{dial: one}
			if err := k.dialOne(ctx, one.to); err != nil {
				a.problem = err.Error()
			}
			k.mu.Lock()
			defer k.mu.Unlock()
			k.answers = append(k.answers, a)
		})
	}
	go func() { all.Wait(); k.Wake() }()
}

func (k *Controller) dialOne(ctx context.Context, to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, dialFor)
	defer cancel()
	err := k.config.Dial(ctx, to)
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		// Without its address it is the same for many nodes.
		return op.Err
	}
	return err
}

// connect connects by TCP, and ends the connection.
func connect(ctx context.Context, to netip.AddrPort) error {
	connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	return connection.Close()
}
