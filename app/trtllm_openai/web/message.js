// One message of a conversation: its text, thinking, calls, probabilities, and what can be done with it.

import { copyText, h, icon, iconButton, toast } from "./dom.js";
import { number, seconds, t } from "./i18n.js";
import { render } from "./markdown.js";
import { showTokens } from "./tokens.js";

/**
 * The view of a message. `actions`: retry(message), edit(message, text, again), results(message, texts).
 * `results`: the tool messages that answer its calls. `update()` shows it as it is now.
 */
export function messageView(message, results, actions) {
  return message.role === "user" ? userView(message, actions) : new AnswerView(message, results, actions);
}

function userView(message, actions) {
  const text = h("div", { class: "text" }, message.content);
  const node = h(
    "article",
    { class: "message user", "aria-label": t("role.user") },
    text,
    h(
      "footer",
      { class: "message-foot" },
      h(
        "div",
        { class: "actions" },
        copyButton(message),
        iconButton("edit", t("message.edit"), () => edit(node, text, message, actions, true)),
        iconButton("retry", t("message.retry"), () => actions.retry(message)),
      ),
    ),
  );
  return { message, node, update() {} };
}

const copyButton = (message) =>
  iconButton("copy", t("message.copy"), async () => {
    await copyText(message.content);
    toast(t("copied"));
  });

/** Replace the text by a box. `again`: whether saving also asks for a new answer. */
function edit(node, text, message, actions, again) {
  if (node.querySelector(".edit")) return;
  const area = h("textarea", {
    value: message.content,
    rows: Math.min(12, message.content.split("\n").length + 1),
    "aria-label": t("edit.label"),
  });
  const close = () => {
    form.remove();
    text.hidden = false;
    node.querySelector(".actions button:nth-child(2)")?.focus();
  };
  const form = h(
    "form",
    {
      class: "edit",
      onsubmit(event) {
        event.preventDefault();
        actions.edit(message, area.value, again);
      },
      onkeydown(event) {
        if (event.key === "Escape") {
          event.stopPropagation();
          close();
        } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing)
          form.requestSubmit();
      },
    },
    area,
    h(
      "div",
      { class: "dialog-row" },
      h("span", { class: "space" }),
      h("button", { type: "button", class: "button", onclick: close }, t("cancel")),
      h("button", { type: "submit", class: "button primary" }, t(again ? "edit.send" : "save")),
    ),
  );
  text.hidden = true;
  text.after(form);
  area.focus();
}

class AnswerView {
  constructor(message, results, actions) {
    this.message = message;
    this.results = results;
    this.actions = actions;
    this.running = false;
    this.withTokens = false;
    this.text = h("div", { class: "text markdown" });
    this.tokens = h("div", { hidden: true });
    this.thought = h("div", { class: "markdown" });
    this.summary = h("summary", {});
    this.thinking = h("details", { class: "thinking", hidden: true }, this.summary, this.thought);
    this.waiting = h("p", { class: "waiting", hidden: true }, h("span", { class: "pulse" }), t("waiting"));
    this.calls = h("div", { class: "calls" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.stats = h("p", { class: "stats" });
    this.tokensButton = iconButton("tokens", t("message.tokens"), () => this.toggleTokens(), {
      "aria-pressed": "false",
    });
    this.bar = h(
      "div",
      { class: "actions" },
      copyButton(message),
      iconButton("edit", t("message.edit"), () => edit(this.node, this.text, message, actions, false)),
      iconButton("retry", t("message.retry"), () => actions.retry(message)),
      this.tokensButton,
    );
    this.node = h(
      "article",
      { class: "message assistant", "aria-label": t("role.assistant"), dataset: { id: message.id } },
      this.thinking,
      this.waiting,
      this.text,
      this.tokens,
      this.calls,
      this.problem,
      h("footer", { class: "message-foot" }, this.bar, this.stats),
    );
    this.update();
  }

  /** Show the message as it is now; `running`: it still grows. */
  update(running = false) {
    const { message } = this;
    this.running = running;
    this.node.setAttribute("aria-busy", String(running));
    const silent = !message.content && !message.reasoning && !message.calls.length;
    this.waiting.hidden = !(running && silent);
    this.thinking.hidden = !message.reasoning;
    if (message.reasoning) {
      this.summary.textContent = t(running && !message.content && !message.calls.length ? "thinking.now" : "thinking");
      render(this.thought, message.reasoning);
    }
    render(this.text, message.content);
    this.showCalls();
    this.problem.hidden = !message.error;
    this.problem.textContent = message.error;
    this.bar.hidden = running;
    this.tokensButton.hidden = !message.tokens.length;
    if (!running && this.withTokens) showTokens(this.tokens, message.tokens);
    this.stats.replaceChildren(...this.figures());
  }

  figures() {
    const { stats, finish } = this.message;
    if (!stats?.tokens) return [];
    const parts = [h("span", {}, t("stats.tokens", { count: number(stats.tokens) }))];
    if (stats.rate !== null) parts.push(h("span", { class: "rate" }, t("stats.rate", { rate: number(stats.rate, 1) })));
    if (stats.ttft !== null)
      parts.push(
        h("span", { class: "ttft", title: t("stats.ttft.title") }, t("stats.ttft", { time: seconds(stats.ttft) })),
      );
    if (stats.prompt !== null) {
      const cached = stats.cached ? ` (${t("stats.cached", { count: number(stats.cached) })})` : "";
      parts.push(h("span", {}, t("stats.prompt", { count: number(stats.prompt) }) + cached));
    }
    if (finish === "length" || finish === "stopped") parts.push(h("span", { class: "cut" }, t(`finish.${finish}`)));
    return parts;
  }

  toggleTokens() {
    this.withTokens = !this.withTokens;
    this.tokensButton.setAttribute("aria-pressed", String(this.withTokens));
    this.text.hidden = this.withTokens;
    this.tokens.hidden = !this.withTokens;
    if (this.withTokens) showTokens(this.tokens, this.message.tokens);
  }

  showCalls() {
    const { calls } = this.message;
    const state = JSON.stringify([calls, this.results.map((one) => one.content), this.running]);
    if (state === this.shownCalls) return;
    this.shownCalls = state;
    if (!calls.length) return this.calls.replaceChildren();
    const open = !this.running && !this.results.length;
    const cards = calls.map((call, index) => {
      const result = this.results.find((one) => one.callId === call.id) ?? this.results[index];
      return h(
        "section",
        { class: "call", "aria-label": t("call", { name: call.name }) },
        h("p", { class: "call-name" }, icon("tool"), call.name),
        h("pre", { tabIndex: 0, class: "call-arguments" }, pretty(call.arguments)),
        result && [
          h(
            "p",
            { class: "call-name" },
            icon("check"),
            t("call.result", { name: call.name }),
            iconButton("edit", t("message.edit"), () => this.actions.editResults(this.message)),
          ),
          h("pre", { tabIndex: 0, class: "call-result" }, result.content),
        ],
        open &&
          h("textarea", {
            rows: 2,
            "aria-label": t("call.result", { name: call.name }),
            placeholder: t("call.placeholder"),
            value: this.drafts?.[index] ?? "",
          }),
      );
    });
    if (open)
      cards.push(
        h("div", { class: "dialog-row" }, h("button", { type: "submit", class: "button primary" }, t("call.continue"))),
      );
    const form = h(
      "form",
      {
        onsubmit: (event) => {
          event.preventDefault();
          this.actions.results(
            this.message,
            Array.from(form.querySelectorAll("textarea"), (area) => area.value),
          );
        },
      },
      cards,
    );
    this.calls.replaceChildren(form);
  }

  /** Ask for the results again, beginning with these. */
  ask(drafts) {
    this.drafts = drafts;
    this.shownCalls = "";
    this.showCalls();
    this.calls.querySelector("textarea")?.focus();
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // it is still coming, or no JSON
  }
}
