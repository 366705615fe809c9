// kubernetes: the API server, the controllers, the scheduler, the kubelet, kube-proxy, kubectl and kine in one program,
// since the linker's minutes and the pages in memory are then paid once.
//
//	kubernetes apiserver|controller-manager|scheduler|kubelet|proxy|kubectl|kine ARGUMENTS...
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var servers = map[string]func() *cobra.Command{
	"apiserver":          apiserver.NewAPIServerCommand,
	"controller-manager": controllers.NewControllerManagerCommand,
	"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"proxy":              proxy.NewProxyCommand,
	// It installs the signal handlers itself, and takes no context that has them already.
	"kubelet": func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
}

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	name := os.Args[1]
	os.Args = os.Args[1:]
	switch {
	case name == "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
	case name == "kine":
		kine(os.Args[1:])
	case servers[name] != nil:
		os.Exit(cli.Run(servers[name]()))
	default:
		usage()
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "kubernetes apiserver|controller-manager|scheduler|kubelet|proxy|kubectl|kine ARGUMENTS...")
	os.Exit(2)
}
