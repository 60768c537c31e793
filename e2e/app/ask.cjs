// One request with the official OpenAI SDK for Node, as an application that knows nothing of the mesh makes it:
// address and key come from the environment. Prints what ask.py prints.

const { OpenAI } = require("openai");

async function main() {
  const client = new OpenAI({ maxRetries: 0, timeout: 120_000 });
  const asked = {
    model: "smollm2",
    messages: [{ role: "user", content: "Hello" }],
    temperature: 0,
    max_tokens: 4,
  };
  const { data, response } = await client.chat.completions.create(asked).withResponse();
  const headers = {};
  for (const [name, value] of response.headers) {
    if (name.startsWith("mesh-")) {
      headers[name] = value;
    }
  }
  const said = { status: response.status, text: data.choices[0].message.content, headers };
  console.log(JSON.stringify(said));
}

main().catch((error) => {
  console.log(JSON.stringify({ status: error.status ?? 0, message: String(error), headers: {} }));
  process.exitCode = 1;
});
