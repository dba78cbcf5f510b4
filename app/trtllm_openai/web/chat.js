// The chat view: conversations, the thread, the composer, and the answers that are being streamed.

import { announce, announceAnswer, beginAnswer } from "./announcer.js";
import { Conversations } from "./conversations.js";
import { byId, h, toast } from "./dom.js";
import { described } from "./errors.js";
import { t } from "./i18n.js";
import { showList } from "./list.js";
import { messageView } from "./message.js";
import { chatRequest, parsedSchema, parsedTools } from "./options.js";
import { problems, showSettings } from "./settings.js";
import * as store from "./store.js";
import { emptyAnswer, streamChat } from "./stream.js";

const SAVE_EVERY_MS = 1500;
const NEAR_END = 80; // pixels from the end at which the thread follows the answer

/** `server`: {model, card, notReady, problem} as `app.js` keeps it. */
export class Chat {
  #server;
  #conversations;
  #current = store.newConversation();
  #runs = new Map(); // conversation -> {stop, message}
  #views = new Map(); // message id -> view
  #optionsShown;

  constructor(server) {
    this.#server = server;
    this.#conversations = new Conversations({
      busy: (one) => this.#runs.has(one) || (one === this.#current && Boolean(byId("thread").querySelector(".edit"))),
      changed: (one) => this.#follow(one),
      gone: (one) => this.#leave(one),
      parted: () => toast(t("conversations.parted")),
      failed: (error) => this.#failed(error),
    });
  }

  async open() {
    try {
      await this.#conversations.open();
    } catch (error) {
      this.#failed(error);
    }
    this.#current = this.conversations[0] ?? this.#current;
    this.#listen();
    this.render();
  }

  get conversations() {
    return this.#conversations.all;
  }

  /** The request that would be sent now. */
  request() {
    const { messages, options } = this.#current;
    const draft = byId("composer-input").value.trim();
    const last = draft
      ? [{ role: "user", content: draft }]
      : messages.length
        ? []
        : [{ role: "user", content: "Hello" }];
    const unanswered = messages.at(-1)?.role === "assistant" && !draft ? messages.slice(0, -1) : messages;
    return chatRequest(
      this.#server.model,
      options,
      [...unanswered, ...last],
      this.#server.card?.trtllm_openai?.capabilities,
    );
  }

  start() {
    this.#show(store.newConversation());
  }

  stop() {
    const run = this.#runs.get(this.#current);
    run?.stop.abort();
    return Boolean(run);
  }

  async import(file) {
    try {
      const found = await this.#conversations.import(await file.text());
      if (found.length) this.#show(found[0]);
      toast(t("import.done", { count: found.length }));
    } catch (error) {
      toast(t("import.failed", { reason: error.message }));
    }
  }

  /** Show everything anew, in the language of now. */
  render() {
    this.#renderList();
    this.#renderThread();
    this.renderSettings();
    this.#renderState();
  }

  renderSettings() {
    this.#optionsShown = this.#current.options;
    showSettings(byId("settings"), this.#optionsShown, this.#server.card, () => {
      this.#conversations.keep(this.#current);
      this.#renderState();
    });
  }

  /** The server's state has changed. */
  renderEmpty() {
    if (!this.#current.messages.length) this.#renderThread();
  }

  /** Another tab has changed a conversation. */
  #follow(conversation) {
    this.#renderList();
    if (conversation !== this.#current) return;
    const thread = byId("thread");
    const place = this.#atEnd() ? null : thread.scrollTop;
    this.#renderThread();
    if (place !== null) thread.scrollTop = place;
    if (this.#optionsShown !== conversation.options) this.renderSettings();
    this.#renderState();
  }

  #show(conversation) {
    this.#current = conversation;
    this.render();
    byId("composer-input").focus();
  }

  #listen() {
    const input = byId("composer-input");
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault(); // while Hangul is composed, Enter ends the syllable and sends nothing
      this.#send();
    });
    input.addEventListener("input", () => this.#grow());
    byId("stop").addEventListener("click", () => this.stop());
    byId("new-chat").addEventListener("click", () => this.start());
    addEventListener("pagehide", () => this.#runs.size && this.#conversations.keep(this.#current));
  }

  #grow() {
    const input = byId("composer-input");
    input.style.height = "auto";
    input.style.height = `${Math.min(input.scrollHeight, 240)}px`;
  }

  #send() {
    const input = byId("composer-input");
    const text = input.value.trim();
    if (!text || this.#runs.has(this.#current) || !this.#valid()) return;
    input.value = "";
    this.#grow();
    this.#current.messages.push({ id: store.newId(), role: "user", content: text });
    this.#answer(this.#current);
  }

  #valid() {
    const [name] = Object.keys(problems(this.#current.options, byId("settings")));
    if (name) toast(t("settings.invalid", { name: t(`settings.${name}`) }));
    return !name;
  }

  /** Ask for the answer to a conversation's messages, and stream it. */
  async #answer(conversation) {
    const server = this.#server;
    const answer = emptyAnswer(store.newId(), server.model);
    const body = chatRequest(
      server.model,
      conversation.options,
      conversation.messages,
      server.card?.trtllm_openai?.capabilities,
    );
    conversation.title ||= conversation.messages.find((one) => one.role === "user")?.content.slice(0, 80) ?? "";
    conversation.messages.push(answer);
    conversation.updated = Date.now();
    this.#conversations.raise(conversation);
    const run = { stop: new AbortController(), message: answer };
    this.#runs.set(conversation, run);
    this.#conversations.keep(conversation);
    this.render();
    this.#scroll();
    announce(t("answer.begun"));
    beginAnswer();

    let frame = 0;
    let saved = performance.now();
    let spoken = 0;
    const show = () => {
      frame = 0;
      this.#update(answer, true);
      if (this.#current === conversation) announceAnswer(answer.content.slice(spoken));
      spoken = answer.content.length;
      if (performance.now() - saved > SAVE_EVERY_MS) {
        saved = performance.now();
        this.#conversations.keep(conversation);
      }
    };
    try {
      await streamChat(body, answer, run.stop.signal, () => {
        frame ||= requestAnimationFrame(show);
      });
    } catch (error) {
      if (error.name === "AbortError") answer.finish = "stopped";
      else answer.error = described(error);
    }
    cancelAnimationFrame(frame);
    if (this.#runs.get(conversation) !== run) return; // another answer was asked for meanwhile
    this.#runs.delete(conversation);
    conversation.updated = Date.now();
    this.#conversations.keep(conversation);
    this.#update(answer, false);
    this.#renderState();
    if (this.#current === conversation) {
      announceAnswer(answer.content.slice(spoken), true);
      announce(answer.error || t(answer.finish === "stopped" ? "finish.stopped" : "answer.done"));
      if (answer.calls.length) this.#views.get(answer.id)?.calls.querySelector("textarea")?.focus();
    }
  }

  #update(message, running) {
    const view = this.#views.get(message.id);
    if (!view) return;
    const follows = this.#atEnd();
    view.update(running);
    if (follows) this.#scroll();
  }

  #atEnd() {
    const thread = byId("thread");
    return thread.scrollHeight - thread.scrollTop - thread.clientHeight < NEAR_END;
  }

  #scroll() {
    const thread = byId("thread");
    thread.scrollTop = thread.scrollHeight;
  }

  #actions = {
    retry: (message) => {
      const at = this.#current.messages.indexOf(message);
      this.#again(message.role === "user" ? at + 1 : at);
    },
    edit: (message, text, again) => {
      message.content = text;
      if (again) return this.#again(this.#current.messages.indexOf(message) + 1);
      message.tokens = []; // they were those of the text before
      this.#conversations.keep(this.#current);
      this.#renderThread();
    },
    results: (message, texts) => {
      if (this.#runs.has(this.#current) || !this.#valid()) return;
      const results = message.calls.map((call, index) => ({
        id: store.newId(),
        role: "tool",
        callId: call.id,
        content: texts[index],
      }));
      this.#cut(this.#current.messages.indexOf(message) + 1);
      this.#current.messages.push(...results);
      this.#answer(this.#current);
    },
    editResults: (message) => {
      const drafts = this.#resultsOf(message).map((one) => one.content);
      this.#stopAndCut(this.#current.messages.indexOf(message) + 1);
      this.#renderThread();
      this.#views.get(message.id).ask(drafts);
    },
  };

  #again(length) {
    if (!this.#valid()) return;
    this.#stopAndCut(length);
    this.#answer(this.#current);
  }

  #stopAndCut(length) {
    this.stop();
    this.#runs.delete(this.#current);
    this.#cut(length);
  }

  #cut(length) {
    this.#current.messages.length = length;
  }

  #resultsOf(message) {
    const { messages } = this.#current;
    const from = messages.indexOf(message) + 1;
    const end = messages.findIndex((one, index) => index >= from && one.role !== "tool");
    return messages.slice(from, end === -1 ? undefined : end);
  }

  #renderThread() {
    const { messages } = this.#current;
    const running = this.#runs.get(this.#current)?.message;
    this.#views.clear();
    for (const message of messages) {
      if (message.role === "tool") continue; // shown with its call
      const results = message.role === "assistant" ? this.#resultsOf(message) : [];
      this.#views.set(message.id, messageView(message, results, this.#actions));
    }
    if (running) this.#views.get(running.id)?.update(true);
    const views = Array.from(this.#views.values(), (view) => view.node);
    byId("thread").replaceChildren(...(views.length ? views : [this.#empty()]));
    byId("conversation-title").textContent = this.#current.title || t("untitled");
    this.#scroll();
  }

  #empty() {
    const { model, notReady, problem } = this.#server;
    const text =
      notReady || problem ? t("empty.wait", { reason: notReady || problem }) : model ? t("empty.text", { model }) : "";
    return h("div", { class: "empty" }, h("h2", {}, t("empty.title")), h("p", {}, text));
  }

  #renderList() {
    showList(
      this.conversations,
      this.#current,
      (one) => this.#show(one),
      (one) => this.#delete(one),
    );
  }

  async #delete(conversation) {
    const removed = this.#conversations.remove(conversation).catch((error) => this.#failed(error));
    this.#leave(conversation);
    await removed;
    toast(t("conversations.deleted"), {
      label: t("conversations.undo"),
      run: () => {
        this.#conversations.restore(conversation).catch((error) => this.#failed(error));
        this.#show(conversation);
      },
    });
  }

  /** A conversation is not kept any more. */
  #leave(conversation) {
    this.#runs.get(conversation)?.stop.abort();
    if (this.#current === conversation) this.#show(this.conversations[0] ?? store.newConversation());
    else this.#renderList();
  }

  /** The buttons, and what the request will have beside its messages. */
  #renderState() {
    const running = this.#runs.has(this.#current);
    byId("send").hidden = running;
    byId("stop").hidden = !running;
    const { options } = this.#current;
    const active = [
      options.system?.trim() && t("active.system"),
      parsedTools(options).value?.length && t("active.tools"),
      parsedSchema(options).value && t("active.schema"),
    ].filter(Boolean);
    byId("active-options").replaceChildren(...active.map((text) => h("span", { class: "chip" }, text)));
  }

  #failed(error) {
    toast(t("store.failed", { reason: error?.message ?? String(error) }));
  }
}
