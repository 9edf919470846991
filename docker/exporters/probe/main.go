// Command probe asks one address and fails unless it answers with 200: for the health checks of images that
// hold nothing else.
package main

import (
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	answer, err := (&http.Client{Timeout: 3 * time.Second}).Get(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		log.Fatal(answer.Status)
	}
}
