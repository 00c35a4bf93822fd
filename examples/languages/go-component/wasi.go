package main

import "unsafe"

// What the server calls, as the canonical ABI has it: handles and numbers go as they are, a result that
// is larger than one number comes by way of an address. room.wat gives the lists in it their place.

//go:wasmimport wasi:sockets/instance-network@0.2.0 instance-network
func instanceNetwork() int32

//go:wasmimport wasi:sockets/tcp-create-socket@0.2.0 create-tcp-socket
func createSocket(family int32, result unsafe.Pointer)

// The address is of IPv4, and so case 0; six more words are there for the other case.
//
//go:wasmimport wasi:sockets/tcp@0.2.0 [method]tcp-socket.start-bind
func startBind(socket, network, kind, port, a, b, c, d, _, _, _, _, _, _ int32, result unsafe.Pointer)

//go:wasmimport wasi:sockets/tcp@0.2.0 [method]tcp-socket.finish-bind
func finishBind(socket int32, result unsafe.Pointer)

//go:wasmimport wasi:sockets/tcp@0.2.0 [method]tcp-socket.start-listen
func startListen(socket int32, result unsafe.Pointer)

//go:wasmimport wasi:sockets/tcp@0.2.0 [method]tcp-socket.finish-listen
func finishListen(socket int32, result unsafe.Pointer)

//go:wasmimport wasi:sockets/tcp@0.2.0 [method]tcp-socket.accept
func accept(socket int32, result unsafe.Pointer)

//go:wasmimport wasi:sockets/tcp@0.2.0 [method]tcp-socket.subscribe
func subscribe(socket int32) int32

//go:wasmimport wasi:sockets/tcp@0.2.0 [resource-drop]tcp-socket
func dropSocket(socket int32)

//go:wasmimport wasi:io/poll@0.2.0 [method]pollable.block
func block(pollable int32)

//go:wasmimport wasi:io/poll@0.2.0 [resource-drop]pollable
func dropPollable(pollable int32)

//go:wasmimport wasi:io/streams@0.2.0 [method]input-stream.blocking-read
func blockingRead(stream int32, most int64, result unsafe.Pointer)

//go:wasmimport wasi:io/streams@0.2.0 [method]output-stream.blocking-write-and-flush
func blockingWriteAndFlush(stream int32, data unsafe.Pointer, size int32, result unsafe.Pointer)

//go:wasmimport wasi:io/streams@0.2.0 [resource-drop]input-stream
func dropInput(stream int32)

//go:wasmimport wasi:io/streams@0.2.0 [resource-drop]output-stream
func dropOutput(stream int32)

//go:wasmimport garrison:keep/peer@0.1.0 of-socket
func peerOfSocket(socket int32, result unsafe.Pointer)

// Of the room, what is given away: it is given back at once, by what it was before.

//go:wasmimport room given
func given() int32

//go:wasmimport room give-back
func giveBack(to int32)
