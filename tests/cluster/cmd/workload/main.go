// Command workload is what runs in the test cluster's pods and listens on its nodes. As an image it is static and has
// nothing beside it.
//
//	workload                    waits for SIGTERM or SIGINT (the sandbox of a pod)
//	workload say WORD...        says that and ends
//	workload listen ADDR...     accepts TCP connections and answers UDP datagrams on every address
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if len(os.Args) > 1 && os.Args[1] == "say" {
		fmt.Println(strings.Join(os.Args[2:], " "))
		return
	}
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
	udp, err := listenUDP(addr)
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
	go answer(udp)
	return nil
}

// listenUDP opens a socket that tells with each datagram which of this host's addresses it was sent to.
func listenUDP(addr string) (*net.UDPConn, error) {
	parsed, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", parsed)
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1) })
	return conn, errors.Join(controlErr, err)
}

// answer sends every datagram back, from the address that it was sent to: the kernel would choose one by the route, and nobody
// asked that one.
func answer(conn *net.UDPConn) {
	buffer, info := make([]byte, 1500), make([]byte, 256)
	for {
		n, infos, _, from, err := conn.ReadMsgUDPAddrPort(buffer, info)
		if err != nil {
			return
		}
		_, _, _ = conn.WriteMsgUDPAddrPort(buffer[:n], info[:infos], from)
	}
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
