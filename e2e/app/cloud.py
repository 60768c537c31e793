"""A cloud with one answer. Writes every request that reaches it, head and body, to its log: what is not
in the log did not arrive.
"""

import http.server
import json
import sys

ANSWER = "Greetings from the cloud."


class Cloud(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def note(self, body):
        entry = {"method": self.command, "path": self.path, "headers": dict(self.headers), "body": body}
        print(json.dumps(entry), flush=True)

    def do_GET(self):
        self.note("")
        models = {"object": "list", "data": [{"id": "big", "object": "model", "created": 0, "owned_by": "cloud"}]}
        self.send("application/json", json.dumps(models).encode())

    def read_body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_POST(self):
        body = self.read_body()
        self.note(body.decode(errors="replace"))
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        if json.loads(body or b"{}").get("stream"):
            base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "big"}
            first = {"index": 0, "delta": {"role": "assistant", "content": ANSWER}, "finish_reason": None}
            last = {"index": 0, "delta": {}, "finish_reason": "stop"}
            frames = [base | {"choices": [first]}, base | {"choices": [last]}, base | {"choices": [], "usage": usage}]
            text = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames) + "data: [DONE]\n\n"
            self.send("text/event-stream", text.encode())
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
        whole = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "big", "choices": [choice], "usage": usage}
        self.send("application/json", json.dumps(whole).encode())


http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Cloud).serve_forever()
