"""One request with the official OpenAI SDK, as an application of the cluster makes it.

Reads a JSON object from the first argument: model, text, and optionally stream, max_tokens, token
(`none` sends no credentials that mean anything), base_url, headers. Prints one JSON object: status, text, headers
(those of the mesh), and for a refusal its code, type and message.
"""

import json
import os
import sys

import openai

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://mesh-gateway.mesh-system.svc:8080/v1")
TOKEN_FILE = "/var/run/secrets/inferencemesh.dev/token/token"


def key(asked):
    token = asked.get("token")
    if token is not None:
        return token
    with open(TOKEN_FILE, encoding="utf-8") as file:
        return file.read().strip()


def ours(headers):
    return {name: value for name, value in headers.items() if name.startswith("mesh-")}


def answer(client, asked):
    request = {
        "model": asked.get("model", "auto"),
        "messages": [{"role": "user", "content": asked["text"]}],
        "temperature": 0,
        "max_tokens": asked.get("max_tokens", 16),
        "extra_headers": asked.get("headers", {}),
    }
    if asked.get("stream"):
        with client.chat.completions.with_streaming_response.create(stream=True, **request) as response:
            headers = ours(response.headers)
            text, finish = "", None
            for chunk in response.parse():
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    finish = choice.finish_reason or finish
        return {"status": 200, "text": text, "finish": finish, "headers": headers}
    raw = client.chat.completions.with_raw_response.create(**request)
    choice = raw.parse().choices[0]
    return {
        "status": raw.status_code,
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "headers": ours(raw.headers),
    }


def main():
    asked = json.loads(sys.argv[1])
    client = openai.OpenAI(
        base_url=asked.get("base_url", BASE_URL), api_key=key(asked), max_retries=0, timeout=120
    )
    try:
        said = answer(client, asked)
    except openai.APIStatusError as error:
        body = error.body if isinstance(error.body, dict) else {}
        said = {
            "status": error.status_code,
            "code": body.get("code"),
            "type": body.get("type"),
            "message": body.get("message"),
            "headers": ours(error.response.headers),
        }
    except openai.APIConnectionError as error:
        said = {"status": 0, "message": f"{error}: {error.__cause__}", "headers": {}}
    print(json.dumps(said))


main()
