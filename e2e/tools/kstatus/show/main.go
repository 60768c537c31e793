// show tells what GitOps tools make of objects: it reads what `kubectl get -o json` wrote, one object or a list, and
// writes a JSON object a line with kind, namespace, name, status and message by kstatus.
package main

import (
	"encoding/json"
	"log"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type verdict struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Status    string `json:"status"`
	Message   string `json:"message"`
}

func main() {
	var read unstructured.Unstructured
	if err := json.NewDecoder(os.Stdin).Decode(&read); err != nil {
		log.Fatal(err)
	}
	tell := json.NewEncoder(os.Stdout)
	show := func(object *unstructured.Unstructured) error {
		found, err := status.Compute(object)
		if err != nil {
			return err
		}
		return tell.Encode(verdict{object.GetKind(), object.GetNamespace(), object.GetName(), found.Status.String(), found.Message})
	}
	var err error
	if read.IsList() {
		err = read.EachListItem(func(item runtime.Object) error { return show(item.(*unstructured.Unstructured)) })
	} else {
		err = show(&read)
	}
	if err != nil {
		log.Fatal(err)
	}
}
