// Grows its heap beside an adapter from preview 1, and looks whether what lies there stays as it is.
package main

import (
	"crypto/sha256"
	"fmt"
	"os"
)

var kept *[4 << 16]byte

var room = [4 << 16]byte{'r', 'o', 'o', 'm', ' ', 'f', 'o', 'r', ' ', 'a', 'd', 'a', 'p', 't', 'e', 'r'}

type block struct {
	data   []byte
	digest [32]byte
}

func main() {
	kept = &room
	var blocks []block
	for round := range 8 {
		for index := range 64 {
			data := make([]byte, 64<<10)
			for at := range data {
				data[at] = byte(at * (index + round))
			}
			blocks = append(blocks, block{data, sha256.Sum256(data)})
		}
		// Each is some calls by way of the adapter.
		name := fmt.Sprintf("/tmp/%d", round)
		if err := os.WriteFile(name, blocks[round].data, 0o600); err != nil {
			panic(err)
		}
		back, err := os.ReadFile(name)
		if err != nil || sha256.Sum256(back) != blocks[round].digest {
			panic(fmt.Sprint("another file: ", err))
		}
		for _, each := range blocks {
			if sha256.Sum256(each.data) != each.digest {
				panic("another block")
			}
		}
	}
	fmt.Println("good", len(blocks), os.Args[1])
}
