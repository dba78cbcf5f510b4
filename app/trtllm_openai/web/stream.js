// Server-sent events over fetch, and the answer that a chat's chunks add up to.

import { request, streamError } from "./api.js";

/** Parses the text of an event stream, however it is cut. `push(text)` returns the data of complete events. */
export class EventParser {
  #rest = "";
  #data = [];

  push(text) {
    const events = [];
    // A lone \r at the end may be half of \r\n: it waits for the next part.
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) events.push(this.#data.join("\n"));
        this.#data = [];
      } else if (line === "data" || line.startsWith("data:")) {
        this.#data.push(line.slice(5).replace(/^ /, ""));
      } // comments (keep-alive), event and id have no use here
    }
    return events;
  }
}

/** The data of each event of a response. */
export async function* events(response) {
  const parser = new EventParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(value);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** An empty answer: a message of the assistant, as the store keeps it. */
export const emptyAnswer = (id, model) => ({
  id,
  model,
  role: "assistant",
  content: "",
  reasoning: "",
  calls: [],
  tokens: [],
  finish: "",
  error: "",
  stats: null,
});

/** Add the delta of one chunk to an answer. Returns whether it had anything for the eye. */
export function addDelta(answer, choice) {
  const delta = choice.delta ?? {};
  const thought = delta.reasoning_content ?? delta.reasoning ?? "";
  answer.content += delta.content ?? "";
  answer.reasoning += thought;
  for (const part of delta.tool_calls ?? []) {
    const call = (answer.calls[part.index ?? 0] ??= { id: "", name: "", arguments: "" });
    if (part.id) call.id = part.id;
    call.name += part.function?.name ?? "";
    call.arguments += part.function?.arguments ?? "";
  }
  for (const one of choice.logprobs?.content ?? [])
    answer.tokens.push([one.token, one.logprob, one.top_logprobs.map((top) => [top.token, top.logprob])]);
  if (choice.finish_reason) answer.finish = choice.finish_reason;
  return Boolean(delta.content || thought || delta.tool_calls?.length);
}

/**
 * Send a chat request and fill `answer` while it streams; `onChange` is called after each event.
 * The request asks for the usage in each chunk: how many tokens a chunk has, only the server knows.
 * Times are this page's own, so they include the network. Throws `ApiError`, or AbortError when stopped.
 */
export async function streamChat(body, answer, signal, onChange) {
  const sent = performance.now();
  let first = 0;
  let last = 0;
  let before = 0; // tokens up to the first that was seen: a call's mark, say, has none of its own
  let usage = null;
  const measure = () => {
    const tokens = usage?.completion_tokens ?? 0;
    const seconds = (last - first) / 1000;
    answer.stats = {
      ttft: first ? (first - sent) / 1000 : null,
      tokens,
      rate: seconds > 0 && tokens > before ? (tokens - before) / seconds : null,
      prompt: usage?.prompt_tokens ?? null,
      cached: usage?.prompt_tokens_details?.cached_tokens ?? 0,
    };
  };
  try {
    const asked = { ...body, stream_options: { include_usage: true, continuous_usage_stats: true } };
    const response = await request("v1/chat/completions", { signal, body: asked });
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw streamError(chunk.error);
      if (chunk.usage) usage = chunk.usage;
      for (const choice of chunk.choices ?? []) {
        if (!addDelta(answer, choice)) continue;
        last = performance.now();
        if (first) continue;
        first = last;
        before = usage?.completion_tokens ?? 1;
      }
      measure();
      onChange();
    }
  } finally {
    measure();
  }
}
