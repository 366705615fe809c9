// probe: servers and clients for pods, nodes and the outside. What it prints is for tests to read.
//
//	probe serve [:8080]             HTTP: "hello from HOSTNAME to REMOTE via HOST PATH for CALLER", where a proxy says who called; each request is a line of its log
//	probe get URL [COUNT]           a line "STATUS BODY" or "error REASON" for each call, a connection each; exit 1 unless all are 200
//	probe load URL SECONDS [GAP]    calls one after the other, GAP apart (20ms), on kept connections; then one line of JSON:
//	                                {"calls": 9, "answers": {"200": 8, "error": 1}, "changes": [{"at": 1.25, "answer": "error", "why": ...}], "longest": 0.1}
//	probe greet :3306 WORDS         TCP: says WORDS first, then sends back what comes
//	probe echo :7                   TCP: sends back what comes
//	probe health                    a server for each kind of probe (health.go)
//	probe talk HOST:PORT [WORDS]    TCP: sends WORDS, prints what comes within a second; exit 1 if nothing does
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
	"strconv"
	"strings"
	"time"
)

const patience = 5 * time.Second

func main() {
	log.SetFlags(log.Lmicroseconds)
	arguments := append(os.Args[1:], "", "", "", "")
	switch arguments[0] {
	case "serve":
		serve(or(arguments[1], ":8080"))
	case "get":
		count, _ := strconv.Atoi(or(arguments[2], "1"))
		get(arguments[1], count)
	case "load":
		seconds, _ := strconv.ParseFloat(arguments[2], 64)
		gap, err := time.ParseDuration(or(arguments[3], "20ms"))
		if err != nil {
			log.Fatal(err)
		}
		load(arguments[1], time.Duration(seconds*float64(time.Second)), gap)
	case "health":
		health()
	case "greet", "echo":
		listen(arguments[1], arguments[2])
	case "talk":
		talk(arguments[1], arguments[2])
	default:
		fmt.Fprintln(os.Stderr, "probe serve|get|load|greet|echo|health|talk ARGUMENTS...")
		os.Exit(2)
	}
}

func or(given, otherwise string) string {
	if given == "" {
		return otherwise
	}
	return given
}

func serve(at string) {
	host, _ := os.Hostname()
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s from %s agent %q", r.Method, r.URL.Path, r.RemoteAddr, r.UserAgent())
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "hello from %s to %s via %s%s for %q\n", host, r.RemoteAddr, r.Host, r.URL.Path, r.Header["X-Forwarded-For"])
	})
	log.Fatal(http.ListenAndServe(at, nil))
}

func get(url string, count int) {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	bad := false
	for range count {
		status, body := call(&client, url)
		fmt.Printf("%s %s\n", status, strings.TrimSpace(body))
		bad = bad || status != "200"
	}
	if bad {
		os.Exit(1)
	}
}

// call is the status of an answer and its body, or "error" and why there is none.
func call(client *http.Client, url string) (string, string) {
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	request, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return "error", err.Error()
	}
	answer, err := client.Do(request)
	if err != nil {
		return "error", err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return "error", err.Error()
	}
	return strconv.Itoa(answer.StatusCode), string(body)
}

type change struct {
	At     float64 `json:"at"` // seconds since the first call
	Answer string  `json:"answer"`
	Why    string  `json:"why"`
}

func load(url string, length, gap time.Duration) {
	client := http.Client{Timeout: patience, Transport: &http.Transport{}}
	answers, changes, longest, last, calls := map[string]int{}, []change{}, 0.0, "", 0
	began := time.Now()
	for time.Since(began) < length {
		asked := time.Now()
		status, body := call(&client, url)
		calls++
		answers[status]++
		longest = max(longest, time.Since(asked).Seconds())
		if status != last && len(changes) < 100 {
			changes = append(changes, change{asked.Sub(began).Seconds(), status, body[:min(len(body), 200)]})
		}
		last = status
		time.Sleep(gap)
	}
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"calls": calls, "answers": answers, "changes": changes, "longest": longest})
}

func listen(at, words string) {
	listener, err := net.Listen("tcp", at)
	if err != nil {
		log.Fatal(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer connection.Close()
			if words != "" {
				fmt.Fprintln(connection, words)
			}
			_, _ = io.Copy(connection, connection)
		}()
	}
}

func talk(to, words string) {
	connection, err := net.DialTimeout("tcp", to, patience)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	defer connection.Close()
	if words != "" {
		fmt.Fprintln(connection, words)
	}
	_ = connection.SetReadDeadline(time.Now().Add(time.Second))
	heard, _ := io.ReadAll(io.LimitReader(connection, 1<<16))
	fmt.Print(string(heard))
	if len(heard) == 0 {
		os.Exit(1)
	}
}
