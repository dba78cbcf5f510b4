// Markdown as DOM nodes. The text comes from a model: it never becomes HTML, and only web links are links.

import { copyText, h, iconButton, toast } from "./dom.js";
import { t } from "./i18n.js";

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:\s+(.*))?$/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const MAX_DEPTH = 8;

/**
 * Show `text` in `place`. Blocks that are as they were are kept, so that a growing answer costs only its last
 * block, and a selection in the others survives.
 */
export function render(place, text) {
  const before = place.blocks ?? [];
  const sources = split(text);
  const same = sources.findIndex((source, index) => before[index]?.source !== source);
  const kept = same === -1 ? sources.length : same;
  for (const { node } of before.slice(kept)) node.remove();
  const added = sources.slice(kept).map((source) => ({ source, node: block(source, 0) }));
  place.append(...added.map(({ node }) => node));
  place.blocks = [...before.slice(0, kept), ...added];
}

/** The text cut into blocks, each the source of one node. */
export function split(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let index = 0;
  while (index < lines.length) {
    const start = index;
    const line = lines[index];
    if (!line.trim()) {
      index += 1;
      continue;
    }
    const fence = FENCE.exec(line);
    if (fence) {
      index += 1;
      while (index < lines.length && !closes(lines[index], fence[1])) index += 1;
      index += 1;
    } else if (HEADING.test(line) || RULE.test(line)) {
      index += 1;
    } else if (ITEM.test(line)) {
      while (++index < lines.length && inList(lines, index));
    } else if (QUOTE.test(line)) {
      while (++index < lines.length && QUOTE.test(lines[index]));
    } else {
      while (++index < lines.length && lines[index].trim() && !begins(lines[index]));
    }
    blocks.push(lines.slice(start, index).join("\n"));
  }
  return blocks;
}

const closes = (line, fence) =>
  line.trim().startsWith(fence) && !line.trim().slice(fence.length).replaceAll(fence[0], "");
const begins = (line) =>
  FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || ITEM.test(line) || RULE.test(line);

function inList(lines, index) {
  const line = lines[index];
  if (line.trim())
    return ITEM.test(line) || /^\s{2,}/.test(line) || (Boolean(lines[index - 1].trim()) && !begins(line));
  const next = lines[index + 1] ?? "";
  return Boolean(next.trim()) && (ITEM.test(next) || /^\s{2,}/.test(next));
}

function block(source, depth) {
  const lines = source.split("\n");
  const fence = FENCE.exec(lines[0]);
  if (fence) return code(lines, fence);
  const heading = HEADING.exec(lines[0]);
  if (heading)
    return h(
      "p",
      {
        class: `heading heading-${heading[1].length}`,
        role: "heading",
        "aria-level": Math.min(6, heading[1].length + 2),
      },
      inline(heading[2]),
    );
  if (RULE.test(lines[0])) return h("hr");
  if (depth < MAX_DEPTH && QUOTE.test(lines[0]))
    return h("blockquote", {}, blocks(lines.map((line) => line.replace(QUOTE, "")).join("\n"), depth + 1));
  if (depth < MAX_DEPTH && ITEM.test(lines[0])) return list(lines, depth);
  if (lines.length > 1 && lines[0].includes("|") && TABLE_RULE.test(lines[1])) return table(lines);
  return h(
    "p",
    {},
    lines.flatMap((line, index) => [index ? h("br") : null, ...inline(line.trim())]),
  );
}

const blocks = (source, depth) => split(source).map((one) => block(one, depth));

function code(lines, fence) {
  const open = !closes(lines.at(-1), fence[1]) || lines.length === 1;
  const text = lines.slice(1, open ? undefined : -1).join("\n");
  const copy = iconButton("copy", t("copy"), async () => {
    await copyText(text);
    toast(t("copied"));
  });
  return h(
    "div",
    { class: "code" },
    h("div", { class: "code-head" }, h("span", {}, fence[2]), copy),
    h("pre", { tabIndex: 0 }, h("code", {}, text)),
  );
}

function list(lines, depth) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const items = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item && item[1].length <= indent.length + 1) items.push([item[3] ?? ""]);
    else items.at(-1).push(line);
  }
  const ordered = /\d/.test(mark);
  return h(
    ordered ? "ol" : "ul",
    ordered ? { start: parseInt(mark, 10) } : {},
    items.map(([first, ...rest]) => {
      const least = Math.min(...rest.filter((line) => line.trim()).map((line) => line.search(/\S/)));
      const inner = [first, ...rest.map((line) => line.slice(Math.min(least, line.search(/\S|$/))))].join("\n");
      const nodes = blocks(inner, depth + 1);
      // A tight item: its text without a paragraph around it.
      if (nodes[0]?.tagName === "P" && !nodes[0].className) nodes.splice(0, 1, ...nodes[0].childNodes);
      return h("li", {}, nodes);
    }),
  );
}

function table(lines) {
  const row = (line) =>
    line
      .trim()
      .replace(/^\||\|$/g, "")
      .split(/(?<!\\)\|/)
      .map((cell) => cell.trim().replaceAll("\\|", "|"));
  const head = row(lines[0]);
  const body = lines.slice(2).map(row);
  return h(
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
          head.map((cell) => h("th", { scope: "col" }, inline(cell))),
        ),
      ),
      h(
        "tbody",
        {},
        body.map((cells) =>
          h(
            "tr",
            {},
            head.map((_, index) => h("td", {}, inline(cells[index] ?? ""))),
          ),
        ),
      ),
    ),
  );
}

const INLINE = [
  [/^(`+)(.+?)\1(?!`)/s, (match) => h("code", {}, match[2].replace(/^ (.*) $/, "$1"))],
  [
    /^!?\[([^\]]*)\]\(\s*<?([^\s)>]+)>?(?:\s+"[^"]*")?\s*\)/,
    (match) => link(match[2], inline(match[1] || match[2]), match[0]),
  ],
  [/^<(https?:\/\/[^\s>]+)>/, (match) => link(match[1], [match[1]], match[0])],
  [/^https?:\/\/[^\s<>"')\]]+[^\s<>"')\].,;:!?]/, (match) => link(match[0], [match[0]], match[0])],
  [/^\*\*(?=\S)(.+?)\*\*/s, (match) => h("strong", {}, inline(match[1]))],
  [/^__(?=\S)(.+?)__(?!\w)/s, (match) => h("strong", {}, inline(match[1]))],
  [/^\*(?=[^\s*])(.+?)\*(?!\*)/s, (match) => h("em", {}, inline(match[1]))],
  [/^_(?=[^\s_])(.+?)_(?!\w)/s, (match) => h("em", {}, inline(match[1]))],
  [/^~~(?=\S)(.+?)~~/s, (match) => h("del", {}, inline(match[1]))],
];
const WORD_BEFORE = /[\p{L}\p{N}]$/u;

/** The nodes of a line: code, links, emphasis; everything else is text. */
export function inline(text) {
  const nodes = [];
  let plain = "";
  let index = 0;
  while (index < text.length) {
    const special = text.slice(index).search(/[`!\[<h*_~\\]/);
    if (special === -1) break;
    plain += text.slice(index, index + special);
    index += special;
    const rest = text.slice(index);
    if (rest[0] === "\\" && /[!-/:-@[-`{-~]/.test(rest[1] ?? "")) {
      plain += rest[1];
      index += 2;
      continue;
    }
    const inWord = (rest[0] === "_" || rest[0] === "h") && WORD_BEFORE.test(plain);
    const found = inWord ? null : first(rest);
    if (found) {
      if (plain) nodes.push(plain);
      plain = "";
      nodes.push(found.make(found.match));
      index += found.match[0].length;
    } else {
      plain += rest[0];
      index += 1;
    }
  }
  plain += text.slice(index);
  if (plain) nodes.push(plain);
  return nodes;
}

function first(rest) {
  for (const [pattern, make] of INLINE) {
    const match = pattern.exec(rest);
    if (match) return { match, make };
  }
  return null;
}

function link(target, content, source) {
  let url;
  try {
    url = new URL(target);
  } catch {
    return source;
  }
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return source;
  return h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer" }, content);
}
