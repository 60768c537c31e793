// talk is what pods of network and device tests run. It needs nothing but itself.
//
//	talk serve 8080 9000/udp …   answers on ports
//	talk dial HOST:PORT[/udp] …  tries all at once; writes a JSON object: true for each that answered
//	talk env PREFIX              writes its environment's entries that begin so, one a line
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long an answer may take. What is forbidden is dropped in silence.
const patience = 700 * time.Millisecond

func main() {
	if len(os.Args) < 3 {
		log.Fatal("talk serve PORT… | talk dial HOST:PORT… | talk env PREFIX")
	}
	switch verb, words := os.Args[1], os.Args[2:]; verb {
	case "serve":
		for _, port := range words {
			go serve(port)
		}
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
		<-ended
	case "dial":
		answers := dial(words)
		if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
			log.Fatal(err)
		}
	case "env":
		entries := slices.DeleteFunc(os.Environ(), func(entry string) bool { return !strings.HasPrefix(entry, words[0]) })
		fmt.Println(strings.Join(entries, "\n"))
	default:
		log.Fatalf("talk cannot %s", verb)
	}
}

func serve(port string) {
	if number, udp := strings.CutSuffix(port, "/udp"); udp {
		packets, err := net.ListenPacket("udp", ":"+number)
		if err != nil {
			log.Fatal(err)
		}
		for {
			buffer := make([]byte, 64)
			length, from, err := packets.ReadFrom(buffer)
			if err != nil {
				log.Fatal(err)
			}
			_, _ = packets.WriteTo(buffer[:length], from)
		}
	}
	listener, err := net.Listen("tcp", ":"+port)
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
			_, _ = fmt.Fprintln(connection, "hello")
		}()
	}
}

func dial(targets []string) map[string]bool {
	answers := make(map[string]bool)
	var lock sync.Mutex
	var all sync.WaitGroup
	for _, target := range targets {
		all.Go(func() {
			said := answered(target)
			lock.Lock()
			defer lock.Unlock()
			answers[target] = said
		})
	}
	all.Wait()
	return answers
}

// answered tells whether one target says anything.
func answered(target string) bool {
	network := "tcp"
	address, udp := strings.CutSuffix(target, "/udp")
	if udp {
		network = "udp"
	}
	connection, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return false
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return false
	}
	if udp {
		if _, err := connection.Write([]byte("hello")); err != nil {
			return false
		}
	}
	length, err := connection.Read(make([]byte, 64))
	return err == nil && length > 0
}
