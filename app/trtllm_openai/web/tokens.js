// Token log-probabilities: each token underlined by its probability, its alternatives on hover and by arrow keys.

import { h } from "./dom.js";
import { percent, t } from "./i18n.js";

/** A token as it can be seen: white space has signs. */
const visible = (token) => token.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
const share = (logprob) => (logprob === null || logprob < -9000 ? 0 : Math.exp(logprob));
const digits = (probability) => (probability < 0.01 || probability > 0.99 ? 2 : 0);
const grade = (probability) =>
  probability > 0.9 ? 4 : probability > 0.6 ? 3 : probability > 0.3 ? 2 : probability > 0.1 ? 1 : 0;

/** Show `tokens`, triples of text, logprob and [text, logprob] alternatives. One tab stop; arrows move. */
export function showTokens(place, tokens) {
  const card = h("div", { class: "token-card", role: "tooltip", hidden: true });
  const nodes = tokens.map(([text, logprob], index) =>
    h(
      "span",
      {
        role: "option",
        class: `token grade-${grade(share(logprob))}`,
        tabIndex: index ? -1 : 0,
        dataset: { index },
        "aria-label": `${visible(text)} ${percent(share(logprob), digits(share(logprob)))}`,
      },
      text,
    ),
  );

  const show = (node) => {
    const [text, logprob, top] = tokens[node.dataset.index];
    const rows = top.some(([other]) => other === text) ? top : [[text, logprob], ...top];
    card.replaceChildren(
      h(
        "p",
        { class: "token-head" },
        h("code", {}, visible(text)),
        ` ${percent(share(logprob), 2)} · ${(logprob ?? 0).toFixed(3)}`,
      ),
      h(
        "table",
        {},
        h("caption", { class: "hidden" }, t("tokens.alternatives")),
        h(
          "tbody",
          {},
          rows.map(([other, value]) => {
            const bar = h("span", { class: "token-bar" });
            bar.style.width = `${Math.max(1, share(value) * 100)}%`;
            return h(
              "tr",
              { class: other === text ? "chosen" : "" },
              h("th", { scope: "row" }, h("code", {}, visible(other))),
              h("td", { class: "token-share" }, percent(share(value), digits(share(value)))),
              h("td", { class: "token-track" }, bar),
            );
          }),
        ),
      ),
    );
    card.hidden = false;
    const within = place.getBoundingClientRect();
    const at = node.getBoundingClientRect();
    card.style.top = `${at.bottom - within.top + 6}px`;
    card.style.left = `${Math.max(0, Math.min(at.left - within.left, within.width - card.offsetWidth))}px`;
  };
  const hide = () => {
    card.hidden = true;
  };
  const tokenOf = (event) => (event.target.classList?.contains("token") ? event.target : null);

  const line = h(
    "div",
    {
      class: "tokens",
      role: "listbox",
      "aria-orientation": "horizontal",
      "aria-label": t("tokens.of"),
      onmouseover: (event) => tokenOf(event) && show(event.target),
      onmouseleave: hide,
      onfocusin: (event) => tokenOf(event) && show(event.target),
      onfocusout: hide,
      onkeydown: (event) => {
        const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
        const token = tokenOf(event);
        if (event.key === "Escape") hide();
        if (!token || !(event.key in steps)) return;
        event.preventDefault();
        const next = nodes[Math.max(0, Math.min(nodes.length - 1, Number(token.dataset.index) + steps[event.key]))];
        token.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      },
    },
    nodes,
  );
  place.className = "token-view";
  place.replaceChildren(line, card);
}
