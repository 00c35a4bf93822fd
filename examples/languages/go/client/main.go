// Send a line to HOST:PORT over HTTP and print the answer. The URL says http: the keep does TLS.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"

	"example.org/garrison/languages/keep"
)

// dial connects, and prints who is there.
func dial(ctx context.Context, network, address string) (net.Conn, error) {
	connection, err := keep.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	peer, err := keep.PeerOf(connection)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(peer)
	fmt.Printf("peer %s\n", text)
	return connection, err
}

func main() {
	if len(os.Args) != 3 {
		log.Fatalf("usage: %s HOST:PORT TEXT", os.Args[0])
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial}}
	answer, err := client.Post("http://"+os.Args[1]+"/", "text/plain", strings.NewReader(os.Args[2]))
	if err != nil {
		log.Fatal(err)
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("echo %s\n", text)
}
