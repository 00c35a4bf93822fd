// An HTTP server on descriptor 3. It has no TLS code: the keep does TLS.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"example.org/garrison/languages/keep"
)

type peerKey struct{}

// echo answers a POST with its own body, and a GET with who asks.
func echo(answer http.ResponseWriter, request *http.Request) {
	if request.Method == http.MethodPost {
		if _, err := io.Copy(answer, http.MaxBytesReader(answer, request.Body, 1<<20)); err != nil {
			log.Print(err)
		}
		return
	}
	if err := json.NewEncoder(answer).Encode(request.Context().Value(peerKey{})); err != nil {
		log.Print(err)
	}
}

func main() {
	listener, err := keep.Listen(3)
	if err != nil {
		log.Fatal(err)
	}
	server := http.Server{
		Handler: http.HandlerFunc(echo),
		// Once for each connection, before its first request.
		ConnContext: func(ctx context.Context, connection net.Conn) context.Context {
			peer, err := keep.PeerOf(connection)
			if err != nil {
				log.Fatal(err)
			}
			text, err := json.Marshal(peer)
			if err != nil {
				log.Fatal(err)
			}
			fmt.Printf("peer %s\n", text)
			return context.WithValue(ctx, peerKey{}, peer)
		},
	}
	fmt.Println("listening")
	log.Fatal(server.Serve(listener))
}
