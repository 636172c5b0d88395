// Command kubelet is a kubelet as far as a device plugin can see one, out of Kubernetes' own library of
// the API and gRPC's own of Go: what a Rust test that shares the plugin's messages cannot judge.
//
//	kubelet DIRECTORY COUNT
//	kubelet allocate DIRECTORY RESOURCE=NUMBER...
//
// It empties DIRECTORY, serves kubelet.sock there, and lets COUNT plugins register; calls everything
// each of them has; restarts, as a kubelet does, and has it all again. The status is 1 if a plugin
// does anything that Kubernetes would not take.
//
// With allocate it lives once, until it has as many devices of each resource as are asked for, and
// writes what Allocate has answered as JSON: a map from the resource to the answer for its container.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const patience = 2 * time.Minute

// visit is what is done with a plugin that has registered.
type visit func(resource string, options *api.DevicePluginOptions, plugin api.DevicePluginClient) error

type registration struct {
	api.UnimplementedRegistrationServer
	directory string
	visit     visit
	plugins   chan error
}

// Register connects before it answers: a plugin that is not served by then is not registered.
func (r *registration) Register(ctx context.Context, request *api.RegisterRequest) (*api.Empty, error) {
	if request.Version != api.Version {
		return nil, fmt.Errorf("version %s, not %s", request.Version, api.Version)
	}
	dial := func(ctx context.Context, path string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	connection, err := grpc.NewClient("passthrough:///"+filepath.Join(r.directory, request.Endpoint),
		grpc.WithAuthority("localhost"), grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	plugin := api.NewDevicePluginClient(connection)
	options, err := plugin.GetDevicePluginOptions(ctx, &api.Empty{})
	if err != nil {
		return nil, err
	}
	go func() { r.plugins <- r.visit(request.ResourceName, options, plugin) }()
	return &api.Empty{}, nil
}

// use makes each call once, and leaves the list watched.
func use(resource string, options *api.DevicePluginOptions, plugin api.DevicePluginClient) error {
	ctx := context.Background()
	lists, err := plugin.ListAndWatch(ctx, &api.Empty{})
	if err != nil {
		return err
	}
	list, err := lists.Recv()
	if err != nil {
		return err
	}
	log.Printf("%s: %d devices, options %v", resource, len(list.Devices), options)
	for _, device := range list.Devices {
		if len(device.ID) > 63 || (device.Health != api.Healthy && device.Health != api.Unhealthy) {
			return fmt.Errorf("%s: %v", resource, device)
		}
	}
	if len(list.Devices) > 0 && list.Devices[0].Health == api.Healthy {
		answer, err := plugin.Allocate(ctx, allocation([]string{list.Devices[0].ID}))
		if err != nil {
			return err
		}
		log.Printf("%s: %v", resource, answer)
		for _, device := range answer.ContainerResponses[0].Devices {
			if !strings.HasPrefix(device.HostPath, "/dev/") || device.Permissions != "rw" {
				return fmt.Errorf("%s: %v", resource, device)
			}
		}
	}
	if _, err := plugin.Allocate(ctx, allocation([]string{"none such"})); status.Code(err) != codes.NotFound {
		return fmt.Errorf("%s: an unknown device: %v", resource, err)
	}
	wanted := api.ContainerPreferredAllocationRequest{
		AvailableDeviceIDs: []string{"a", "b"}, MustIncludeDeviceIDs: []string{"b"}, AllocationSize: 1,
	}
	preferred, err := plugin.GetPreferredAllocation(ctx, &api.PreferredAllocationRequest{
		ContainerRequests: []*api.ContainerPreferredAllocationRequest{&wanted},
	})
	if err != nil {
		return err
	}
	if ids := preferred.ContainerResponses[0].DeviceIDs; len(ids) != 1 || ids[0] != "b" {
		return fmt.Errorf("%s: preferred are %v", resource, ids)
	}
	_, err = plugin.PreStartContainer(ctx, &api.PreStartContainerRequest{DevicesIds: []string{"a"}})
	return err
}

func allocation(ids []string) *api.AllocateRequest {
	container := api.ContainerAllocateRequest{DevicesIds: ids}
	return &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{&container}}
}

// allocate takes devices as a kubelet does for a container that asks for count of them.
func allocate(
	resource string, count int, options *api.DevicePluginOptions, plugin api.DevicePluginClient,
) (*api.ContainerAllocateResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	lists, err := plugin.ListAndWatch(ctx, &api.Empty{})
	if err != nil {
		return nil, err
	}
	var ids []string
	for len(ids) < count {
		list, err := lists.Recv()
		if err != nil {
			return nil, fmt.Errorf("%s: %d devices are healthy, not %d: %w", resource, len(ids), count, err)
		}
		ids = nil
		for _, device := range list.Devices {
			if device.Health == api.Healthy {
				ids = append(ids, device.ID)
			}
		}
		log.Printf("%s: %d devices, %d healthy", resource, len(list.Devices), len(ids))
	}
	if options.GetPreferredAllocationAvailable {
		wanted := api.ContainerPreferredAllocationRequest{AvailableDeviceIDs: ids, AllocationSize: int32(count)}
		preferred, err := plugin.GetPreferredAllocation(ctx, &api.PreferredAllocationRequest{
			ContainerRequests: []*api.ContainerPreferredAllocationRequest{&wanted},
		})
		if err != nil {
			return nil, err
		}
		ids = preferred.ContainerResponses[0].DeviceIDs
	}
	answer, err := plugin.Allocate(ctx, allocation(ids[:count]))
	if err != nil {
		return nil, err
	}
	if options.PreStartRequired {
		if _, err := plugin.PreStartContainer(ctx, &api.PreStartContainerRequest{DevicesIds: ids[:count]}); err != nil {
			return nil, err
		}
	}
	return answer.ContainerResponses[0], nil
}

// allocateAll lives until every resource that is wanted has been allocated.
func allocateAll(directory string, wanted []string) error {
	counts := map[string]int{}
	for _, want := range wanted {
		resource, number, _ := strings.Cut(want, "=")
		count, err := strconv.Atoi(number)
		if err != nil || count < 1 {
			return fmt.Errorf("%s: not RESOURCE=NUMBER", want)
		}
		counts[resource] = count
	}
	var mutex sync.Mutex
	answers := map[string]*api.ContainerAllocateResponse{}
	visit := func(resource string, options *api.DevicePluginOptions, plugin api.DevicePluginClient) error {
		count := counts[resource]
		if count == 0 {
			return nil
		}
		answer, err := allocate(resource, count, options, plugin)
		mutex.Lock()
		defer mutex.Unlock()
		answers[resource] = answer
		return err
	}
	done := func() bool {
		mutex.Lock()
		defer mutex.Unlock()
		return len(answers) == len(counts)
	}
	if err := live(directory, visit, done); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(answers)
}

// live is one life of a kubelet; it ends when done says so, which is asked after each visit.
func live(directory string, visit visit, done func() bool) error {
	files, err := os.ReadDir(directory)
	if err != nil {
		return err
	}
	for _, file := range files {
		// The plugin may have been quicker.
		_ = os.Remove(filepath.Join(directory, file.Name()))
	}
	listener, err := net.Listen("unix", filepath.Join(directory, "kubelet.sock"))
	if err != nil {
		return err
	}
	// A kubelet that is killed leaves its socket.
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	server := grpc.NewServer()
	defer server.Stop()
	plugins := make(chan error, 64)
	api.RegisterRegistrationServer(server, &registration{directory: directory, visit: visit, plugins: plugins})
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Print(err)
		}
	}()
	for registered := 0; !done(); registered++ {
		select {
		case err := <-plugins:
			if err != nil {
				return err
			}
		case <-time.After(patience):
			return fmt.Errorf("only %d plugins have registered", registered)
		}
	}
	return nil
}

func main() {
	log.SetFlags(0)
	if os.Args[1] == "allocate" {
		if err := allocateAll(os.Args[2], os.Args[3:]); err != nil {
			log.Fatal(err)
		}
		return
	}
	count, err := strconv.Atoi(os.Args[2])
	for round := 1; err == nil && round <= 2; round++ {
		log.Printf("kubelet, life %d", round)
		left := count + 1
		err = live(os.Args[1], use, func() bool { left--; return left == 0 })
	}
	if err != nil {
		log.Fatal(err)
	}
}
