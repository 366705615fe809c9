package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log"
	"math/big"
	"net/http"
	"time"
)

// health serves each kind of probe at a port of its own: HTTP at 8080 (what `serve` does), HTTPS at 8443, gRPC at 9000, TCP
// that says nothing at 7000; and HTTP at 8081, which no probe names.
func health() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, of, of, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	secured := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}
	go func() { log.Fatal((&http.Server{Addr: ":8443", TLSConfig: secured}).ListenAndServeTLS("", "")) }()

	// grpc.health.v1.Health/Check without a library: its answer is one message, {status: SERVING}, behind five bytes of length.
	check := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("content-type", "application/grpc")
		w.Header().Set("trailer", "grpc-status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8, 1})
		w.Header().Set("grpc-status", "0")
	})
	clear := new(http.Protocols)
	clear.SetUnencryptedHTTP2(true)
	go func() { log.Fatal((&http.Server{Addr: ":9000", Handler: check, Protocols: clear}).ListenAndServe()) }()
	go listen(":7000", "")
	go func() { log.Fatal(http.ListenAndServe(":8081", nil)) }()
	serve(":8080")
}
