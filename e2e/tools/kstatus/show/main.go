// show tells what GitOps tools make of objects: it reads what `kubectl get -o json` wrote, one object or a list, and
// writes a JSON object a line with kind, namespace, name, status and message by kstatus. Given a ConfigMap `argocd-cm`
// as a file, it adds the health that Argo CD finds with the Lua of its `resource.customizations.health.<group>_<kind>`.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/yaml"
)

type verdict struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Status    string `json:"status"`
	Message   string `json:"message"`
	Argo      string `json:"argo,omitempty"`
}

type settings struct {
	Data map[string]string `json:"data"`
}

func main() {
	var argo settings
	if len(os.Args) > 1 {
		text, err := os.ReadFile(os.Args[1])
		if err != nil {
			log.Fatal(err)
		}
		if err := yaml.Unmarshal(text, &argo); err != nil {
			log.Fatal(err)
		}
	}
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
		told := verdict{object.GetKind(), object.GetNamespace(), object.GetName(), found.Status.String(), found.Message, ""}
		if len(os.Args) > 1 {
			if told.Argo, err = argo.health(object); err != nil {
				return err
			}
		}
		return tell.Encode(told)
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

// health runs the script of the object's kind as Argo CD does: with the object as `obj`, the libraries for packages,
// basics and tables, and a table with `status` as the answer.
func (s settings) health(object *unstructured.Unstructured) (string, error) {
	kind := object.GroupVersionKind()
	script, ok := s.Data[fmt.Sprintf("resource.customizations.health.%s_%s", kind.Group, kind.Kind)]
	if !ok {
		return "", fmt.Errorf("nothing is said of %s", kind.Kind)
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), NRet: 0, Protect: true}, lua.LString(name)); err != nil {
			return "", err
		}
	}
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoString(script); err != nil {
		return "", fmt.Errorf("%s %s: %w", kind.Kind, object.GetName(), err)
	}
	answer, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return "", fmt.Errorf("%s %s: the script gives no table", kind.Kind, object.GetName())
	}
	return answer.RawGetString("status").String(), nil
}

// value makes Lua's of what JSON has.
func value(state *lua.LState, of any) lua.LValue {
	switch of := of.(type) {
	case string:
		return lua.LString(of)
	case bool:
		return lua.LBool(of)
	case int64:
		return lua.LNumber(of)
	case float64:
		return lua.LNumber(of)
	case []any:
		table := state.NewTable()
		for _, item := range of {
			table.Append(value(state, item))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for name, item := range of {
			table.RawSetString(name, value(state, item))
		}
		return table
	}
	return lua.LNil
}
