"""Steady load with the official OpenAI SDK until a file appears: every request is counted, none is retried.

Arguments: model, callers, path of the file that ends it, and how many requests each caller makes at least. Prints one JSON object with the number of
requests, of streams, every failure with its causes and when it was, and how long the slowest took.
"""

import concurrent.futures
import json
import os
import sys
import time

import openai

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://mesh-gateway.mesh-system.svc:8080/v1")
TOKEN_FILE = "/var/run/secrets/inferencemesh.dev/token/token"
MODEL, CALLERS, END, LEAST = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])


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


def told(error, begun, asked):
    """The SDK says no more than "Connection error."; why stands in what it was raised from."""
    causes = []
    while error is not None and len(causes) < 6:
        causes.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    now = time.monotonic()
    return f"{' <- '.join(causes)} (asked {asked - begun:.1f} s after the beginning, failed after {now - asked:.1f} s)"


def caller(number):
    with open(TOKEN_FILE, encoding="utf-8") as file:
        token = file.read().strip()
    client = openai.OpenAI(base_url=BASE_URL, api_key=token, max_retries=0, timeout=120)
    count, streams, slowest, failures = 0, 0, 0.0, []
    begun = time.monotonic()
    while count < LEAST or not os.path.exists(END):
        stream = (count + number) % 2 == 0
        asked = time.monotonic()
        try:
            good, finish = one(client, stream, f"Count to {count + 2}.")
            if not good:
                failures.append(f"ended with {finish}")
        except Exception as error:  # every failure counts, whatever it is
            failures.append(told(error, begun, asked))
        slowest = max(slowest, time.monotonic() - asked)
        count += 1
        streams += stream
    return count, streams, slowest, failures


def main():
    with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
        done = list(pool.map(caller, range(CALLERS)))
    failures = [failure for *_, some in done for failure in some]
    print(
        json.dumps(
            {
                "requests": sum(count for count, *_ in done),
                "streams": sum(streams for _, streams, *_ in done),
                "slowest": round(max(slowest for _, _, slowest, _ in done), 1),
                "failed": len(failures),
                "failures": failures[:10],
            }
        )
    )


main()
