package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
)

// What one request may carry: far more than a part of an upload.
const maxBodyBytes = 256 << 20

// As the service has it.
const maxKeys = 1000

const metadataPrefix = "X-Goog-Meta-"

// The XML API: https://cloud.google.com/storage/docs/xml-api/reference-methods
type xmlAPI struct {
	json    http.Handler
	uploads uploads
}

func newXML(json http.Handler) *xmlAPI {
	return &xmlAPI{json: json, uploads: newUploads()}
}

func (api *xmlAPI) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	bucket, name, _ := strings.Cut(strings.TrimPrefix(request.URL.Path, "/"), "/")
	query := request.URL.Query()
	object := object{bucket: bucket, name: name}
	switch {
	case bucket == "":
		fail(answer, http.StatusBadRequest, "InvalidURI", "no bucket is named")
	case name == "" && request.Method == http.MethodGet:
		api.list(answer, bucket, query)
	case name == "":
		fail(answer, http.StatusMethodNotAllowed, "MethodNotAllowed", "of a bucket only its list is to be had")
	case request.Method == http.MethodGet || request.Method == http.MethodHead:
		api.pass(answer, request.Method, "/download"+object.path()+"?alt=media", request.Header, nil)
	case request.Method == http.MethodDelete && query.Has("uploadId"):
		api.abort(answer, object, query)
	case request.Method == http.MethodDelete:
		api.delete(answer, object)
	case request.Method == http.MethodPost && query.Has("uploads"):
		api.begin(answer, request, object)
	case request.Method == http.MethodPost && query.Has("uploadId"):
		api.complete(answer, request, object, query)
	case request.Method == http.MethodPut && query.Has("uploadId"):
		api.part(answer, request, object, query)
	case request.Method == http.MethodPut:
		api.put(answer, request, object)
	default:
		fail(answer, http.StatusMethodNotAllowed, "MethodNotAllowed", request.Method)
	}
}

type object struct {
	bucket, name string
}

// Of the JSON API.
func (o object) path() string {
	return "/storage/v1/b/" + url.PathEscape(o.bucket) + "/o/" + url.PathEscape(o.name)
}

func (api *xmlAPI) put(answer http.ResponseWriter, request *http.Request, object object) {
	content, ok := read(answer, request)
	if !ok {
		return
	}
	stored, ok := api.store(answer, object, content, metadataOf(request.Header), request.Header.Get("X-Goog-If-Generation-Match"))
	if ok {
		stored.show(answer)
	}
}

type stored struct {
	Generation string `json:"generation"`
	Etag       string `json:"etag"`
}

func (s stored) show(answer http.ResponseWriter) {
	answer.Header().Set("X-Goog-Generation", s.Generation)
	answer.Header().Set("ETag", strconv.Quote(s.Etag))
}

// Writes an object, under the condition that its generation is this one where one is given: 0 is that there is none.
func (api *xmlAPI) store(answer http.ResponseWriter, object object, content []byte, metadata map[string]string, generation string) (stored, bool) {
	description, err := json.Marshal(map[string]any{"name": object.name, "metadata": metadata})
	if err != nil {
		fail(answer, http.StatusBadRequest, "InvalidArgument", err.Error())
		return stored{}, false
	}
	var body bytes.Buffer
	parts := multipart.NewWriter(&body)
	for _, part := range []struct {
		kind string
		of   []byte
	}{{"application/json", description}, {"application/octet-stream", content}} {
		writer, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {part.kind}})
		if err == nil {
			_, err = writer.Write(part.of)
		}
		if err != nil {
			fail(answer, http.StatusInternalServerError, "InternalError", err.Error())
			return stored{}, false
		}
	}
	parts.Close()
	query := url.Values{"uploadType": {"multipart"}, "name": {object.name}}
	if generation != "" {
		query.Set("ifGenerationMatch", generation)
	}
	header := http.Header{"Content-Type": {"multipart/related; boundary=" + parts.Boundary()}}
	said := api.ask(http.MethodPost, "/upload/storage/v1/b/"+url.PathEscape(object.bucket)+"/o?"+query.Encode(), header, &body)
	var written stored
	if said.Code != http.StatusOK {
		failAs(answer, said)
		return stored{}, false
	}
	if err := json.Unmarshal(said.Body.Bytes(), &written); err != nil {
		fail(answer, http.StatusInternalServerError, "InternalError", err.Error())
		return stored{}, false
	}
	return written, true
}

func (api *xmlAPI) delete(answer http.ResponseWriter, object object) {
	said := api.ask(http.MethodDelete, object.path(), nil, nil)
	if said.Code >= http.StatusBadRequest {
		failAs(answer, said)
		return
	}
	answer.WriteHeader(http.StatusNoContent)
}

type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Name                  string
	Prefix                string
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []content
	CommonPrefixes        []commonPrefix
}

type content struct {
	Key, Generation, LastModified, ETag, Size string
}

type commonPrefix struct {
	Prefix string
}

func (api *xmlAPI) list(answer http.ResponseWriter, bucket string, query url.Values) {
	limit := maxKeys
	if asked, err := strconv.Atoi(query.Get("max-keys")); err == nil && asked > 0 && asked < maxKeys {
		limit = asked
	}
	after := query.Get("start-after")
	of := url.Values{"maxResults": {strconv.Itoa(limit)}}
	for own, name := range map[string]string{"prefix": "prefix", "delimiter": "delimiter", "pageToken": "continuation-token"} {
		if value := query.Get(name); value != "" {
			of.Set(own, value)
		}
	}
	if after != "" {
		// The JSON API begins with it, the XML API behind it.
		of.Set("startOffset", after+"\x00")
	}
	said := api.ask(http.MethodGet, "/storage/v1/b/"+url.PathEscape(bucket)+"/o?"+of.Encode(), nil, nil)
	if said.Code != http.StatusOK {
		failAs(answer, said)
		return
	}
	var found struct {
		Items []struct {
			Name, Generation, Updated, Etag, Size string
		}
		Prefixes      []string
		NextPageToken string
	}
	if err := json.Unmarshal(said.Body.Bytes(), &found); err != nil {
		fail(answer, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	listed := listing{Name: bucket, Prefix: query.Get("prefix"), NextContinuationToken: found.NextPageToken}
	listed.IsTruncated = found.NextPageToken != ""
	for _, item := range found.Items {
		listed.Contents = append(listed.Contents, content{item.Name, item.Generation, item.Updated, strconv.Quote(item.Etag), item.Size})
	}
	for _, prefix := range found.Prefixes {
		listed.CommonPrefixes = append(listed.CommonPrefixes, commonPrefix{prefix})
	}
	show(answer, listed)
}

// Asks the JSON API.
func (api *xmlAPI) ask(method, path string, header http.Header, body io.Reader) *httptest.ResponseRecorder {
	said := httptest.NewRecorder()
	api.pass(said, method, path, header, body)
	return said
}

func (api *xmlAPI) pass(answer http.ResponseWriter, method, path string, header http.Header, body io.Reader) {
	request := httptest.NewRequest(method, path, body)
	if header != nil {
		request.Header = header.Clone()
		// It would be compressed, which the service does for objects that are stored so.
		request.Header.Del("Accept-Encoding")
	}
	api.json.ServeHTTP(answer, request)
}

func metadataOf(header http.Header) map[string]string {
	metadata := map[string]string{}
	for name := range header {
		if key, isOwn := strings.CutPrefix(name, metadataPrefix); isOwn {
			metadata[strings.ToLower(key)] = header.Get(name)
		}
	}
	return metadata
}

func read(answer http.ResponseWriter, request *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(answer, request.Body, maxBodyBytes))
	if err != nil {
		fail(answer, http.StatusBadRequest, "IncompleteBody", err.Error())
		return nil, false
	}
	return body, true
}

func show(answer http.ResponseWriter, value any) {
	text, err := xml.Marshal(value)
	if err != nil {
		fail(answer, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	answer.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	io.WriteString(answer, xml.Header)
	answer.Write(text)
}

// With the status that the JSON API said.
func failAs(answer http.ResponseWriter, said *httptest.ResponseRecorder) {
	codes := map[int]string{http.StatusNotFound: "NoSuchKey", http.StatusPreconditionFailed: "PreconditionFailed"}
	code, isKnown := codes[said.Code]
	if !isKnown {
		code = "InternalError"
	}
	fail(answer, said.Code, code, said.Body.String())
}

func fail(answer http.ResponseWriter, status int, code, message string) {
	answer.Header().Set("Content-Type", "application/xml; charset=UTF-8")
	answer.WriteHeader(status)
	text, _ := xml.Marshal(struct {
		XMLName       xml.Name `xml:"Error"`
		Code, Message string
	}{Code: code, Message: message})
	io.WriteString(answer, xml.Header+string(text))
}
