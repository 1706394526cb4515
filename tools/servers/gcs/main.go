// Google Cloud Storage for tests: fake-gcs-server, in memory, with the part of the XML API before it that clients write
// by and it lacks.
//
// What is an object, which generation it has and whether a condition holds is fake-gcs-server's. Here requests of the XML
// API become requests of its JSON API, and parts of an upload are held until it is completed.
package main

import (
	"flag"
	"log"
	"net/http"
	"strings"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

func main() {
	address := flag.String("address", "127.0.0.1:0", "host:port to listen on")
	bucket := flag.String("bucket", "weir-test", "a bucket that is there from the start")
	flag.Parse()
	fake, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true})
	if err != nil {
		log.Fatal(err)
	}
	fake.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: *bucket})
	log.Fatal(http.ListenAndServe(*address, route(fake.HTTPHandler())))
}

// By the path: the JSON API has its own, every other begins with a bucket.
func route(json http.Handler) http.Handler {
	xml := newXML(json)
	return http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		for _, own := range []string{"/storage/v1/", "/upload/", "/download/", "/_internal/"} {
			if strings.HasPrefix(request.URL.Path, own) {
				json.ServeHTTP(answer, request)
				return
			}
		}
		xml.ServeHTTP(answer, request)
	})
}
