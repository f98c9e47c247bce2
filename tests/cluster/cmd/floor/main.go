// Command floor is the least that could keep a node's host endpoint: it watches that one object and creates it whenever it
// isn't there. It knows no policies, no addresses and no other owners. Package bench measures the agent against it.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	v3 "github.com/projectcalico/api/pkg/apis/projectcalico/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const resource = "hostendpoints"

var group = schema.GroupVersion{Group: "crd.projectcalico.org", Version: "v1"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	labelled, err := labels.ConvertSelectorToLabelsMap(os.Getenv("LABELS"))
	if err != nil {
		log.Fatal("read LABELS: ", err)
	}
	node := os.Getenv("NODE_NAME")
	if err := keep(ctx, &v3.HostEndpoint{
		TypeMeta:   metav1.TypeMeta{APIVersion: group.String(), Kind: v3.KindHostEndpoint},
		ObjectMeta: metav1.ObjectMeta{Name: node, Labels: labelled},
		Spec: v3.HostEndpointSpec{
			Node: node, InterfaceName: "*", Profiles: []string{"projectcalico-default-allow"},
			ExpectedIPs: strings.Split(os.Getenv("ADDRESSES"), ","),
		},
	}); err != nil {
		log.Fatal(err)
	}
}

func keep(ctx context.Context, wanted *v3.HostEndpoint) error {
	client, err := newClient()
	if err != nil {
		return err
	}
	gone := make(chan struct{}, 1)
	look := func() {
		select {
		case gone <- struct{}{}:
		default:
		}
	}
	source := cache.NewListWatchFromClient(client, resource, "", fields.OneTermEqualSelector(metav1.ObjectNameField, wanted.Name))
	informer := cache.NewSharedInformer(source, &v3.HostEndpoint{}, 0)
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(any) { look() }}); err != nil {
		return fmt.Errorf("watch host endpoint: %w", err)
	}
	go informer.RunWithContext(ctx)
	if !cache.WaitFor(ctx, "", informer.HasSyncedChecker()) {
		return nil
	}
	look()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-gone:
		}
		if len(informer.GetStore().ListKeys()) > 0 {
			continue
		}
		if err := create(ctx, client, wanted); err != nil {
			log.Print(err)
			time.AfterFunc(time.Second, look)
		}
	}
}

func newClient() (rest.Interface, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("read access to the API server: %w", err)
	}
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(group, &v3.HostEndpoint{}, &v3.HostEndpointList{})
	metav1.AddToGroupVersion(scheme, group)
	config.APIPath, config.GroupVersion = "/apis", &group
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return client, nil
}

func create(ctx context.Context, client rest.Interface, wanted *v3.HostEndpoint) error {
	err := client.Post().Resource(resource).Body(wanted).Do(ctx).Error()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create host endpoint: %w", err)
	}
	return nil
}
