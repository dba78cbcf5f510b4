// Vercel's AI SDK over @ai-sdk/openai-compatible. One JSON line for each feature; see lines.mjs.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamObject, streamText, tool } from "ai";
import { z } from "zod";
import { assert, feature, same } from "./lines.mjs";

const provider = createOpenAICompatible({
  name: "conformance",
  baseURL: process.env.CONFORMANCE_URL,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider(process.env.CONFORMANCE_MODEL);
const ask = { model, prompt: "Say hi.", temperature: 0, maxOutputTokens: 12, maxRetries: 0 };
const color = z.object({ color: z.enum(["red", "green"]) });
const pick = tool({ inputSchema: color, execute: async ({ color }) => `${color} it is` });

await feature("chat", async () => {
  const answer = await generateText(ask);
  assert(answer.text.length > 0);
  assert(answer.usage.totalTokens > 0);
});

await feature("chat stream", async () => {
  const whole = await generateText(ask);
  const stream = streamText(ask);
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  same(text, whole.text);
  same((await stream.usage).totalTokens, whole.usage.totalTokens);
});

await feature("abort a stream", async () => {
  const controller = new AbortController();
  const stream = streamText({ ...ask, maxOutputTokens: 1000, abortSignal: controller.signal, onError: () => {} });
  for await (const _ of stream.textStream) {
    controller.abort();
    break;
  }
});

await feature("JSON schema", async () => {
  const body = { ...ask, maxOutputTokens: 200, schema: color };
  assert(["red", "green"].includes((await generateObject(body)).object.color));
  const stream = streamObject(body);
  for await (const _ of stream.partialObjectStream);
  assert(["red", "green"].includes((await stream.object).color));
});

await feature("tools, required", async () => {
  const body = { ...ask, maxOutputTokens: 300, tools: { pick }, toolChoice: "required" };
  const answer = await generateText(body);
  same(answer.toolCalls[0].toolName, "pick");
  assert(answer.toolResults[0].output.endsWith("it is"));
});

await feature("tools, streamed", async () => {
  const body = { ...ask, maxOutputTokens: 300, tools: { pick }, toolChoice: { type: "tool", toolName: "pick" } };
  const stream = streamText(body);
  await stream.consumeStream();
  assert(["red", "green"].includes((await stream.toolCalls)[0].input.color));
});

await feature("completions and stream", async () => {
  const body = { ...ask, model: provider.completionModel(process.env.CONFORMANCE_MODEL) };
  const whole = await generateText(body);
  const stream = streamText(body);
  let text = "";
  for await (const piece of stream.textStream) text += piece;
  same(text, whole.text);
});

await feature("errors", async () => {
  const bad = await generateText({ ...ask, model: provider("nobody") }).catch((e) => e);
  same(bad.statusCode, 404);
  same(bad.data.error.code, "model_not_found");
});
