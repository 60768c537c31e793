// The official OpenAI SDK for Node against a running mesh.
//
// MESH_E2E_URL        a mesh on loopback without keys
// MESH_E2E_KEYED_URL  a mesh that asks for keys
// MESH_E2E_KEY        its key
// MESH_E2E_MODEL      the name of the floor's model
//
// One line per scenario, then `N passed, N failed`; the exit status is 1 if one failed.

import assert from 'node:assert/strict';
import process from 'node:process';

import OpenAI from 'openai';

const { MESH_E2E_URL: url, MESH_E2E_KEYED_URL: keyedUrl, MESH_E2E_KEY: key, MESH_E2E_MODEL: model } = process.env;
assert(url && keyedUrl && key && model, 'the MESH_E2E_… variables are missing');

const messages = [{ role: 'user', content: 'What is the capital of France?' }];

function client(base = url, apiKey = 'placeholder') {
  return new OpenAI({ baseURL: `${base}/v1`, apiKey, maxRetries: 0, timeout: 120_000 });
}

function ask(more = {}, options = {}) {
  const request = { model, messages, temperature: 0, max_tokens: 24, ...more };
  return client().chat.completions.create(request, options);
}

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const scenarios = {
  async 'models are listed and retrieved with a placeholder key'() {
    const names = (await collect(await client().models.list())).map((entry) => entry.id);
    assert(names.includes(model), names.join());
    assert.equal((await client().models.retrieve(model)).id, model);
  },

  async 'the model answers'() {
    const answer = await ask();
    assert.match(answer.choices[0].message.content, /Paris/);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  },

  async 'a stream says the same and ends with usage'() {
    const whole = await ask();
    const chunks = await collect(await ask({ stream: true, stream_options: { include_usage: true } }));
    const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? '').join('');
    assert.equal(text, whole.choices[0].message.content);
    const last = chunks.at(-1);
    assert.deepEqual(last.choices, []);
    assert.deepEqual(last.usage, whole.usage);
    assert(chunks.slice(0, -1).every((chunk) => chunk.usage === null));
  },

  async 'the stream helper gathers a whole completion'() {
    const runner = client().chat.completions.stream({ model, messages, temperature: 0, max_tokens: 24 });
    const gathered = await runner.finalChatCompletion();
    assert.match(gathered.choices[0].message.content, /Paris/);
  },

  async 'headers say who answered and why'() {
    const { response } = await ask({ max_tokens: 4 }).withResponse();
    for (const name of ['decision', 'backend', 'model', 'sovereignty-class', 'privacy']) {
      assert(response.headers.get(`mesh-${name}`), name);
    }
    assert.equal(response.headers.get('mesh-degraded'), null);
  },

  async 'local and auto are answered'() {
    for (const name of ['local', 'auto']) {
      assert((await ask({ model: name, max_tokens: 8 })).choices[0].message.content);
    }
  },

  async 'completions echo the prompt with logprobs'() {
    const prompt = 'The capital of France is';
    const answer = await client().completions.create({ model, prompt, max_tokens: 1, temperature: 0, echo: true, logprobs: 1 });
    const { text, logprobs } = answer.choices[0];
    assert(text.startsWith(prompt) && text.length > prompt.length, text);
    assert.equal(logprobs.tokens.join(''), text);
    assert.equal(logprobs.token_logprobs[0], null);
  },

  async 'a caller who aborts a stream does not hold up the next'() {
    const stream = await ask({ stream: true, max_tokens: 2000, temperature: 1 });
    for await (const _ of stream) break;
    assert((await ask({ max_tokens: 4 })).choices.length);
  },

  async 'an unknown model is not found'() {
    await assert.rejects(ask({ model: 'no-such-model' }), (error) => {
      assert(error instanceof OpenAI.NotFoundError, error);
      assert.equal(error.code, 'model_not_found');
      return true;
    });
  },

  async 'wrong parameters are bad requests'() {
    await assert.rejects(ask({ n: 99 }), OpenAI.BadRequestError);
    await assert.rejects(ask({ messages: [] }), OpenAI.BadRequestError);
    await assert.rejects(ask({}, { headers: { 'mesh-privacy': 'whatever' } }), OpenAI.BadRequestError);
  },

  async 'broken JSON is a bad request with an error object'() {
    const headers = { 'content-type': 'application/json' };
    const answer = await fetch(`${url}/v1/chat/completions`, { method: 'POST', headers, body: '{"model": ' });
    assert.equal(answer.status, 400);
    assert.equal((await answer.json()).error.type, 'invalid_request_error');
  },

  async 'a mesh with keys wants the right one'() {
    assert((await collect(await client(keyedUrl, key).models.list())).some((entry) => entry.id === model));
    await assert.rejects(async () => client(keyedUrl, 'placeholder').models.list(), OpenAI.AuthenticationError);
  },
};

let failed = 0;
for (const [name, run] of Object.entries(scenarios)) {
  try {
    await run();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}`);
    console.error(error);
  }
}
console.log(`${Object.keys(scenarios).length - failed} passed, ${failed} failed`);
process.exitCode = failed ? 1 : 0;
