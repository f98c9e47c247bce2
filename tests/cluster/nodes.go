package cluster

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Node reads a Node object.
func (c *Cluster) Node(ctx context.Context, name string) (*corev1.Node, error) {
	client, err := c.Client()
	if err != nil {
		return nil, err
	}
	n, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get node: %w", err)
	}
	return n, nil
}

// WatchReady notes every moment in which a node is not Ready, until stop is called, which returns them.
func (c *Cluster) WatchReady(ctx context.Context) (stop func() []string, err error) {
	client, err := c.Client()
	if err != nil {
		return nil, err
	}
	events, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	var unready []string
	var group sync.WaitGroup
	group.Go(func() {
		for e := range events.ResultChan() {
			n, ok := e.Object.(*corev1.Node)
			if !ok || e.Type == watch.Deleted {
				continue
			}
			if err := NodeReady(n); err != nil {
				unready = append(unready, err.Error())
			}
		}
	})
	return func() []string {
		events.Stop()
		group.Wait()
		return unready
	}, nil
}
