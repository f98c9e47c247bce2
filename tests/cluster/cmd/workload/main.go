// Command workload is what runs in the test cluster's pods and listens on its nodes. As an image it is static and has
// nothing beside it.
//
//	workload                    waits for SIGTERM or SIGINT (the sandbox of a pod)
//	workload listen ADDR...     accepts TCP connections and answers UDP datagrams on every address
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if len(os.Args) > 1 && os.Args[1] == "listen" {
		for _, addr := range os.Args[2:] {
			if err := listen(addr); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			fmt.Println("listening on", addr)
		}
	}
	<-stop
}

func listen(addr string) error {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(buffer[:n], from)
		}
	}()
	return nil
}

// serve sends back what it gets until the other side has enough.
func serve(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 1500)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}
