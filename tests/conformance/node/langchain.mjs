// LangChain in JavaScript: ChatOpenAI over both of its APIs, and agents. One JSON line for each feature; see lines.mjs.
// SCRIPTED's engine says two things in turn: a call of `pick`, and SAID.
import { ChatOpenAI } from "@langchain/openai";
import { createAgent, tool } from "langchain";
import { z } from "zod";
import { assert, feature, same } from "./lines.mjs";

const SAID = "It is red.";
const chat = (url, more) =>
  new ChatOpenAI({
    model: process.env.CONFORMANCE_MODEL,
    apiKey: "none",
    configuration: { baseURL: url },
    maxRetries: 0,
    ...more,
  });
const demo = (more) => chat(process.env.CONFORMANCE_URL, { temperature: 0, maxTokens: 200, ...more });
const scripted = (more) => chat(process.env.CONFORMANCE_SCRIPTED, more);
const color = z.object({ color: z.enum(["red", "green"]) });
const question = "What is the capital of South Korea?";

const agent = (model) => {
  const picked = [];
  const pick = tool(
    ({ color }) => {
      picked.push(color);
      return "picked";
    },
    { name: "pick", description: "Pick a color.", schema: color },
  );
  return [createAgent({ model, tools: [pick] }), picked];
};
const asked = { messages: [{ role: "user", content: "Pick one." }] };

async function loop(model) {
  const [made, picked] = agent(model);
  const { messages } = await made.invoke(asked);
  same(messages.at(-1).text, SAID);
  same(picked.join(), "red");
}

async function streamed(model) {
  const [made, picked] = agent(model);
  let text = "";
  for await (const [piece] of await made.stream(asked, { streamMode: "messages" })) text += piece.text ?? "";
  assert(text.endsWith(SAID));
  same(picked.join(), "red");
}

await feature("chat: invoke and stream", async () => {
  const whole = await demo().invoke(question);
  assert(whole.text.includes("Seoul"));
  assert(whole.usage_metadata.output_tokens > 0);
  let text = "";
  for await (const piece of await demo().stream(question)) text += piece.text;
  same(text, whole.text);
});

await feature("chat: withStructuredOutput", async () => {
  for (const method of ["jsonSchema", "functionCalling"]) {
    const made = demo().withStructuredOutput(color, { method });
    assert(["red", "green"].includes((await made.invoke('Reply with {"color": "red"}')).color));
  }
});

await feature("chat: an agent calls a tool, executes it, and answers", () => loop(scripted()));
await feature("chat: the same, streamed", () => streamed(scripted()));

const responses = { useResponsesApi: true };
await feature("responses: invoke and stream", async () => {
  const whole = await demo(responses).invoke(question);
  assert(whole.text.includes("Seoul"));
  let text = "";
  for await (const piece of await demo(responses).stream(question)) text += piece.text;
  same(text, whole.text);
});
await feature("responses: an agent calls a tool, executes it, and answers", () => loop(scripted(responses)));
await feature("responses: the same, streamed", () => streamed(scripted(responses)));
