// An echo server by wasi:sockets itself, on the port that is its argument. It has no TLS code: the
// keep does TLS under the socket, and says who each client is. One client is served after the other,
// for what waits here holds the whole program up.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"unsafe"
)

// Go grows the memory and takes all of it for its own, so what the adapter needs of it is here, and
// what comes of a call: build.py finds it by its first bytes, and room.wat gives it away.
var room = [4 << 16]byte{'r', 'o', 'o', 'm', ' ', 'f', 'o', 'r', ' ', 'a', 'd', 'a', 'p', 't', 'e', 'r'}
var kept *[4 << 16]byte

// What a call gives by address; the largest is a peer, of 116 bytes. A first byte that is not zero is
// that of a failure, or of a value that there is.
var result [32]uint32

const most = 4096 // bytes that `blocking-write-and-flush` takes at once

func at() unsafe.Pointer { return unsafe.Pointer(&result) }

func there() bool { return result[0]&0xff != 0 }

// text is a string or list of bytes, of which the address and the length are in the result.
func text(word int) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(uintptr(result[word]))), result[word+1])
}

func listen(port int) int32 {
	createSocket(0, at())
	if there() {
		log.Fatalf("create: error-code %d", result[1]&0xff)
	}
	socket := int32(result[1])
	startBind(socket, instanceNetwork(), 0, int32(port), 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, at())
	for _, next := range []func(int32, unsafe.Pointer){finishBind, startListen, finishListen} {
		if there() {
			break
		}
		next(socket, at())
	}
	if there() {
		log.Fatalf("listen: error-code %d", result[0]>>8&0xff)
	}
	return socket
}

// peer is who is at the other end, as the keep read it from the certificate.
func peer(socket int32) map[string]string {
	before := given()
	defer giveBack(before)
	peerOfSocket(socket, at())
	if !there() {
		return nil
	}
	found := map[string]string{"kind": []string{"anonymous", "local", "keep"}[result[1]&0xff]}
	names := []string{"workload", "digest", "policy", "tee", "measurement", "tcb_status",
		"spiffe_id", "serial", "expires"}
	for index, name := range names {
		if word := 2 + 3*index; result[word]&0xff != 0 {
			found[name] = string(text(word + 1))
		}
	}
	return found
}

// echo sends back what comes next, and says whether there was something.
func echo(in, out int32) bool {
	before := given()
	defer giveBack(before)
	blockingRead(in, most, at())
	if there() {
		return false
	}
	came := text(1)
	blockingWriteAndFlush(out, unsafe.Pointer(unsafe.SliceData(came)), int32(len(came)), at())
	return !there()
}

func main() {
	kept = &room
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	listener := listen(port)
	next := subscribe(listener)
	fmt.Println("listening")
	for {
		block(next)
		accept(listener, at())
		if there() {
			continue // it went away again
		}
		socket, in, out := int32(result[1]), int32(result[2]), int32(result[3])
		who, err := json.Marshal(peer(socket))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("peer %s\n", who)
		for echo(in, out) {
		}
		dropInput(in)
		dropOutput(out)
		dropSocket(socket)
	}
}
