// Package keep is what a Go program needs to use the network of a keep: listeners and connections
// are files, and who is at the other end of one stands in a file too.
package keep

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Peer is who is at the other end of a connection, as the keep read it from the certificate.
type Peer struct {
	Kind        string `json:"kind"` // "anonymous", "local" or "keep"
	Workload    string `json:"workload,omitempty"`
	Digest      string `json:"digest,omitempty"`
	TEE         string `json:"tee,omitempty"`
	Measurement string `json:"measurement,omitempty"`
	TCBStatus   string `json:"tcb_status,omitempty"`
	Policy      string `json:"policy,omitempty"` // digest of the policy that it was deployed with
	SpiffeID    string `json:"spiffe_id,omitempty"`
	Serial      string `json:"serial,omitempty"`  // of its certificate, hex
	Expires     string `json:"expires,omitempty"` // its certificate, RFC 3339
}

// Event is a connection that was made, or accepted.
type Event struct {
	Host string `json:"host,omitempty"` // whom this side connected to,
	Port uint16 `json:"port,omitempty"`
	Addr string `json:"addr,omitempty"` // or who came
	Peer Peer   `json:"peer"`
}

// Connected takes the next connection that was made, of those that were not taken yet; where there
// is none the error is syscall.EAGAIN.
func Connected() (Event, error) { return next("con") }

// Accepted is the same of connections that were accepted.
func Accepted() (Event, error) { return next("lis") }

func next(direction string) (Event, error) {
	var event Event
	text, err := os.ReadFile("/net/peer/" + direction)
	if err != nil {
		return event, err
	}
	return event, json.Unmarshal(text, &event)
}

// Listen takes the listener that the keep opened as descriptor fd.
func Listen(fd uintptr) (net.Listener, error) {
	if err := syscall.SetNonblock(int(fd), true); err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	file := os.NewFile(fd, "listener")
	defer file.Close()
	return net.FileListener(file)
}

// Dial connects to address; it fits http.Transport.DialContext.
func Dial(_ context.Context, _, address string) (net.Conn, error) {
	fd, err := syscall.Open("/net/con/"+address, syscall.O_RDWR, 0)
	if err == nil {
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("%s: %w", address, err)}
	}
	file := os.NewFile(uintptr(fd), address)
	defer file.Close()
	return net.FileConn(file)
}

// PeerOf asks the keep who is at the other end of connection.
func PeerOf(connection net.Conn) (Peer, error) {
	var peer Peer
	holder, ok := connection.(syscall.Conn)
	if !ok {
		return peer, fmt.Errorf("%T has no descriptor", connection)
	}
	raw, err := holder.SyscallConn()
	if err != nil {
		return peer, err
	}
	var text []byte
	var failed error
	err = raw.Control(func(fd uintptr) {
		text, failed = os.ReadFile(fmt.Sprintf("/net/peer/fd/%d", fd))
	})
	if err != nil {
		return peer, err
	}
	if failed != nil {
		return peer, failed
	}
	return peer, json.Unmarshal(text, &peer)
}
