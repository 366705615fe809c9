package main

import (
	"context"
	"flag"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	_ "github.com/k3s-io/kine/pkg/drivers/sqlite" // the only one: the others bring 250 packages
	"github.com/k3s-io/kine/pkg/server"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// kine serves etcd's API at a Unix socket, out of one SQLite file: what a k3s server keeps its objects in.
func kine(arguments []string) {
	flags := flag.NewFlagSet("kine", flag.ExitOnError)
	socket := flags.String("socket", "", "path of the Unix socket")
	database := flags.String("database", "", "sqlite://PATH?PARAMETERS")
	_ = flags.Parse(arguments)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	_, backend, err := drivers.New(ctx, &sync.WaitGroup{}, &drivers.Config{
		Endpoint:             *database,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 20, MaxIdleTime: 2 * time.Minute},
		CompactTimeout:       5 * time.Second,
		CompactMinRetain:     1000,
		CompactBatchSize:     1000,
		PollBatchSize:        500,
		PollInterval:         time.Second,
	})
	if err == nil {
		err = backend.Start(ctx)
	}
	if err != nil {
		logrus.Fatal(err)
	}
	_ = os.Remove(*socket)
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		logrus.Fatal(err)
	}
	serving := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
		grpc.MaxRecvMsgSize(2<<20), grpc.MaxSendMsgSize(1<<31-1))
	server.New(backend, "unix", 5*time.Second, "3.6.11").Register(serving)
	go func() {
		<-ctx.Done()
		serving.Stop()
	}()
	if err := serving.Serve(listener); err != nil {
		logrus.Fatal(err)
	}
}
