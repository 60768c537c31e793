"""One request over TLS (or in plain text) without any SDK, to see what a port of the mesh does.

Reads a JSON object from the first argument: url, and optionally ca (PEM; trusted instead of the system's), names
(false: the host name is not checked), token (text, or true for the token of this pod), body (JSON, then it is a POST), timeout (seconds).
Prints one JSON object: status, text and names (those of the server's certificate), or error.
"""

import http.client
import json
import ssl
import sys
import urllib.parse

TOKEN_FILE = "/var/run/secrets/inferencemesh.dev/token/token"


def context(asked):
    made = ssl.create_default_context(cadata=asked.get("ca"))
    if asked.get("names") is False:
        made.check_hostname = False
    return made


def ask(asked):
    url = urllib.parse.urlsplit(asked["url"])
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=asked.get("timeout", 20), context=context(asked))
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=asked.get("timeout", 20))
    headers = {"content-type": "application/json"}
    token = asked.get("token")
    if token is True:
        with open(TOKEN_FILE, encoding="utf-8") as file:
            token = file.read().strip()
    if token:
        headers["authorization"] = "Bearer " + token
    connection.connect()
    names = []
    if url.scheme == "https":
        names = [name for _, name in connection.sock.getpeercert().get("subjectAltName", ())]
    body = json.dumps(asked["body"]) if "body" in asked else None
    connection.request("POST" if body else "GET", url.path, body, headers)
    answer = connection.getresponse()
    return {"status": answer.status, "text": answer.read().decode(), "names": names}


def main():
    try:
        said = ask(json.loads(sys.argv[1]))
    except (OSError, http.client.HTTPException) as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said))


main()
