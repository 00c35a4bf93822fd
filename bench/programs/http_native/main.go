// The same answer as the example's, from Go's own TLS: main PORT CERTIFICATE KEY.
package main

import (
	"crypto/tls"
	"log"
	"net/http"
	"os"
)

func main() {
	server := http.Server{
		Addr:      "127.0.0.1:" + os.Args[1],
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13},
		// HTTP/1.1 alone, as the load speaks.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
		Handler: http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
			if _, err := answer.Write([]byte("{\"kind\":\"anonymous\"}\n")); err != nil {
				log.Print(err)
			}
		}),
	}
	log.Fatal(server.ListenAndServeTLS(os.Args[2], os.Args[3]))
}
