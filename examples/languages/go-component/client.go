// Send a line to HOST:PORT and print the answer, as a component: the adapter counts descriptors in
// its own way, so who is there is read as the next event and not by the descriptor.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
)

// Go grows the memory and takes all of it for its own, so what the adapter needs of it is here:
// build.py finds it by its first bytes, and gives it to the adapter.
var kept *[4 << 16]byte

var room = [4 << 16]byte{'r', 'o', 'o', 'm', ' ', 'f', 'o', 'r', ' ', 'a', 'd', 'a', 'p', 't', 'e', 'r'}

func main() {
	kept = &room
	if len(os.Args) != 3 {
		log.Fatalf("usage: %s HOST:PORT TEXT", os.Args[0])
	}
	connection, err := os.OpenFile("/net/con/"+os.Args[1], os.O_RDWR, 0)
	if err != nil {
		log.Fatal(err)
	}
	event := struct{ Peer json.RawMessage }{}
	text, err := os.ReadFile("/net/peer/con")
	if err == nil {
		err = json.Unmarshal(text, &event)
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("peer %s\n", event.Peer)
	if _, err := fmt.Fprintln(connection, os.Args[2]); err != nil {
		log.Fatal(err)
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print("echo ", line)
	if err := connection.Close(); err != nil {
		log.Fatal(err)
	}
}
