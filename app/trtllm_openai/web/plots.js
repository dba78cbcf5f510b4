// Plots as SVG: lines over time, and histograms. Each is an image with its numbers in its name.

import { h, svg } from "./dom.js";
import { clock, number, seconds, short, t } from "./i18n.js";

const HEIGHT = 150;
const MARGIN = { top: 8, right: 4, bottom: 20, left: 52 };
const WINDOW_S = 900;
const LEAST_COLUMNS = 9; // of a histogram

/** A step of 1, 2 or 5 times a power of ten, of which about `count` make up `max`. */
export function niceStep(max, count) {
  const raw = max / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
}

/** The frame of a plot: a title, a legend or note, and the drawing, which `draw(width)` makes. */
class Plot {
  constructor(title) {
    this.title = title;
    this.note = h("p", { class: "plot-note" });
    this.drawing = h("div", { class: "plot-drawing" });
    this.node = h("section", { class: "card plot" }, h("h3", {}, title), this.note, this.drawing);
    new ResizeObserver(() => this.draw()).observe(this.drawing);
  }

  canvas(label) {
    const width = Math.max(200, this.drawing.clientWidth);
    this.width = width;
    const image = svg("svg", {
      viewBox: `0 0 ${width} ${HEIGHT}`,
      width,
      height: HEIGHT,
      role: "img",
      "aria-label": label,
    });
    this.drawing.replaceChildren(image);
    return image;
  }

  grid(image, max, format) {
    const step = niceStep(max, 3);
    for (let value = 0; value <= max * 1.001; value += step) {
      if (!format(value)) continue;
      const y = this.y(value, max);
      image.append(
        svg("line", { class: "grid", x1: MARGIN.left, x2: this.width - MARGIN.right, y1: y, y2: y }),
        svg("text", { class: "tick", x: MARGIN.left - 6, y: y + 3.5, "text-anchor": "end" }, format(value)),
      );
    }
  }

  y(value, max) {
    return HEIGHT - MARGIN.bottom - (value / max) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  }
}

/** Lines over the last 15 minutes. `series`: [{label, key}]; `top`: the least upper end of the axis. */
export class LinePlot extends Plot {
  constructor(title, series, { format = short, top = 1, most = Infinity } = {}) {
    super(title);
    Object.assign(this, { series, format, top, most, at: [], values: {} });
    this.drawing.addEventListener("pointermove", (event) => this.point(event));
    this.drawing.addEventListener("pointerleave", () => this.draw());
  }

  /** Show `values[key]` (null: unknown) at the times `at`, in Unix seconds. */
  update(at, values) {
    Object.assign(this, { at, values });
    if (!this.drawing.matches(":hover")) this.draw();
  }

  draw() {
    const { at, values, series } = this;
    const known = series.flatMap(({ key }) => (values[key] ?? []).filter((value) => value !== null));
    const highest = Math.max(0, ...known);
    const step = niceStep(Math.max(this.top, highest), 3);
    this.max = Math.min(this.most, Math.max(this.top, Math.ceil(highest / step) * step));
    const label = series
      .map(({ label: name, key }) =>
        t("status.plot", {
          title: series.length > 1 ? `${this.title}, ${name}` : this.title,
          now: this.shown(values[key]?.at(-1)),
          max: this.shown(Math.max(0, ...(values[key] ?? []).filter((value) => value !== null))),
        }),
      )
      .join("; ");
    const image = this.canvas(label);
    this.grid(image, this.max, this.format);
    for (const minutes of [15, 10, 5, 0])
      image.append(
        svg(
          "text",
          {
            class: "tick",
            x: this.x(at.at(-1) - minutes * 60),
            y: HEIGHT - 5,
            "text-anchor": minutes === 15 ? "start" : minutes ? "middle" : "end",
          },
          minutes ? t("status.minutes", { count: minutes }) : t("status.now"),
        ),
      );
    series.forEach(({ key }, index) => {
      for (const run of this.runs(values[key] ?? [])) {
        const line = run.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
        const floor = HEIGHT - MARGIN.bottom;
        if (index === 0)
          image.append(
            svg("path", {
              class: `area series-${index}`,
              d: `M${run[0][0]},${floor}L${line}L${run.at(-1)[0]},${floor}Z`,
            }),
          );
        image.append(svg("path", { class: `line series-${index}`, d: `M${line}` }));
      }
    });
    this.legend(at.length - 1);
  }

  shown(value) {
    return value === null || value === undefined ? "–" : this.format(value);
  }

  /** Points of consecutive known values. */
  runs(values) {
    const found = [[]];
    values.forEach((value, index) => {
      if (value === null || this.at[index] < this.at.at(-1) - WINDOW_S) found.push([]);
      else found.at(-1).push([this.x(this.at[index]), this.y(Math.min(value, this.max), this.max)]);
    });
    return found.filter((run) => run.length);
  }

  x(at) {
    const share = 1 - ((this.at.at(-1) ?? 0) - at) / WINDOW_S;
    return MARGIN.left + share * (this.width - MARGIN.left - MARGIN.right) || MARGIN.left;
  }

  legend(index, when = "") {
    this.note.replaceChildren(
      ...this.series.map(({ label, key }, position) =>
        h(
          "span",
          { class: "legend" },
          h("span", { class: `swatch series-${position}` }),
          `${label} `,
          h("strong", {}, this.shown(this.values[key]?.[index])),
        ),
      ),
      when && h("span", { class: "when" }, when),
    );
  }

  /** Show the values under the pointer. */
  point(event) {
    const image = this.drawing.firstChild;
    if (!image || !this.at.length) return;
    const x = event.clientX - image.getBoundingClientRect().left;
    let nearest = 0;
    this.at.forEach((at, index) => {
      if (Math.abs(this.x(at) - x) < Math.abs(this.x(this.at[nearest]) - x)) nearest = index;
    });
    image.querySelector(".cursor")?.remove();
    const where = this.x(this.at[nearest]);
    image.append(svg("line", { class: "cursor", x1: where, x2: where, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    this.legend(nearest, clock(this.at[nearest]));
  }
}

/** The value below which a share `q` of the observations is, linear within a bucket; null without any. */
export function quantile({ bounds, counts }, q) {
  const rank = q * counts.reduce((sum, count) => sum + count, 0);
  if (!rank) return null;
  let below = 0;
  for (const [index, bound] of bounds.entries()) {
    if (below + counts[index] >= rank) {
      const from = index ? bounds[index - 1] : 0;
      return from + ((bound - from) * (rank - below)) / counts[index];
    }
    below += counts[index];
  }
  return bounds.at(-1);
}

/** A histogram of seconds. */
export class HistogramPlot extends Plot {
  /** Show {bounds, counts}. */
  update(histogram) {
    this.histogram = histogram;
    this.draw();
  }

  draw() {
    if (!this.histogram) return;
    const { bounds, counts } = this.histogram;
    const total = counts.reduce((sum, count) => sum + count, 0);
    const note = total
      ? t("status.quantiles", {
          p50: seconds(quantile(this.histogram, 0.5)),
          p99: seconds(quantile(this.histogram, 0.99)),
          count: number(total),
        })
      : t("status.nothing");
    this.note.textContent = note;
    const image = this.canvas(`${this.title}: ${note}`);
    const max = Math.max(1, ...counts) * 1.06;
    this.grid(image, max, (value) => (Number.isInteger(value) ? short(value) : ""));
    let first = Math.max(0, counts.findIndex(Boolean) - 1);
    let last = total ? Math.min(counts.length - 1, counts.findLastIndex(Boolean) + 1) : counts.length - 1;
    while (last - first + 1 < LEAST_COLUMNS && (first > 0 || last < counts.length - 1)) {
      first = Math.max(0, first - 1);
      last = Math.min(counts.length - 1, last + 1);
    }
    const shown = counts.slice(first, last + 1);
    const slot = (this.width - MARGIN.left - MARGIN.right) / shown.length;
    const every = Math.ceil(58 / slot);
    shown.forEach((count, index) => {
      const x = MARGIN.left + index * slot;
      const y = this.y(count, max);
      if (count)
        image.append(
          svg(
            "rect",
            { class: "column", x: x + 1, y, width: Math.max(1, slot - 2), height: HEIGHT - MARGIN.bottom - y, rx: 2 },
            svg("title", {}, `≤ ${seconds(bounds[first + index] ?? Infinity)}: ${number(count)}`),
          ),
        );
      const bound = bounds[first + index];
      if (bound !== undefined && (index + 1) % every === 0 && index + 1 < shown.length)
        image.append(
          svg("text", { class: "tick", x: x + slot, y: HEIGHT - 5, "text-anchor": "middle" }, seconds(bound)),
        );
    });
  }
}
