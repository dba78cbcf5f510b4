// The page's language: strings of one table, numbers and times in the language's form.

import { LANGUAGES, STRINGS } from "./strings.js";
import { icon } from "./dom.js";

const NAME = "trtllm-openai.language";

const preferred = () => {
  const wanted = [localStorage.getItem(NAME), ...(navigator.languages ?? []), "en"];
  return wanted.map((tag) => tag?.slice(0, 2)).find((tag) => LANGUAGES.includes(tag));
};

export let language = preferred();

/** The text of a key, with `{name}` replaced by a value. */
export function t(key, values = {}) {
  const text = STRINGS[key][LANGUAGES.indexOf(language)];
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Choose a language and keep the choice. */
export function setLanguage(chosen) {
  language = chosen;
  localStorage.setItem(NAME, chosen);
}

/** The language that the switch leads to. */
export const otherLanguage = () => LANGUAGES[(LANGUAGES.indexOf(language) + 1) % LANGUAGES.length];

/** Fill in the texts of the document's own elements. */
export function translate(root = document) {
  document.documentElement.lang = language;
  for (const node of root.querySelectorAll("[data-i18n]")) node.textContent = t(node.dataset.i18n);
  for (const node of root.querySelectorAll("[data-placeholder]")) node.placeholder = t(node.dataset.placeholder);
  for (const node of root.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", t(node.dataset.label));
    if (node.matches("button")) node.title = t(node.dataset.label);
  }
  for (const node of root.querySelectorAll("[data-icon]:not(:has(svg))")) node.prepend(icon(node.dataset.icon));
}

export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { maximumFractionDigits: digits, minimumFractionDigits: 0 }).format(value);
/** A number in at most some five characters, for the axes of plots. */
export const short = (value) =>
  value < 10_000
    ? number(value, value < 10 ? 1 : 0)
    : new Intl.NumberFormat(language, { notation: "compact" }).format(value);
export const percent = (share, digits = 0) =>
  new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: digits }).format(share);

/** Seconds as people say them: 850 µs, 12 ms, 1.4 s. */
export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value >= 1) return `${number(value, value < 10 ? 2 : 0)} s`;
  return value >= 0.001 ? `${number(value * 1000, value < 0.01 ? 1 : 0)} ms` : `${number(value * 1e6)} µs`;
}

export const clock = (unixSeconds) =>
  new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(
    unixSeconds * 1000,
  );
