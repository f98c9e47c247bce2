package cluster

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Access is a way to a cluster's API server with every right: the path of a kubeconfig, for use on the machine.
type Access string

// Kubeconfig is its path.
func (a Access) Kubeconfig() string { return string(a) }

// RESTConfig reads Kubeconfig.
func (a Access) RESTConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", a.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	config.QPS = -1 // no limit: a limiter's error would hide what a test waits for
	return config, nil
}

// Client is a client with every right.
func (a Access) Client() (kubernetes.Interface, error) {
	config, err := a.RESTConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}

// Node reads a Node object.
func (a Access) Node(ctx context.Context, name string) (*corev1.Node, error) {
	client, err := a.Client()
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
func (a Access) WatchReady(ctx context.Context) (stop func() []string, err error) {
	client, err := a.Client()
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
