// bookstore: the programs of the bookstore, each in a pod of its own.
//
//	bookstore store      sells books at :14001: /books-bought, /buy-a-book/new; after each sale it requests one from the warehouse
//	bookstore shopper    buys (or steals) books, round after round
//	bookstore warehouse  takes requests of stores at :14001, and keeps their number in the database
//	bookstore database   a stand-in for MySQL at :3306, which speaks first as MySQL does
//	bookstore raw        prints the counters of the program in the same pod
//
// Each but the database answers GET /raw at :14001 with its counters as JSON. Environment: IDENTITY (of a store), STORE, WAREHOUSE and
// DATABASE (where they are), CLIENT (what a shopper says of itself: a header is no identity).
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// counts is what GET /raw answers.
type counts struct {
	sync.Mutex
	of   map[string]int
	last string // the newest failure
}

func (c *counts) add(name string, n int) int {
	c.Lock()
	defer c.Unlock()
	c.of[name] += n
	return c.of[name]
}

func (c *counts) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.Lock()
	defer c.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"counts": c.of, "last": c.last})
}

func (c *counts) failed(why string) {
	c.Lock()
	defer c.Unlock()
	c.of["failed"]++
	c.last = why
}

var (
	tally  = &counts{of: map[string]int{}}
	client = http.Client{Timeout: 5 * time.Second}
)

func main() {
	role := strings.Join(os.Args[1:], " ")
	mux := http.NewServeMux()
	mux.Handle("GET /raw", tally)
	for _, probe := range []string{"/liveness", "/readiness", "/startup"} {
		mux.HandleFunc("GET "+probe, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "OK") })
	}
	switch role {
	case "store":
		store(mux)
	case "shopper":
		go shop()
	case "warehouse":
		warehouse(mux)
	case "database":
		database()
	case "raw":
		raw()
		return
	default:
		fmt.Fprintln(os.Stderr, "bookstore store|shopper|warehouse|database|raw")
		os.Exit(2)
	}
	log.Fatal(http.ListenAndServe(":14001", mux))
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func store(mux *http.ServeMux) {
	identity, restock := setting("IDENTITY", "bookstore"), make(chan bool, 1000)
	answer := func(w http.ResponseWriter, text string) {
		w.Header().Set("Identity", identity)
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintln(w, text)
	}
	mux.HandleFunc("GET /books-bought", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, fmt.Sprintf("<html><h1>%s</h1><p>Books sold: %d</p></html>", identity, tally.add("sold", 0)))
	})
	mux.HandleFunc("GET /buy-a-book/new", func(w http.ResponseWriter, _ *http.Request) {
		tally.add("sold", 1)
		select {
		case restock <- true:
		default: // the warehouse is far behind; a sale does not wait for it
		}
		answer(w, "Thank you for buying a book")
	})
	go func() {
		to := "http://" + setting("WAREHOUSE", "bookwarehouse.bookwarehouse:14001") + "/restock-books"
		for range restock {
			status, _, why := call("POST", to, "1", nil)
			if status != 200 {
				tally.failed(why)
				time.Sleep(200 * time.Millisecond)
				continue
			}
			tally.add("restocked", 1)
		}
	}()
}

func shop() {
	at := "http://" + setting("STORE", "bookstore.bookstore:14001")
	claims := map[string]string{"User-Agent": "Go-http-client/1.1", "client-app": setting("CLIENT", "bookbuyer")}
	for {
		for _, path := range []string{"/books-bought", "/buy-a-book/new"} {
			status, from, why := call("GET", at+path, "", claims)
			switch {
			case status != 200:
				tally.failed(fmt.Sprintf("%s: %s", path, why))
				tally.add(strconv.Itoa(status), 1)
			case path == "/buy-a-book/new":
				tally.add("books", 1)
				tally.add(from, 1)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// call is the status of an answer (0: there was none), the identity of the store that gave it, and what it said.
func call(method, url, body string, headers map[string]string) (int, string, string) {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", err.Error()
	}
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	answer, err := client.Do(request)
	if err != nil {
		return 0, "", err.Error()
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if err != nil {
		return 0, "", err.Error()
	}
	return answer.StatusCode, answer.Header.Get("Identity"), fmt.Sprintf("%d %s", answer.StatusCode, strings.TrimSpace(string(said)))
}

func warehouse(mux *http.ServeMux) {
	changed := make(chan bool, 1)
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		said, _ := io.ReadAll(io.LimitReader(r.Body, 16))
		books, err := strconv.Atoi(strings.TrimSpace(string(said)))
		if err != nil || books < 1 || books > 1000 {
			http.Error(w, "the body is a number of books, from 1 to 1000", http.StatusBadRequest)
			return
		}
		fmt.Fprintln(w, tally.add("requested", books))
		select {
		case changed <- true:
		default:
		}
	})
	go func() {
		var lines *bufio.Reader
		var connection net.Conn
		for range changed {
			for {
				stored, err := keep(&connection, &lines, tally.add("requested", 0))
				if err == nil {
					tally.add("stored", stored-tally.add("stored", 0))
					break
				}
				tally.failed(err.Error())
				if connection != nil {
					_ = connection.Close()
					connection = nil
				}
				time.Sleep(200 * time.Millisecond)
			}
		}
	}()
}

// keep stores the total over one long-lived connection: first the database greets, then "STORE 5" is answered by "OK 5".
func keep(connection *net.Conn, lines **bufio.Reader, total int) (int, error) {
	if *connection == nil {
		dialled, err := net.DialTimeout("tcp", setting("DATABASE", "mysql.bookwarehouse:3306"), 5*time.Second)
		if err != nil {
			return 0, err
		}
		*connection, *lines = dialled, bufio.NewReader(dialled)
		_ = dialled.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := (*lines).ReadString('\n'); err != nil {
			return 0, fmt.Errorf("the database does not greet: %w", err)
		}
	}
	_ = (*connection).SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintf(*connection, "STORE %d\n", total); err != nil {
		return 0, err
	}
	line, err := (*lines).ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "OK ")))
}

func raw() {
	answer, err := client.Get("http://127.0.0.1:14001/raw")
	if err != nil {
		log.Fatal(err)
	}
	_, _ = io.Copy(os.Stdout, answer.Body)
}

func database() {
	listener, err := net.Listen("tcp", ":3306")
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
			fmt.Fprintln(connection, "HELLO")
			lines := bufio.NewScanner(connection)
			for lines.Scan() {
				number, found := strings.CutPrefix(lines.Text(), "STORE ")
				if !found {
					return
				}
				fmt.Fprintln(connection, "OK", number)
			}
		}()
	}
}
