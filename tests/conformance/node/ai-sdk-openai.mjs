// Vercel's AI SDK over @ai-sdk/openai: /v1/responses by default, and chat. See lines.mjs.
// SCRIPTED's engine says two things in turn: a call of `pick`, and SAID.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { assert, feature, same } from "./lines.mjs";

const name = process.env.CONFORMANCE_MODEL;
const demo = createOpenAI({ baseURL: process.env.CONFORMANCE_URL, apiKey: "none" });

let sent = [];
const recorded = async (url, options) => {
  sent.push(JSON.parse(options.body));
  return fetch(url, options);
};
const scripted = createOpenAI({ baseURL: process.env.CONFORMANCE_SCRIPTED, apiKey: "none", fetch: recorded });

const SAID = "It is red.";
const color = z.object({ color: z.enum(["red", "green"]) });
let picked = [];
const pick = tool({
  description: "Pick a color.",
  inputSchema: color,
  execute: async ({ color }) => {
    picked.push(color);
    return "picked";
  },
});
const ask = { prompt: "Pick one.", tools: { pick }, stopWhen: stepCountIs(4), maxRetries: 0 };

const begin = () => {
  sent = [];
  picked = [];
};
const references = () => sent.flatMap((body) => body.input ?? []).filter((item) => item.type === "item_reference");

await feature("responses: a tool is called, executed, and the answer refers to stored items", async () => {
  begin();
  const answer = await generateText({ ...ask, model: scripted(name) });
  same(answer.text, SAID);
  same(answer.steps.length, 2);
  same(JSON.stringify(picked), '["red"]');
  assert(references().length > 0);
});

await feature("responses: the same, streamed", async () => {
  begin();
  const stream = streamText({ ...ask, model: scripted(name) });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert(text.endsWith(SAID));
  same(JSON.stringify(picked), '["red"]');
  assert((await stream.totalUsage).outputTokens > 5);
});

await feature("responses: a second turn of a conversation refers to the first", async () => {
  begin();
  const model = scripted(name);
  const first = await generateText({ ...ask, model });
  const messages = [
    { role: "user", content: "Pick one." },
    ...first.response.messages,
    { role: "user", content: "And another." },
  ];
  const second = await generateText({ model, messages, tools: { pick }, stopWhen: stepCountIs(4), maxRetries: 0 });
  same(second.text, SAID);
  assert(references().length > 2);
});

await feature("responses: previousResponseId", async () => {
  begin();
  const model = scripted(name);
  const options = { model, maxRetries: 0, prompt: "Pick one." };
  const first = await generateText({ ...options, tools: { pick } });
  const previousResponseId = first.providerMetadata.openai.responseId;
  const second = await generateText({ ...options, providerOptions: { openai: { previousResponseId } } });
  same(second.text, SAID);
});

await feature("responses: not stored", async () => {
  begin();
  const answer = await generateText({
    ...ask,
    model: scripted(name),
    providerOptions: { openai: { store: false } },
  });
  same(answer.text, SAID);
  same(references().length, 0);
});

await feature("responses: structured output", async () => {
  const asked = { prompt: 'Reply with {"color": "red"}', temperature: 0, maxOutputTokens: 200, maxRetries: 0 };
  const answer = await generateText({ ...asked, model: demo(name), output: Output.object({ schema: color }) });
  assert(["red", "green"].includes(answer.output.color));
});

await feature("chat: a tool is called, executed, and the answer is final", async () => {
  begin();
  const answer = await generateText({ ...ask, model: scripted.chat(name) });
  same(answer.text, SAID);
  same(JSON.stringify(picked), '["red"]');
});

await feature("chat: the same, streamed", async () => {
  begin();
  const stream = streamText({ ...ask, model: scripted.chat(name) });
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  assert(text.endsWith(SAID));
  same(JSON.stringify(picked), '["red"]');
});

await feature("errors", async () => {
  const bad = await generateText({ model: demo("nobody"), prompt: "Hi.", maxRetries: 0 }).catch((e) => e);
  same(bad.statusCode, 404);
  same(bad.data.error.code, "model_not_found");
});
