// Verifies one SNP report over and over with go-sev-guest, and prints the nanoseconds of one.
//
// The directory that is named has report.bin, vek.der, ask.der and ark.der, of a simulated Milan.
package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/verify"
)

const rounds = 300

func read(directory, name string) []byte {
	data, err := os.ReadFile(filepath.Join(directory, name))
	check(err)
	return data
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func certificate(der []byte) *x509.Certificate {
	found, err := x509.ParseCertificate(der)
	check(err)
	return found
}

// The nanoseconds of processor time that this process has had.
func used() int64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func main() {
	directory := os.Args[1]
	report := read(directory, "report.bin")
	vek, ask, ark := read(directory, "vek.der"), read(directory, "ask.der"), read(directory, "ark.der")
	// The library's whole procedure demands AMD's own names in certificates, which no simulated
	// vendor has; these are its steps that cost something.
	once := func() error {
		leaf, issuer, root := certificate(vek), certificate(ask), certificate(ark)
		if err := root.CheckSignatureFrom(root); err != nil {
			return err
		}
		if err := issuer.CheckSignatureFrom(root); err != nil {
			return err
		}
		if err := leaf.CheckSignatureFrom(issuer); err != nil {
			return err
		}
		if _, err := abi.ReportToProto(report); err != nil {
			return err
		}
		return verify.SnpReportSignature(report, leaf)
	}
	check(once())
	started := used()
	for round := 0; round < rounds; round++ {
		check(once())
	}
	fmt.Println((used() - started) / rounds)
}
