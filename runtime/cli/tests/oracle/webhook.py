"""A receiver of webhooks: `webhook.py PORT FILE MOOD [CERTIFICATE KEY]`. Each request that it takes is a line of FILE, a JSON
array [key, content type, body], on disk before it is answered. Prints the port that it listens on.

Moods: `fair` takes everything. `moody` is busy now and then (503, or 429 with Retry-After), and takes some requests without
answering. `strict` refuses everything."""

import http.server
import json
import os
import ssl
import sys
import threading

port, path, mood = sys.argv[1:4]
file = open(path, "a")
lock = threading.Lock()
count = 0


class Receiver(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        global count
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.headers.get("Authorization") != "Bearer hush":
            return self.answer(401, "who are you?")
        with lock:
            count += 1
            number = count
            if mood == "strict":
                return self.answer(422, "the receiver wants something else")
            if mood == "moody" and number % 7 == 3:
                return self.answer(503, "busy")
            if mood == "moody" and number % 11 == 5:
                return self.answer(429, "too many", {"Retry-After": "0"})
            file.write(json.dumps([self.headers["Idempotency-Key"], self.headers["Content-Type"], body]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if mood == "moody" and number % 13 == 6:
            self.close_connection = True
            return None
        return self.answer(200, "taken")

    def do_HEAD(self):
        self.answer(405, "")

    def answer(self, status, text, headers={}):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Receiver)
if len(sys.argv) > 4:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[4], sys.argv[5])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
