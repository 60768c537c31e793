// claims is a driver for ResourceClaims (dynamic resource allocation) on GPUs that do not exist, for the
// kubelet of a test node.
//
//	claims -kubeconfig FILE -node NAME DRIVER.json …
//
// A file holds {"driver": "gpu.example.com", "devices": […]}, the devices as in a ResourceSlice. A
// container that gets a device sees FAKE_CLAIM_<its name>=<driver>, set by a file of the Container
// Device Interface, as real drivers set theirs.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	resource "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
)

// Where containerd looks for devices.
const interfaces = "/var/run/cdi"

// driver is one vendor's.
type driver struct {
	Driver  string            `json:"driver"`
	Devices []resource.Device `json:"devices"`
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "of a user who may write ResourceSlices")
	node := flag.String("node", "", "name of the node")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		log.Fatal(err)
	}
	for _, file := range flag.Args() {
		if err := start(client, *node, file); err != nil {
			log.Fatalf("%s: %v", file, err)
		}
	}
	select {}
}

func start(client kubernetes.Interface, node, file string) error {
	bytes, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var vendor driver
	if err := json.Unmarshal(bytes, &vendor); err != nil {
		return err
	}
	if err := vendor.describe(); err != nil {
		return err
	}
	// The registrar needs the folder of the driver; a kubelet makes only its parent.
	if err := os.MkdirAll(filepath.Join(kubeletplugin.KubeletPluginsDir, vendor.Driver), 0o750); err != nil {
		return err
	}
	ctx := context.Background()
	helper, err := kubeletplugin.Start(ctx, vendor, kubeletplugin.DriverName(vendor.Driver),
		kubeletplugin.NodeName(node), kubeletplugin.KubeClient(client))
	if err != nil {
		return err
	}
	pool := resourceslice.Pool{Slices: []resourceslice.Slice{{Devices: vendor.Devices}}}
	return helper.PublishResources(ctx, resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{node: pool}})
}

// kind is the vendor and class of the driver's devices for containerd.
func (d driver) kind() string {
	return d.Driver + "/gpu"
}

// describe tells containerd what each device means for a container.
func (d driver) describe() error {
	type edits struct {
		Env []string `json:"env"`
	}
	type device struct {
		Name  string `json:"name"`
		Edits edits  `json:"containerEdits"`
	}
	var devices []device
	for _, offered := range d.Devices {
		variable := "FAKE_CLAIM_" + strings.ToUpper(strings.ReplaceAll(offered.Name, "-", "_"))
		devices = append(devices, device{offered.Name, edits{[]string{variable + "=" + d.Driver}}})
	}
	bytes, err := json.Marshal(map[string]any{"cdiVersion": "0.6.0", "kind": d.kind(), "devices": devices})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(interfaces, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(interfaces, d.Driver+".json"), bytes, 0o644)
}

func (d driver) PrepareResourceClaims(_ context.Context, claims []*resource.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	prepared := make(map[types.UID]kubeletplugin.PrepareResult)
	for _, claim := range claims {
		prepared[claim.UID] = d.prepare(claim)
	}
	return prepared, nil
}

func (d driver) prepare(claim *resource.ResourceClaim) kubeletplugin.PrepareResult {
	if claim.Status.Allocation == nil {
		return kubeletplugin.PrepareResult{Err: fmt.Errorf("claim %s is not allocated", claim.Name)}
	}
	var devices []kubeletplugin.Device
	for _, result := range claim.Status.Allocation.Devices.Results {
		if result.Driver != d.Driver {
			continue
		}
		devices = append(devices, kubeletplugin.Device{
			Requests:     []string{result.Request},
			PoolName:     result.Pool,
			DeviceName:   result.Device,
			CDIDeviceIDs: []string{d.kind() + "=" + result.Device},
		})
	}
	return kubeletplugin.PrepareResult{Devices: devices}
}

// UnprepareResourceClaims has nothing to undo.
func (d driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	undone := make(map[types.UID]error)
	for _, claim := range claims {
		undone[claim.UID] = nil
	}
	return undone, nil
}

func (d driver) HandleError(_ context.Context, err error, message string) {
	log.Printf("%s: %s: %v", d.Driver, message, err)
}
