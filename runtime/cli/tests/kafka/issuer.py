"""An identity provider: tokens by client credentials over HTTPS, signed so that a broker can verify them.

issuer.py FOLDER CERTIFICATE KEY: writes its public key to FOLDER/jwks.json, then says on which port it listens.
"""

import base64
import http.server
import json
import ssl
import sys
import time
import urllib.parse

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

SECRETS = {"alice": "s3cret+/= %", "mallory": "mallory"}
SCOPES = {"kafka"}
LIFETIME_SECONDS = 5

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value):
    return encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def jwks():
    public = KEY.public_key().public_numbers()
    key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": number(public.n), "e": number(public.e)}
    return {"keys": [key]}


def token(subject):
    now = int(time.time())
    claims = {
        "iss": "https://issuer.test", "aud": "kafka", "sub": subject, "iat": now, "exp": now + LIFETIME_SECONDS,
    }
    parts = [{"alg": "RS256", "typ": "JWT", "kid": "one"}, claims]
    signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
    signature = KEY.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{encoded(signature)}"


class Endpoint(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer(*self.granted(dict(urllib.parse.parse_qsl(body))))

    def granted(self, form):
        if self.path != "/token":
            return 404, {}
        kind, _, credentials = self.headers.get("Authorization", "").partition(" ")
        if kind != "Basic" or form.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type"}
        # RFC 6749, 2.3.1: both are encoded.
        client, _, secret = base64.b64decode(credentials).decode().partition(":")
        client, secret = urllib.parse.unquote_plus(client), urllib.parse.unquote_plus(secret)
        if SECRETS.get(client) != secret:
            return 401, {"error": "invalid_client", "error_description": "nobody has this id and secret"}
        if form.get("scope") not in SCOPES:
            return 400, {"error": "invalid_scope"}
        return 200, {"access_token": token(client), "token_type": "Bearer", "expires_in": LIFETIME_SECONDS}

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def main():
    folder, certificate, key = sys.argv[1:]
    with open(f"{folder}/jwks.json", "w", encoding="utf-8") as file:
        json.dump(jwks(), file)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


main()
