package main

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"net/http"
	"net/url"
	"strconv"
	"sync"
)

// Uploads in parts: https://cloud.google.com/storage/docs/multipart-uploads
type uploads struct {
	lock *sync.Mutex
	last int
	open map[string]*upload
}

type upload struct {
	object   object
	metadata map[string]string
	parts    map[int]part
}

type part struct {
	etag    string
	content []byte
}

func newUploads() uploads {
	return uploads{lock: &sync.Mutex{}, open: map[string]*upload{}}
}

func (api *xmlAPI) begin(answer http.ResponseWriter, request *http.Request, object object) {
	uploads := &api.uploads
	uploads.lock.Lock()
	uploads.last++
	id := strconv.Itoa(uploads.last)
	uploads.open[id] = &upload{object: object, metadata: metadataOf(request.Header), parts: map[int]part{}}
	uploads.lock.Unlock()
	show(answer, struct {
		XMLName               xml.Name `xml:"InitiateMultipartUploadResult"`
		Bucket, Key, UploadId string
	}{Bucket: object.bucket, Key: object.name, UploadId: id})
}

func (api *xmlAPI) part(answer http.ResponseWriter, request *http.Request, object object, query url.Values) {
	number, err := strconv.Atoi(query.Get("partNumber"))
	if err != nil || number < 1 || number > 10_000 {
		fail(answer, http.StatusBadRequest, "InvalidArgument", "partNumber is 1 to 10000")
		return
	}
	content, ok := read(answer, request)
	if !ok {
		return
	}
	sum := md5.Sum(content)
	etag := strconv.Quote(hex.EncodeToString(sum[:]))
	uploads := &api.uploads
	uploads.lock.Lock()
	defer uploads.lock.Unlock()
	upload := uploads.of(object, query)
	if upload == nil {
		fail(answer, http.StatusNotFound, "NoSuchUpload", query.Get("uploadId"))
		return
	}
	upload.parts[number] = part{etag: etag, content: content}
	answer.Header().Set("ETag", etag)
}

func (api *xmlAPI) complete(answer http.ResponseWriter, request *http.Request, object object, query url.Values) {
	body, ok := read(answer, request)
	if !ok {
		return
	}
	var named struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Part    []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &named); err != nil {
		fail(answer, http.StatusBadRequest, "MalformedCompleteMultipartUploadRequest", err.Error())
		return
	}
	uploads := &api.uploads
	uploads.lock.Lock()
	defer uploads.lock.Unlock()
	upload := uploads.of(object, query)
	if upload == nil {
		fail(answer, http.StatusNotFound, "NoSuchUpload", query.Get("uploadId"))
		return
	}
	var whole bytes.Buffer
	before := 0
	for _, one := range named.Part {
		part, isThere := upload.parts[one.PartNumber]
		if !isThere || part.etag != one.ETag {
			fail(answer, http.StatusBadRequest, "InvalidPart", strconv.Itoa(one.PartNumber))
			return
		}
		if one.PartNumber <= before {
			fail(answer, http.StatusBadRequest, "InvalidPartOrder", strconv.Itoa(one.PartNumber))
			return
		}
		before = one.PartNumber
		whole.Write(part.content)
	}
	stored, ok := api.store(answer, object, whole.Bytes(), upload.metadata, "")
	if !ok {
		return
	}
	delete(uploads.open, query.Get("uploadId"))
	stored.show(answer)
	show(answer, struct {
		XMLName                     xml.Name `xml:"CompleteMultipartUploadResult"`
		Location, Bucket, Key, ETag string
	}{Location: object.path(), Bucket: object.bucket, Key: object.name, ETag: strconv.Quote(stored.Etag)})
}

func (api *xmlAPI) abort(answer http.ResponseWriter, object object, query url.Values) {
	uploads := &api.uploads
	uploads.lock.Lock()
	defer uploads.lock.Unlock()
	if uploads.of(object, query) == nil {
		fail(answer, http.StatusNotFound, "NoSuchUpload", query.Get("uploadId"))
		return
	}
	delete(uploads.open, query.Get("uploadId"))
	answer.WriteHeader(http.StatusNoContent)
}

// The upload that a request is about. nil: it has ended, or is of another object.
func (u *uploads) of(object object, query url.Values) *upload {
	upload := u.open[query.Get("uploadId")]
	if upload == nil || upload.object != object {
		return nil
	}
	return upload
}
