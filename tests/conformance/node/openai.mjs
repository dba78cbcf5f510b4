// The official Node client. One JSON line for each feature; see lines.mjs.
import OpenAI from "openai";
import { assert, feature, same } from "./lines.mjs";

const client = new OpenAI({ baseURL: process.env.CONFORMANCE_URL, apiKey: "none", maxRetries: 0 });
const model = process.env.CONFORMANCE_MODEL;
const messages = [{ role: "user", content: "Say hi." }];
const chat = { model, messages, temperature: 0, max_tokens: 12 };
const schema = {
  type: "object",
  properties: { color: { enum: ["red", "green"] } },
  required: ["color"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "pick", parameters: schema } }];

await feature("models", async () => {
  const list = await client.models.list();
  same(list.data[0].id, model);
  same((await client.models.retrieve(model)).id, model);
});

await feature("chat", async () => {
  const answer = await client.chat.completions.create(chat);
  assert(answer.choices[0].message.content.length > 0);
  assert(["stop", "length"].includes(answer.choices[0].finish_reason));
});

await feature("chat stream", async () => {
  const whole = await client.chat.completions.create(chat);
  let text = "";
  let usage = null;
  const options = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create({ ...chat, ...options })) {
    text += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  same(text, whole.choices[0].message.content);
  same(usage.total_tokens, whole.usage.total_tokens);
});

await feature("abort a stream", async () => {
  const stream = await client.chat.completions.create({ ...chat, max_tokens: 1000, stream: true });
  for await (const _ of stream) {
    stream.controller.abort();
    break;
  }
});

await feature("n, seed and logprobs", async () => {
  const body = { ...chat, temperature: 1, seed: 4, n: 2, logprobs: true, top_logprobs: 2 };
  const [a, b] = [await client.chat.completions.create(body), await client.chat.completions.create(body)];
  same(a.choices.length, 2);
  same(JSON.stringify(a.choices), JSON.stringify(b.choices));
  same(a.choices[0].logprobs.content[0].top_logprobs.length, 2);
});

await feature("JSON schema", async () => {
  const format = { type: "json_schema", json_schema: { name: "c", schema, strict: true } };
  const answer = await client.chat.completions.create({ ...chat, max_tokens: 200, response_format: format });
  assert(["red", "green"].includes(JSON.parse(answer.choices[0].message.content).color));
});

await feature("tools, required", async () => {
  const body = { ...chat, max_tokens: 200, tools, tool_choice: "required", parallel_tool_calls: false };
  const answer = await client.chat.completions.create(body);
  const [call] = answer.choices[0].message.tool_calls;
  same(call.function.name, "pick");
  assert(["red", "green"].includes(JSON.parse(call.function.arguments).color));
  const back = [
    ...messages,
    answer.choices[0].message,
    { role: "tool", tool_call_id: call.id, content: "done" },
  ];
  await client.chat.completions.create({ ...chat, messages: back, tools });
});

await feature("tools, streamed", async () => {
  const body = { ...chat, max_tokens: 200, tools, tool_choice: { type: "function", function: { name: "pick" } } };
  const runner = client.chat.completions.stream(body);
  const message = (await runner.finalChatCompletion()).choices[0].message;
  assert(["red", "green"].includes(JSON.parse(message.tool_calls[0].function.arguments).color));
});

await feature("completions and stream", async () => {
  const body = { model, prompt: "1, 2, 3,", temperature: 0, max_tokens: 8 };
  const whole = await client.completions.create(body);
  let text = "";
  for await (const chunk of await client.completions.create({ ...body, stream: true })) {
    text += chunk.choices[0].text;
  }
  same(text, whole.choices[0].text);
});

await feature("errors", async () => {
  const missing = await client.chat.completions.create({ ...chat, model: "nobody" }).catch((e) => e);
  assert(missing instanceof OpenAI.NotFoundError);
  same(missing.code, "model_not_found");
  const bad = await client.chat.completions.create({ ...chat, temperature: 9 }).catch((e) => e);
  assert(bad instanceof OpenAI.BadRequestError);
  same(bad.param, "temperature");
  assert(bad.requestID.length > 0);
});

await feature("responses", async () => {
  const first = await client.responses.create({ model, input: "Hi", max_output_tokens: 8 });
  assert(first.output_text.length > 0);
  const next = { model, input: "And?", previous_response_id: first.id, max_output_tokens: 8, stream: true };
  let text = "";
  let last = null;
  for await (const event of await client.responses.create(next)) {
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event;
  }
  same(text, last.response.output[0].content[0].text);
  same((await client.responses.retrieve(first.id)).id, first.id);
  await client.responses.delete(first.id);
});
