"""The official OpenAI SDK for Python against a running mesh.

MESH_E2E_URL        a mesh on loopback without keys
MESH_E2E_KEYED_URL  a mesh that asks for keys
MESH_E2E_KEY        its key
MESH_E2E_MODEL      the name of the floor's model

One line per scenario, then `N passed, N failed`; the exit status is 1 if one failed.
"""

import concurrent.futures
import json
import os
import sys
import traceback
import urllib.error
import urllib.request

import openai

URL = os.environ["MESH_E2E_URL"]
KEYED_URL = os.environ["MESH_E2E_KEYED_URL"]
KEY = os.environ["MESH_E2E_KEY"]
MODEL = os.environ["MESH_E2E_MODEL"]

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SCENARIOS = []


def client(url=URL, key="placeholder"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)


def scenario(function):
    SCENARIOS.append(function)
    return function


def ask(**more):
    request = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    return client().chat.completions.create(**(request | more))


def raised(kind, function):
    try:
        function()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


@scenario
def models_are_listed_and_retrieved_with_a_placeholder_key():
    names = [model.id for model in client().models.list()]
    assert MODEL in names, names
    assert client().models.retrieve(MODEL).id == MODEL


@scenario
def the_model_answers():
    answer = ask()
    assert "Paris" in answer.choices[0].message.content, answer
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.prompt_tokens > 5 and 0 < usage.completion_tokens <= 24
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@scenario
def a_stream_says_the_same_and_ends_with_usage():
    whole = ask()
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content, text
    assert len({chunk.id for chunk in chunks}) == 1
    assert len({chunk.created for chunk in chunks}) == 1
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == whole.choices[0].finish_reason and not any(reasons[:-1]), reasons
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


@scenario
def a_stream_without_usage_has_none():
    chunks = list(ask(stream=True, max_tokens=4))
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


@scenario
def headers_say_who_answered_and_why():
    raw = client().chat.completions.with_raw_response.create(
        model=MODEL, messages=QUESTION, max_tokens=4
    )
    for name in ("decision", "backend", "model", "sovereignty-class", "privacy"):
        assert raw.headers.get(f"mesh-{name}"), name
    assert raw.headers.get("mesh-degraded") is None
    assert raw.parse().choices[0].message.content is not None


@scenario
def local_and_auto_are_answered():
    for name in ("local", "auto"):
        assert ask(model=name, max_tokens=8).choices[0].message.content


@scenario
def system_prompts_and_content_parts_are_taken():
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "text", "text": "What is the"}, {"type": "text", "text": "capital of France?"}]},
    ]
    assert "Paris" in ask(messages=messages).choices[0].message.content


@scenario
def a_limit_and_a_stop_text_end_the_answer():
    short = ask(max_tokens=2)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 2)
    stopped = ask(stop=["Paris"])
    assert stopped.choices[0].finish_reason == "stop"
    assert "Paris" not in stopped.choices[0].message.content


@scenario
def a_seed_makes_sampling_repeatable():
    texts = {ask(temperature=1.0, seed=7).choices[0].message.content for _ in range(2)}
    assert len(texts) == 1, texts


@scenario
def several_choices_and_logprobs_come_as_asked():
    answer = ask(n=2, temperature=1.0, max_tokens=4, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        tokens = choice.logprobs.content
        assert len(tokens) > 0
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


@scenario
def several_callers_at_once_get_what_each_gets_alone():
    alone = ask().choices[0].message.content
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: ask().choices[0].message.content, range(4)))
    assert together == [alone] * 4, together


@scenario
def a_caller_who_leaves_a_stream_does_not_hold_up_the_next():
    stream = ask(stream=True, max_tokens=2000, temperature=1.0)
    next(iter(stream))
    stream.close()
    assert ask(max_tokens=4).choices


@scenario
def completions_echo_the_prompt_with_logprobs():
    prompt = "The capital of France is"
    answer = client().completions.create(
        model=MODEL, prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=1
    )
    choice = answer.choices[0]
    assert choice.text.startswith(prompt) and len(choice.text) > len(prompt), choice.text
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert len(logprobs.tokens) == len(logprobs.token_logprobs)
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])


@scenario
def completions_stream():
    chunks = list(
        client().completions.create(
            model=MODEL, prompt="One, two, three,", max_tokens=6, temperature=0, stream=True
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


@scenario
def an_unknown_model_is_not_found():
    error = raised(openai.NotFoundError, lambda: ask(model="no-such-model"))
    assert error.status_code == 404 and error.code == "model_not_found", error
    assert MODEL in error.message
    raised(openai.NotFoundError, lambda: client().models.retrieve("no-such-model"))


@scenario
def wrong_parameters_are_bad_requests():
    raised(openai.BadRequestError, lambda: ask(n=99))
    raised(openai.BadRequestError, lambda: ask(messages=[]))
    raised(openai.BadRequestError, lambda: ask(temperature="warm"))
    raised(openai.BadRequestError, lambda: ask(extra_headers={"mesh-privacy": "whatever"}))


@scenario
def broken_json_is_a_bad_request_with_an_error_object():
    request = urllib.request.Request(
        f"{URL}/v1/chat/completions", b'{"model": ', {"content-type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    error = raised(urllib.error.HTTPError, lambda: opener.open(request, timeout=30))
    assert error.code == 400
    body = json.load(error)["error"]
    assert body["type"] == "invalid_request_error" and body["message"], body


@scenario
def a_mesh_with_keys_wants_the_right_one():
    assert MODEL in [model.id for model in client(KEYED_URL, KEY).models.list()]
    for wrong in ("placeholder", KEY[:-1], KEY + "x"):
        error = raised(openai.AuthenticationError, lambda: list(client(KEYED_URL, wrong).models.list()))
        assert error.status_code == 401 and KEY not in str(error)


def main():
    failed = 0
    for function in SCENARIOS:
        name = function.__name__
        try:
            function()
            print(f"ok      {name}", flush=True)
        except Exception:  # noqa: BLE001: whatever it is, the scenario failed
            failed += 1
            print(f"FAILED  {name}", flush=True)
            traceback.print_exc()
    print(f"{len(SCENARIOS) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
