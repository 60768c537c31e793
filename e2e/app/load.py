"""Steady load with the official OpenAI SDK until a file appears: every request is counted, none is retried.

Arguments: model, callers, path of the file that ends it. Prints one JSON object with the number of
requests, of streams, and every failure.
"""

import concurrent.futures
import json
import os
import sys

import openai

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://mesh-gateway.mesh-system.svc:8080/v1")
TOKEN_FILE = "/var/run/secrets/inferencemesh.dev/token/token"
MODEL, CALLERS, END = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def one(client, stream, text):
    request = {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 12,
    }
    if not stream:
        choice = client.chat.completions.create(**request).choices[0]
        return choice.finish_reason in ("stop", "length"), choice.finish_reason
    finish = None
    for chunk in client.chat.completions.create(stream=True, **request):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
    return finish in ("stop", "length"), finish


def caller(number):
    with open(TOKEN_FILE, encoding="utf-8") as file:
        token = file.read().strip()
    client = openai.OpenAI(base_url=BASE_URL, api_key=token, max_retries=0, timeout=120)
    count, streams, failures = 0, 0, []
    while not os.path.exists(END):
        stream = (count + number) % 2 == 0
        try:
            good, finish = one(client, stream, f"Count to {count + 2}.")
            if not good:
                failures.append(f"ended with {finish}")
        except Exception as error:  # every failure counts, whatever it is
            failures.append(f"{type(error).__name__}: {error}")
        count += 1
        streams += stream
    return count, streams, failures


def main():
    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        done = list(pool.map(caller, range(CALLERS)))
    failures = [failure for _, _, some in done for failure in some]
    print(
        json.dumps(
            {
                "requests": sum(count for count, _, _ in done),
                "streams": sum(streams for _, streams, _ in done),
                "failed": len(failures),
                "failures": failures[:10],
            }
        )
    )


main()
