// policies enforces NetworkPolicies in the nodes of a test cluster: it watches pods, namespaces and
// policies, and on every change replaces one nftables table in each node's network namespace, at once.
//
//	policies -kubeconfig FILE PID...
//
// A PID is a process that lives in the network namespace of a node. It is for tests only: a new pod's
// traffic is free until its address is known, and connections that are open stay open.
package main

import (
	"flag"
	"fmt"
	"log"
	"os/exec"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// A refused table is tried again after this time.
const again = time.Second

func main() {
	kubeconfig := flag.String("kubeconfig", "", "of a user who may list and watch pods, namespaces and policies")
	flag.Parse()
	nodes := flag.Args()
	if len(nodes) == 0 {
		log.Fatal("policies -kubeconfig FILE PID...: no node is named")
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}

	factory := informers.NewSharedInformerFactory(client, 0)
	pods := factory.Core().V1().Pods()
	namespaces := factory.Core().V1().Namespaces()
	policies := factory.Networking().V1().NetworkPolicies()
	changed := make(chan struct{}, 1)
	tell := func(any) {
		select {
		case changed <- struct{}{}:
		default: // It is known already that something changed.
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, after any) { tell(after) }, DeleteFunc: tell}
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer(), policies.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			log.Fatal(err)
		}
	}
	factory.Start(nil)
	factory.WaitForCacheSync(nil)
	tell(nil)

	applied := make(map[string]string)
	for range changed {
		var w world
		// Listers of a synchronized cache do not fail.
		w.pods, _ = pods.Lister().List(labels.Everything())
		w.policies, _ = policies.Lister().List(labels.Everything())
		w.namespaces = make(map[string]labels.Set)
		all, _ := namespaces.Lister().List(labels.Everything())
		for _, namespace := range all {
			w.namespaces[namespace.Name] = namespace.Labels
		}
		table := w.table()
		for _, node := range nodes {
			if applied[node] == table {
				continue
			}
			if err := apply(node, table); err != nil {
				log.Printf("node of process %s: %v", node, err)
				time.AfterFunc(again, func() { tell(nil) })
				continue
			}
			applied[node] = table
		}
	}
}

// apply replaces the table in one node. nft reads it as one transaction.
func apply(node, table string) error {
	nft := exec.Command("nsenter", "-t", node, "-n", "nft", "-f", "-")
	nft.Stdin = strings.NewReader(table)
	if said, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, said)
	}
	return nil
}
