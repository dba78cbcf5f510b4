// Anthropic's Node client. One JSON line for each feature; see lines.mjs.
import Anthropic from "@anthropic-ai/sdk";
import { assert, feature, same } from "./lines.mjs";

const root = (url) => url.replace(/\/v1$/, "");
const client = new Anthropic({ baseURL: root(process.env.CONFORMANCE_URL), apiKey: "none", maxRetries: 0 });
const scripted = new Anthropic({ baseURL: root(process.env.CONFORMANCE_SCRIPTED), apiKey: "none", maxRetries: 0 });
const model = process.env.CONFORMANCE_MODEL;
const messages = [{ role: "user", content: "What is the capital of South Korea?" }];
const ask = { model, messages, max_tokens: 30, temperature: 0 };
const input_schema = {
  type: "object",
  properties: { color: { enum: ["red", "green"] } },
  required: ["color"],
  additionalProperties: false,
};
const tools = [{ name: "pick", description: "Pick a color.", input_schema }];
const SAID = "It is red.";

await feature("models", async () => {
  const found = [];
  for await (const one of client.models.list()) found.push(one);
  same(found.map((one) => one.id).join(), model);
  same((await client.models.retrieve(model)).type, "model");
});

await feature("messages", async () => {
  const message = await client.messages.create(ask);
  assert(message.content[0].text.includes("Seoul"));
  same(message.stop_reason, "end_turn");
  assert(message._request_id.length > 0);
});

await feature("messages, streamed", async () => {
  const whole = await client.messages.create(ask);
  const stream = client.messages.stream(ask);
  let text = "";
  stream.on("text", (piece) => (text += piece));
  const final = await stream.finalMessage();
  same(text, whole.content[0].text);
  same(final.content[0].text, text);
  same(final.usage.output_tokens, whole.usage.output_tokens);
});

await feature("abort a stream", async () => {
  const stream = client.messages.stream({ ...ask, max_tokens: 1000 });
  const ended = new Promise((resolve) => stream.on("abort", resolve));
  stream.on("text", () => stream.abort());
  assert((await ended) instanceof Anthropic.APIUserAbortError);
});

await feature("tools, any", async () => {
  const choice = { type: "any", disable_parallel_tool_use: true };
  const message = await client.messages.create({ ...ask, max_tokens: 200, tools, tool_choice: choice });
  same(message.stop_reason, "tool_use");
  const call = message.content.at(-1);
  same(call.name, "pick");
  assert(["red", "green"].includes(call.input.color));
});

await feature("a tool is called, executed, and the answer is final", async () => {
  const turns = [{ role: "user", content: "Pick one." }];
  const body = { model, max_tokens: 1000, tools };
  const first = await scripted.messages.create({ ...body, messages: turns });
  const call = first.content.find((block) => block.type === "tool_use");
  same(call.input.color, "red");
  const result = { type: "tool_result", tool_use_id: call.id, content: "picked" };
  turns.push({ role: "assistant", content: first.content }, { role: "user", content: [result] });
  const last = await scripted.messages.stream({ ...body, messages: turns }).finalMessage();
  same(last.content[0].text, SAID);
});

await feature("the tool runner", async () => {
  const picked = [];
  const run = async ({ color }) => {
    picked.push(color);
    return "picked";
  };
  const tool = { ...tools[0], run, parse: (input) => input };
  const body = { model, max_tokens: 1000, messages: [{ role: "user", content: "Pick one." }] };
  const last = await scripted.beta.messages.toolRunner({ ...body, tools: [tool] });
  same(last.content[0].text, SAID);
  same(picked.join(), "red");
});

await feature("output_config.format", async () => {
  const format = { type: "json_schema", schema: input_schema };
  const body = { ...ask, max_tokens: 200, messages: [{ role: "user", content: 'Reply with {"color": "red"}' }] };
  const message = await client.messages.create({ ...body, output_config: { format } });
  assert(["red", "green"].includes(JSON.parse(message.content[0].text).color));
});

await feature("count_tokens", async () => {
  const counted = await client.messages.countTokens({ model, messages, tools });
  const { usage } = await client.messages.create({ model, messages, tools, max_tokens: 1 });
  same(counted.input_tokens, usage.input_tokens + usage.cache_read_input_tokens);
});

await feature("errors", async () => {
  const missing = await client.messages.create({ ...ask, model: "nobody" }).catch((e) => e);
  assert(missing instanceof Anthropic.NotFoundError);
  same(missing.type, "not_found_error");
  const bad = await client.messages.create({ ...ask, temperature: 9 }).catch((e) => e);
  assert(bad instanceof Anthropic.BadRequestError);
  same(bad.type, "invalid_request_error");
  assert(bad.requestID.length > 0);
});
