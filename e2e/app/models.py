"""A model server with faults, over TLS: the first part of a path says how it behaves; `adapter` serves the
files of a folder. Every request is a line of its log.
"""

import http.server
import json
import ssl
import sys
import time

GOOD = bytes(range(256)) * 1024
WRONG = GOOD[:-1] + b"!"
POURED = 64 * 1024 * 1024


class Models(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def head(self, status, length):
        self.send_response(status)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("content-length", str(length))
        self.end_headers()

    def pour(self):
        """Many bytes, of which nobody is told how many they are."""
        self.send_response(200)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for _ in range(POURED // len(GOOD)):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(GOOD), GOOD))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            # Whoever asked has no room for more.
            self.close_connection = True

    def do_GET(self):
        key = self.headers.get("authorization", "")
        print(json.dumps({"path": self.path, "authorization": key}), flush=True)
        behavior = self.path.split("/")[1]
        if behavior == "errors" or (behavior == "locked" and key != "Bearer open-sesame"):
            self.head(500 if behavior == "errors" else 401, 0)
            return
        if behavior == "adapter":
            with open(sys.argv[3] + "/" + self.path.rsplit("/", 1)[1], "rb") as file:
                content = file.read()
            self.head(200, len(content))
            self.wfile.write(content)
            return
        if behavior == "unannounced":
            self.pour()
            return
        self.head(200, len(GOOD))
        if behavior == "truncated":
            self.wfile.write(GOOD[: len(GOOD) // 2])
            self.close_connection = True
        elif behavior == "hangs":
            self.wfile.write(GOOD[:100])
            self.wfile.flush()
            time.sleep(3600)
        else:
            self.wfile.write(WRONG if behavior == "wrong" else GOOD)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2] + "/tls.crt", sys.argv[2] + "/tls.key")
server = Server(("", int(sys.argv[1])), Models)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
