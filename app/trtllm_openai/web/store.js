// Conversations in the browser's IndexedDB, bounded, which all tabs share; as JSON out and in.
//
// Each has a `revision`, which every save raises: a tab that has not seen the latest one does not overwrite it.

const DATABASE = "trtllm-openai";
const TABLE = "conversations";
const MAX_CONVERSATIONS = 200;
const MAX_CHARACTERS = 4_000_000; // of one conversation as JSON
const FORMAT = "trtllm-openai.conversations";
const ROLES = ["user", "assistant", "tool"];

export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export const newConversation = () => ({
  id: newId(),
  revision: 0, // what the store has; 0: nothing yet
  title: "",
  updated: Date.now(),
  options: {},
  messages: [],
});

const channel = new BroadcastChannel(`${DATABASE}.${TABLE}`);

/** Call `listener` with the id of each conversation that another tab has saved or deleted. */
export const onChange = (listener) => channel.addEventListener("message", (event) => listener(event.data));

let opening;
function database() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

async function transaction(mode, work) {
  const open = (await database()).transaction(TABLE, mode);
  const request = work(open.objectStore(TABLE));
  await new Promise((resolve, reject) => {
    open.oncomplete = resolve;
    open.onerror = open.onabort = () => reject(open.error);
  });
  return request?.result;
}

/** As it was before there were revisions, it has one all the same. */
const revised = (stored) => stored && { revision: 1, ...stored };

/** All conversations, the latest first. */
export async function load() {
  const every = await transaction("readonly", (table) => table.getAll());
  return every.map(revised).sort((a, b) => b.updated - a.updated);
}

/** The conversation with this id, if there is one. */
export const get = async (id) => revised(await transaction("readonly", (table) => table.get(id)));

/** Its copy for the store. Token probabilities of old messages go first where it is too large. */
function bounded(conversation) {
  const kept = structuredClone(conversation);
  for (const message of kept.messages) {
    if (JSON.stringify(kept).length <= MAX_CHARACTERS) break;
    if (message.tokens) message.tokens = [];
  }
  return kept;
}

/**
 * Keep a conversation. Nothing is written, and "deleted" or "conflict" returned, if another tab has deleted or
 * saved it since its revision.
 */
export async function save(conversation) {
  const kept = bounded(conversation);
  const { revision } = conversation;
  let outcome = "saved";
  try {
    await transaction("readwrite", (table) => {
      const found = table.get(kept.id);
      found.onsuccess = () => {
        const stored = revised(found.result);
        // Not the revision of the copy: an earlier save of this tab may have been under way.
        if (!stored && conversation.revision) outcome = "deleted";
        else if (stored && stored.revision !== conversation.revision) outcome = "conflict";
        else table.put({ ...kept, revision: (conversation.revision += 1) });
      };
    });
  } catch (error) {
    conversation.revision = revision;
    throw error;
  }
  if (outcome === "saved") channel.postMessage(kept.id);
  return outcome;
}

/** Keep a conversation whatever is kept under its id, or was. */
export async function replace(conversation) {
  conversation.revision = ((await get(conversation.id))?.revision ?? 0) + 1;
  await transaction("readwrite", (table) => table.put(bounded(conversation)));
  channel.postMessage(conversation.id);
}

export async function remove(id) {
  await transaction("readwrite", (table) => table.delete(id));
  channel.postMessage(id);
}

/** Delete what is beyond the bound; `every` is sorted, the latest first. Returns what stays. */
export async function prune(every) {
  for (const one of every.slice(MAX_CONVERSATIONS)) await remove(one.id);
  return every.slice(0, MAX_CONVERSATIONS);
}

/** Conversations as the text of a file. */
export function exported(conversations) {
  const plain = conversations.map(({ revision: _, ...one }) => one);
  return JSON.stringify({ format: FORMAT, version: 1, conversations: plain }, null, 1);
}

/** The conversations of such a file, with only what this page knows. Throws an Error that says what is wrong. */
export function imported(text) {
  const content = JSON.parse(text);
  if (content?.format !== FORMAT || !Array.isArray(content.conversations)) throw new Error(`no "format": "${FORMAT}"`);
  return content.conversations.slice(0, MAX_CONVERSATIONS).map((one) => ({
    id: /^[0-9a-f]{24}$/.test(one.id) ? one.id : newId(),
    revision: 0,
    title: string(one.title).slice(0, 200),
    updated: Number(one.updated) || Date.now(),
    options: Object.fromEntries(
      Object.entries(one.options ?? {}).filter(([, value]) => ["string", "boolean"].includes(typeof value)),
    ),
    messages: (Array.isArray(one.messages) ? one.messages : [])
      .filter((message) => ROLES.includes(message?.role))
      .map(message),
  }));
}

const string = (value) => (typeof value === "string" ? value : "");
const finite = (value) => (Number.isFinite(value) ? value : null);

function message(one) {
  const common = { id: newId(), role: one.role, content: string(one.content) };
  if (one.role === "user") return common;
  if (one.role === "tool") return { ...common, callId: string(one.callId) };
  return {
    ...common,
    model: string(one.model),
    reasoning: string(one.reasoning),
    calls: list(one.calls).map((call) => ({
      id: string(call?.id),
      name: string(call?.name),
      arguments: string(call?.arguments),
    })),
    tokens: list(one.tokens)
      .filter((token) => Array.isArray(token) && Array.isArray(token[2]))
      .map(([text, logprob, top]) => [
        string(text),
        finite(logprob),
        top.filter(Array.isArray).map(([other, value]) => [string(other), finite(value)]),
      ]),
    finish: string(one.finish),
    error: string(one.error),
    stats:
      one.stats && Number.isFinite(one.stats.tokens)
        ? {
            ttft: finite(one.stats.ttft),
            tokens: one.stats.tokens,
            rate: finite(one.stats.rate),
            prompt: finite(one.stats.prompt),
            cached: finite(one.stats.cached) ?? 0,
          }
        : null,
  };
}

const list = (value) => (Array.isArray(value) ? value : []);
