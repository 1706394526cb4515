"""One request over HTTPS, as a client that shares no code with the server: prints the status and the body, or what TLS
finds wrong.

https.py METHOD URL CA_FILE SERVER_NAME [--token TOKEN] [--certificate FOLDER] [--tls12]
"""

import argparse
import http.client
import socket
import ssl
import sys
from urllib.parse import urlsplit

parser = argparse.ArgumentParser()
for name in ("method", "url", "ca_file", "server_name"):
    parser.add_argument(name)
parser.add_argument("--token")
parser.add_argument("--certificate")
parser.add_argument("--tls12", action="store_true")
arguments = parser.parse_args()

url = urlsplit(arguments.url)
context = ssl.create_default_context(cafile=arguments.ca_file)
if arguments.certificate:
    context.load_cert_chain(f"{arguments.certificate}/tls.crt", f"{arguments.certificate}/tls.key")
if arguments.tls12:
    context.maximum_version = ssl.TLSVersion.TLSv1_2


class Connection(http.client.HTTPSConnection):
    """To the address of the URL, where somebody of another name answers."""

    def connect(self):
        plain = socket.create_connection((url.hostname, url.port), timeout=60)
        self.sock = context.wrap_socket(plain, server_hostname=arguments.server_name)


connection = Connection(arguments.server_name, url.port)
headers = {"Authorization": f"Bearer {arguments.token}"} if arguments.token else {}
try:
    connection.request(arguments.method, url.path, headers=headers)
    response = connection.getresponse()
except ssl.SSLError as error:
    print(f"TLS: {error}")
    sys.exit(0)
print(response.status, response.read().decode())
