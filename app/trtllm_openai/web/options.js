// What a conversation asks for beside its messages, and the request that comes of it.

/** Number fields. `capability`: what the engine must have; `integer`: no fractions. */
export const NUMBERS = [
  { name: "temperature", min: 0, max: 2, step: 0.1 },
  { name: "top_p", min: 0, max: 1, step: 0.05 },
  { name: "top_k", min: -1, step: 1, integer: true },
  { name: "min_p", min: 0, max: 1, step: 0.01, capability: "min_p" },
  { name: "max_tokens", min: 1, step: 1, integer: true },
  { name: "seed", step: 1, integer: true, capability: "seed" },
  { name: "presence_penalty", min: -2, max: 2, step: 0.1, capability: "penalties" },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.1, capability: "penalties" },
  { name: "repetition_penalty", min: 0.01, max: 100, step: 0.05, capability: "penalties" },
];
export const EFFORTS = ["none", "low", "medium", "high"];
export const TOOL_CHOICES = ["auto", "required", "none"];
const TOP_LOGPROBS = 5;

export const EXAMPLE_TOOLS = JSON.stringify(
  [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "The weather in a city now",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
      },
    },
  ],
  null,
  2,
);
export const EXAMPLE_SCHEMA = JSON.stringify(
  {
    type: "object",
    properties: { name: { type: "string" }, population: { type: "integer" } },
    required: ["name", "population"],
    additionalProperties: false,
  },
  null,
  2,
);

/** A JSON text as a value, or what is wrong with it. An empty text is no value and nothing wrong. */
export function parsed(text, isRight) {
  if (!text?.trim()) return { value: undefined, problem: "" };
  try {
    const value = JSON.parse(text);
    return { value, problem: "", wrongKind: !isRight(value) };
  } catch (error) {
    return { value: undefined, problem: error.message };
  }
}

export const parsedTools = (options) => parsed(options.tools, Array.isArray);
export const parsedSchema = (options) =>
  parsed(options.schema, (value) => value !== null && typeof value === "object" && !Array.isArray(value));

/** The messages as the API has them. Answers that never came are left out. */
function wireMessages(options, messages) {
  const wire = options.system?.trim() ? [{ role: "system", content: options.system }] : [];
  for (const one of messages) {
    if (one.role === "user") wire.push({ role: "user", content: one.content });
    else if (one.role === "tool") wire.push({ role: "tool", tool_call_id: one.callId, content: one.content });
    else if (one.content || one.calls.length) {
      const message = { role: "assistant", content: one.content || null };
      if (one.reasoning) message.reasoning_content = one.reasoning;
      if (one.calls.length)
        message.tool_calls = one.calls.map((call) => ({
          id: call.id,
          type: "function",
          function: { name: call.name, arguments: call.arguments },
        }));
      wire.push(message);
    }
  }
  return wire;
}

/** The body of a chat request. Settings that `capabilities` (of /v1/models) excludes are left out. */
export function chatRequest(model, options, messages, capabilities) {
  const body = { model, messages: wireMessages(options, messages), stream: true };
  const can = (capability) => !capability || !capabilities || capabilities[capability];
  for (const { name, capability, integer } of NUMBERS) {
    const value = integer ? parseInt(options[name], 10) : parseFloat(options[name]);
    if (Number.isFinite(value) && can(capability)) body[name] = value;
  }
  const stop = (options.stop ?? "").split("\n").filter(Boolean);
  if (stop.length) body.stop = stop;
  if (options.reasoning_effort) body.reasoning_effort = options.reasoning_effort;
  const alternatives = capabilities ? capabilities.max_logprobs : TOP_LOGPROBS;
  if (options.logprobs && alternatives >= 0) {
    body.logprobs = true;
    if (alternatives > 0) body.top_logprobs = Math.min(TOP_LOGPROBS, alternatives);
  }
  const tools = parsedTools(options).value;
  if (tools?.length) {
    body.tools = tools;
    if (options.tool_choice && options.tool_choice !== "auto") body.tool_choice = options.tool_choice;
  }
  const schema = parsedSchema(options).value;
  if (schema) body.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  return body;
}
