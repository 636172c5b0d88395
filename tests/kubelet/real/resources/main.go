// Command resources asks a kubelet, by its API PodResources, which devices it has and who holds them.
//
//	resources SOCKET
//
// writes JSON: how many devices of each resource can be allocated, healthy ones alone; and for each
// container that holds any, "namespace/pod/container", how many of which resource.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
)

const patience = time.Minute

type answer struct {
	Allocatable map[string]int            `json:"allocatable"`
	Held        map[string]map[string]int `json:"held"`
}

func ask(socket string) (*answer, error) {
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	kubelet := api.NewPodResourcesListerClient(connection)
	all, err := kubelet.GetAllocatableResources(ctx, &api.AllocatableResourcesRequest{})
	if err != nil {
		return nil, err
	}
	pods, err := kubelet.List(ctx, &api.ListPodResourcesRequest{})
	if err != nil {
		return nil, err
	}
	answer := &answer{Allocatable: count(all.Devices), Held: map[string]map[string]int{}}
	for _, pod := range pods.PodResources {
		for _, container := range pod.Containers {
			if len(container.Devices) > 0 {
				answer.Held[pod.Namespace+"/"+pod.Name+"/"+container.Name] = count(container.Devices)
			}
		}
	}
	return answer, nil
}

// count adds up the devices of each resource: the kubelet may tell of them in several pieces.
func count(devices []*api.ContainerDevices) map[string]int {
	counts := map[string]int{}
	for _, some := range devices {
		counts[some.ResourceName] += len(some.DeviceIds)
	}
	return counts
}

func main() {
	log.SetFlags(0)
	answer, err := ask(os.Args[1])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(answer)
	}
	if err != nil {
		log.Fatal(err)
	}
}
