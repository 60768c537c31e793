// gpus is a device plugin of GPUs that do not exist, for the kubelet of a test node.
//
//	gpus RESOURCE=COUNT[:VARIABLE] …    such as nvidia.com/gpu=2:NVIDIA_VISIBLE_DEVICES
//
// A container that gets devices sees their names in FAKE_GPUS, and in the variable if one is given.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// A restarted kubelet removes all sockets, and learns of plugins only from themselves.
const look = 500 * time.Millisecond

type gpus struct {
	plugin.UnimplementedDevicePluginServer
	resource, variable string
	devices            []*plugin.Device
}

func main() {
	if len(os.Args) < 2 {
		log.Fatal("gpus RESOURCE=COUNT[:VARIABLE] …")
	}
	for _, word := range os.Args[1:] {
		offered, err := parse(word)
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			for {
				log.Print(offered.serve())
				time.Sleep(look)
			}
		}()
	}
	select {}
}

func parse(word string) (*gpus, error) {
	resource, rest, found := strings.Cut(word, "=")
	digits, variable, _ := strings.Cut(rest, ":")
	count, err := strconv.Atoi(digits)
	if !found || err != nil || count < 1 {
		return nil, fmt.Errorf("%s is not RESOURCE=COUNT[:VARIABLE]", word)
	}
	offered := &gpus{resource: resource, variable: variable}
	for number := range count {
		id := fmt.Sprintf("fake-%s-%d", strings.ReplaceAll(resource, "/", "-"), number)
		offered.devices = append(offered.devices, &plugin.Device{ID: id, Health: plugin.Healthy})
	}
	return offered, nil
}

// serve answers the kubelet until it is restarted; the error says what ended it.
func (g *gpus) serve() error {
	endpoint := "fake-" + strings.ReplaceAll(g.resource, "/", "-") + ".sock"
	socket := filepath.Join(plugin.DevicePluginPath, endpoint)
	if err := os.RemoveAll(socket); err != nil {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	plugin.RegisterDevicePluginServer(server, g)
	defer server.Stop()
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Print(err)
		}
	}()
	if err := g.register(endpoint); err != nil {
		return fmt.Errorf("%s: the kubelet did not take it: %w", g.resource, err)
	}
	for {
		time.Sleep(look)
		if _, err := os.Stat(socket); err != nil {
			return fmt.Errorf("%s: the kubelet was restarted", g.resource)
		}
	}
}

func (g *gpus) register(endpoint string) error {
	connection, err := grpc.NewClient("unix://"+plugin.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	limited, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	request := &plugin.RegisterRequest{Version: plugin.Version, Endpoint: endpoint, ResourceName: g.resource}
	_, err = plugin.NewRegistrationClient(connection).Register(limited, request)
	return err
}

func (g *gpus) GetDevicePluginOptions(context.Context, *plugin.Empty) (*plugin.DevicePluginOptions, error) {
	return &plugin.DevicePluginOptions{}, nil
}

// ListAndWatch tells once: these devices never fall ill.
func (g *gpus) ListAndWatch(_ *plugin.Empty, stream grpc.ServerStreamingServer[plugin.ListAndWatchResponse]) error {
	if err := stream.Send(&plugin.ListAndWatchResponse{Devices: g.devices}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (g *gpus) Allocate(_ context.Context, request *plugin.AllocateRequest) (*plugin.AllocateResponse, error) {
	var response plugin.AllocateResponse
	for _, container := range request.ContainerRequests {
		names := strings.Join(container.DevicesIds, ",")
		variables := map[string]string{"FAKE_GPUS": names}
		if g.variable != "" {
			variables[g.variable] = names
		}
		response.ContainerResponses = append(response.ContainerResponses, &plugin.ContainerAllocateResponse{Envs: variables})
	}
	return &response, nil
}
