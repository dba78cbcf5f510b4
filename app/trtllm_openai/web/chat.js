// The chat view: conversations, the thread, the composer, and the answers that are being streamed.

import { announce, announceAnswer, beginAnswer } from "./announcer.js";
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
  #conversations = [];
  #current = store.newConversation();
  #runs = new Map(); // conversation id -> {stop, message}
  #views = new Map(); // message id -> view

  constructor(server) {
    this.#server = server;
  }

  async open() {
    try {
      this.#conversations = await store.prune(await store.load());
    } catch (error) {
      this.#failed(error);
    }
    if (this.#conversations.length) this.#current = this.#conversations[0];
    this.#listen();
    this.render();
  }

  get conversations() {
    return this.#conversations;
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
    const run = this.#runs.get(this.#current.id);
    run?.stop.abort();
    return Boolean(run);
  }

  async import(file) {
    try {
      const found = store.imported(await file.text());
      for (const one of found) await store.save(one);
      this.#conversations = await store.prune(await store.load());
      if (found.length) this.#show(this.#conversations.find((one) => one.id === found[0].id) ?? this.#current);
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
    showSettings(byId("settings"), this.#current.options, this.#server.card, () => {
      this.#keep(this.#current);
      this.#renderState();
    });
  }

  /** The server's state has changed. */
  renderEmpty() {
    if (!this.#current.messages.length) this.#renderThread();
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
    addEventListener("pagehide", () => this.#runs.size && this.#keep(this.#current));
  }

  #grow() {
    const input = byId("composer-input");
    input.style.height = "auto";
    input.style.height = `${Math.min(input.scrollHeight, 240)}px`;
  }

  #send() {
    const input = byId("composer-input");
    const text = input.value.trim();
    if (!text || this.#runs.has(this.#current.id) || !this.#valid()) return;
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
    this.#conversations = [conversation, ...this.#conversations.filter((one) => one !== conversation)];
    const run = { stop: new AbortController(), message: answer };
    this.#runs.set(conversation.id, run);
    this.#keep(conversation);
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
        this.#keep(conversation);
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
    if (this.#runs.get(conversation.id) !== run) return; // another answer was asked for meanwhile
    this.#runs.delete(conversation.id);
    conversation.updated = Date.now();
    this.#keep(conversation);
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
      this.#keep(this.#current);
      this.#renderThread();
    },
    results: (message, texts) => {
      if (this.#runs.has(this.#current.id) || !this.#valid()) return;
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
    this.#runs.delete(this.#current.id);
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
    const { messages, id } = this.#current;
    const running = this.#runs.get(id)?.message;
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
      this.#conversations,
      this.#current,
      (one) => this.#show(one),
      (one) => this.#delete(one),
    );
  }

  async #delete(conversation) {
    this.#runs.get(conversation.id)?.stop.abort();
    const before = this.#conversations;
    this.#conversations = before.filter((one) => one !== conversation);
    if (this.#current === conversation) this.#show(this.#conversations[0] ?? store.newConversation());
    else this.#renderList();
    await store.remove(conversation.id).catch((error) => this.#failed(error));
    toast(t("conversations.deleted"), {
      label: t("conversations.undo"),
      run: () => {
        this.#conversations = before;
        this.#keep(conversation);
        this.#show(conversation);
      },
    });
  }

  /** The buttons, and what the request will have beside its messages. */
  #renderState() {
    const running = this.#runs.has(this.#current.id);
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

  #keep(conversation) {
    if (!conversation.messages.length || !this.#conversations.includes(conversation)) return;
    store.save(conversation).catch((error) => this.#failed(error));
  }

  #failed(error) {
    toast(t("store.failed", { reason: error?.message ?? String(error) }));
  }
}
