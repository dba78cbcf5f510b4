// The status view: /status every two seconds while it is seen.

import { ApiError, getJson } from "./api.js";
import { h } from "./dom.js";
import { clock, number, percent, seconds, t } from "./i18n.js";
import { HistogramPlot, LinePlot, quantile } from "./plots.js";

const EVERY_MS = 2000;
const RATE_OVER_S = 14; // a rate is the mean over this time at least, so that it is legible

/** Rates per second of a counter that may begin anew; null where there is no time before. */
export function rates(at, totals) {
  const grown = [0];
  for (let index = 1; index < totals.length; index += 1)
    grown.push(grown[index - 1] + Math.max(0, totals[index] - totals[index - 1]));
  return at.map((now, index) => {
    let from = index;
    while (from > 0 && now - at[from] < RATE_OVER_S) from -= 1;
    return from === index ? null : (grown[index] - grown[from]) / (now - at[from]);
  });
}

/** The shares of two gauges; null where there is nothing to share. */
const shares = (parts, wholes) => parts.map((part, index) => (wholes[index] ? part / wholes[index] : null));

/** What a counter grew by, however often it began anew. */
const growth = (totals) =>
  totals.reduce((sum, total, index) => sum + (index ? Math.max(0, total - totals[index - 1]) : 0), 0);

export class Status {
  #place;
  #timer = 0;
  #shown = false;
  #last = null;
  #askForKey;
  #declined = false; // a key was asked for and not given: do not ask again with every poll

  constructor(place, askForKey) {
    this.#place = place;
    this.#askForKey = askForKey;
    document.addEventListener("visibilitychange", () => this.#shown && !document.hidden && this.#poll());
  }

  show() {
    this.#shown = true;
    if (!this.parts) this.render();
    this.#poll();
  }

  hide() {
    this.#shown = false;
    clearTimeout(this.#timer);
  }

  /** Build the view, in the language of now. */
  render() {
    const whole = { format: (share) => percent(share), top: 1, most: 1 };
    const tile = (name) =>
      h(
        "div",
        { class: "tile" },
        h("p", { class: "tile-name" }, name),
        h("p", { class: "tile-value" }),
        h("p", { class: "tile-note" }),
      );
    const parts = (this.parts = {
      state: h("span", { class: "badge" }),
      about: h("p", { class: "about" }),
      alert: h("div", { class: "alert", role: "alert", hidden: true }),
      rate: tile(t("status.rate")),
      requests: tile(t("status.requests")),
      ttft: tile(t("status.ttft")),
      itl: tile(t("status.itl")),
      kv: tile(t("status.kv")),
      prefix: tile(t("status.prefix")),
      throughput: new LinePlot(
        t("status.throughput"),
        [
          { label: t("status.rate"), key: "generated" },
          { label: t("status.prefill"), key: "prefilled" },
        ],
        { top: 10 },
      ),
      queue: new LinePlot(
        t("status.requests"),
        [
          { label: t("status.running"), key: "running" },
          { label: t("status.waiting"), key: "waiting" },
        ],
        { top: 4, format: (value) => number(value) },
      ),
      kvPlot: new LinePlot(t("status.kv"), [{ label: t("status.kv.used"), key: "kv" }], whole),
      prefixPlot: new LinePlot(t("status.prefix"), [{ label: t("status.prefix"), key: "prefix" }], whole),
      ttftPlot: new HistogramPlot(t("status.ttft")),
      itlPlot: new HistogramPlot(t("status.itl")),
      runners: h("tbody"),
      restarts: h("span", { class: "note" }),
      engine: h("dl", { class: "facts" }),
      failures: h("div"),
    });
    const table = (titles, body) =>
      h(
        "div",
        { class: "table", tabIndex: 0 },
        h(
          "table",
          {},
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              titles.map((title) => h("th", { scope: "col" }, title)),
            ),
          ),
          body,
        ),
      );
    this.table = table;
    this.#place.replaceChildren(
      h(
        "div",
        { class: "status-inner" },
        h("header", { class: "status-head" }, h("h1", {}, t("status.title")), parts.state, parts.about),
        parts.alert,
        h("div", { class: "tiles" }, parts.rate, parts.requests, parts.ttft, parts.itl, parts.kv, parts.prefix),
        h(
          "div",
          { class: "plots" },
          parts.throughput.node,
          parts.queue.node,
          parts.ttftPlot.node,
          parts.itlPlot.node,
          parts.kvPlot.node,
          parts.prefixPlot.node,
        ),
        h(
          "section",
          { class: "card" },
          h("h2", {}, t("status.runners"), " ", parts.restarts),
          table(
            ["runner", "state", "node", "gpus", "sequences", "reason"].map((name) => t(`status.${name}`)),
            parts.runners,
          ),
          parts.engine,
        ),
        h("section", { class: "card" }, h("h2", {}, t("status.failures")), parts.failures),
      ),
    );
    if (this.#last) this.#fill(this.#last);
  }

  async #poll() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    try {
      this.#last = await getJson("status", { quiet: this.#declined });
      this.#declined = false;
      this.parts.alert.hidden = true;
      this.#fill(this.#last);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#declined ||= error.status === 401;
      this.#explain(error);
    }
    if (this.#shown) this.#timer = setTimeout(() => this.#poll(), EVERY_MS);
  }

  #explain(error) {
    const { alert } = this.parts;
    const text =
      error.status === 0 ? t("status.unreachable") : error.status === 403 ? t("status.scope") : error.message;
    const again = [401, 403].includes(error.status);
    if (alert.hidden || alert.firstChild?.textContent !== text) {
      const button = h(
        "button",
        {
          type: "button",
          class: "button",
          onclick: async () => {
            if (await this.#askForKey("")) this.#poll();
          },
        },
        t("status.other.key"),
      );
      alert.replaceChildren(h("span", {}, text), ...(again ? [button] : []));
    }
    alert.hidden = false;
    if (error.status === 0) this.#badge("bad", t("status.unreachable"));
  }

  #badge(kind, text) {
    const { state } = this.parts;
    state.className = `badge ${kind}`;
    if (state.textContent !== text) state.textContent = text;
  }

  #fill(status) {
    const { samples, histograms, info } = status;
    const { at } = samples;
    const parts = this.parts;
    if (!status.ready)
      this.#badge("bad", `${t("status.notready")}${status.progress < 1 ? ` · ${percent(status.progress)}` : ""}`);
    else this.#badge(status.reason ? "warn" : "good", t(status.reason ? "status.degraded" : "status.ready"));
    parts.about.replaceChildren(
      ...[
        status.model,
        `${status.engine} ${status.version}`,
        t("status.since", { time: duration(status.now - status.created) }),
        t("status.updated", { time: clock(status.now) }),
      ].map((text) => h("span", {}, text)),
      status.reason && h("span", {}, status.reason),
    );

    const generated = rates(at, samples.engine_generated_tokens);
    const prefilled = rates(at, samples.engine_prompt_tokens);
    const running = samples.requests_running;
    const waiting = samples.requests_waiting;
    const kvUsed = samples.kv_blocks_used;
    const kvTotal = samples.kv_blocks_total;
    const queried = rates(at, samples.prefix_cache_queried_tokens);
    const prefix = shares(rates(at, samples.prefix_cache_hit_tokens), queried);
    const inAll = growth(samples.prefix_cache_queried_tokens);
    const hit = growth(samples.prefix_cache_hit_tokens);
    const ttft = histograms.time_to_first_token_seconds;
    const itl = histograms.inter_token_latency_seconds;
    const now = (values) => values.at(-1);
    const unit = t("status.per.second");
    const rate = (value) => number(value ?? 0, value < 10 ? 1 : 0);

    this.#tile(parts.rate, rate(now(generated)), `${t("status.prefill")} ${rate(now(prefilled))}`, unit);
    this.#tile(parts.requests, number(now(running)), t("status.queue", { count: number(now(waiting)) }));
    this.#tile(parts.ttft, seconds(quantile(ttft, 0.5)), `p99 ${seconds(quantile(ttft, 0.99))}`);
    this.#tile(parts.itl, seconds(quantile(itl, 0.5)), `p99 ${seconds(quantile(itl, 0.99))}`);
    const none = !now(kvTotal);
    this.#tile(
      parts.kv,
      none ? "–" : percent(now(kvUsed) / now(kvTotal), 1),
      none ? t("status.kv.none") : t("status.kv.blocks", { used: number(now(kvUsed)), total: number(now(kvTotal)) }),
    );
    this.#tile(
      parts.prefix,
      inAll ? percent(hit / inAll) : "–",
      t("status.prefix.tokens", { hit: number(hit), queried: number(inAll) }),
    );

    parts.throughput.update(at, { generated, prefilled });
    parts.queue.update(at, { running, waiting });
    parts.kvPlot.update(at, { kv: shares(kvUsed, kvTotal) });
    parts.prefixPlot.update(at, { prefix });
    parts.ttftPlot.update(ttft);
    parts.itlPlot.update(itl);

    const ready = status.runners.filter((one) => one.state === "ready").length;
    const scale =
      ready === status.wanted && ready === status.runners.length
        ? ""
        : t("status.wanted", {
            ready: number(ready),
            wanted: number(status.wanted),
          });
    const restarts = status.restarts ? t("status.restarts", { count: number(status.restarts) }) : "";
    parts.restarts.textContent = [scale, restarts].filter(Boolean).join(" · ");
    parts.runners.replaceChildren(
      ...status.runners.map((one) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, one.index),
          h(
            "td",
            {},
            h("span", { class: `badge ${KINDS[one.state] ?? "bad"}` }, t(`state.${one.state}`)),
            one.state === "loading" && ` ${percent(one.loaded)}`,
          ),
          h("td", {}, one.node ?? t("status.node.here")),
          h("td", {}, one.gpus ?? (info?.device === "cpu" ? "CPU" : t("status.none.gpu"))),
          h("td", {}, number(one.sequences)),
          h("td", {}, one.reason || "–"),
        ),
      ),
    );
    parts.engine.replaceChildren(
      ...this.#facts(status).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );
    this.#fillFailures(status.failures);
  }

  #tile(node, value, note, unit = "") {
    node.children[1].replaceChildren(value, h("span", { class: "unit" }, unit));
    node.children[2].textContent = note;
  }

  #facts({ info, workers, engine }) {
    if (!info)
      return [
        [t("status.engine"), engine],
        [t("status.engine.workers"), number(workers)],
      ];
    return [
      [
        t("status.engine"),
        [info.engine, info.architecture, info.dtype, info.device].filter((one) => one && one !== "none").join(" · "),
      ],
      [t("status.engine.context"), number(info.max_seq_len)],
      [t("status.engine.batch"), number(info.max_batch_size)],
      [t("status.engine.parallel"), `${info.tensor_parallel} × ${info.pipeline_parallel}`],
      [t("status.engine.workers"), number(workers)],
    ];
  }

  #fillFailures(failures) {
    const state = JSON.stringify(failures);
    if (state === this.shownFailures && this.parts.failures.hasChildNodes()) return;
    this.shownFailures = state;
    if (!failures.length)
      return this.parts.failures.replaceChildren(h("p", { class: "note" }, t("status.failures.none")));
    const rows = failures.map((one) =>
      h(
        "tr",
        {},
        h("td", {}, clock(one.at)),
        h(
          "td",
          {},
          h(
            "span",
            { class: `badge ${one.level === "warning" ? "warn" : "bad"}` },
            one.status || t(`level.${one.level === "warning" ? "warning" : "error"}`),
          ),
        ),
        h("td", {}, one.what),
        h("td", { class: "failure-reason" }, one.reason, one.request_id && h("code", {}, one.request_id)),
        h("td", {}, number(one.count)),
        h("td", {}, one.process),
      ),
    );
    this.parts.failures.replaceChildren(
      this.table(
        [
          t("status.time"),
          t("status.state"),
          t("status.what"),
          t("status.reason"),
          t("status.count"),
          t("status.process"),
        ],
        h("tbody", {}, rows),
      ),
    );
  }
}

const KINDS = { ready: "good", starting: "warn", loading: "warn", draining: "warn" };

function duration(s) {
  const units = [
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
    ["second", 1],
  ];
  const [unit, length] = units.find(([, one]) => s >= one) ?? units.at(-1);
  return new Intl.NumberFormat(document.documentElement.lang, { style: "unit", unit, unitDisplay: "long" }).format(
    Math.floor(s / length),
  );
}
