// The page: views, language, colour scheme, key, shortcuts, and what it knows of the server.

import { ApiError, getJson, key, whenKeyNeeded } from "./api.js";
import { Chat } from "./chat.js";
import { byId, copyText, h, icon, toast } from "./dom.js";
import { otherLanguage, setLanguage, t, translate } from "./i18n.js";
import { SNIPPETS } from "./snippets.js";
import { Status } from "./status.js";
import { exported } from "./store.js";

const THEME = "trtllm-openai.theme";
const THEMES = ["auto", "light", "dark"];
const HEALTH_EVERY_MS = 10_000;
const LOADING_EVERY_MS = 1500;
const WIDE = matchMedia("(min-width: 900px)");

const server = { model: "", card: null, cards: [], notReady: "", problem: "" };
let declined = false; // a key was asked for and not given: do not ask again by ourselves
const chat = new Chat(server);
const status = new Status(byId("status-view"), askForKey);

// ---- the API key ----

let asking = null;
/** Ask for a key in a dialog. Resolves to whether one was given. One dialog at a time serves all that wait. */
function askForKey(problem) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    byId("key-problem").textContent = problem;
    byId("key-input").value = "";
    byId("key-remember").checked = key.remembered();
    byId("key-forget").hidden = !key.get();
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        const value = byId("key-input").value.trim();
        asking = null;
        if (dialog.returnValue === "save" && value) key.set(value, byId("key-remember").checked);
        resolve(dialog.returnValue === "save" && Boolean(value));
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

// ---- the server ----

let healthTimer = 0;
async function followServer() {
  clearTimeout(healthTimer);
  let kind = "good";
  const before = server.notReady;
  try {
    const health = await getJson("health/ready", { quiet: true });
    server.notReady = "";
    if (health.degraded) kind = "warn";
  } catch (error) {
    kind = "bad";
    // With open_health: false the probe itself needs a key, of which the list of models will ask.
    server.notReady = error.status === 401 ? "" : error.status === 0 ? t("status.unreachable") : error.message;
  }
  byId("health").className = `dot ${kind}`;
  if (before !== server.notReady || (!server.notReady && !server.card?.trtllm_openai)) await loadModels();
  healthTimer = setTimeout(followServer, server.notReady ? LOADING_EVERY_MS : HEALTH_EVERY_MS);
}

async function loadModels() {
  try {
    server.cards = (await getJson("v1/models", { quiet: declined })).data;
    server.problem = "";
    declined = false;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    declined ||= error.status === 401;
    server.problem = error.status === 0 ? "" : error.message;
    chat.renderEmpty();
    return;
  }
  chooseModel(server.cards.find((one) => one.id === server.model) ?? server.cards[0]);
  byId("model").replaceChildren(
    ...server.cards.map((one) => h("option", { value: one.id, selected: one.id === server.model }, one.id)),
  );
}

function chooseModel(card) {
  server.card = card;
  server.model = card.id;
  chat.renderSettings();
  chat.renderEmpty();
}

// ---- views and appearance ----

function showView() {
  const isStatus = location.hash === "#status";
  byId("chat-view").hidden = isStatus;
  byId("status-view").hidden = !isStatus;
  byId("menu").hidden = byId("panel-toggle").hidden = isStatus;
  for (const [name, current] of [
    ["to-chat", !isStatus],
    ["to-status", isStatus],
  ])
    if (current) byId(name).setAttribute("aria-current", "page");
    else byId(name).removeAttribute("aria-current");
  if (isStatus) status.show();
  else status.hide();
}

function applyTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const button = byId("theme");
  button.replaceChildren(icon({ auto: "auto", light: "sun", dark: "moon" }[theme]));
  button.title = t(`theme.${theme}`);
  button.setAttribute("aria-label", t(`theme.${theme}`));
}

const theme = () => (THEMES.includes(localStorage.getItem(THEME)) ? localStorage.getItem(THEME) : "auto");

function toggle(panel, button, open = panel.hidden) {
  panel.hidden = !open;
  button.setAttribute("aria-expanded", String(open));
}
const togglePanel = (open) => {
  toggle(byId("settings"), byId("panel-toggle"), open);
  if (!WIDE.matches && !byId("settings").hidden) toggle(byId("conversations"), byId("menu"), false);
};
const toggleList = (open) => {
  toggle(byId("conversations"), byId("menu"), open);
  if (!WIDE.matches && !byId("conversations").hidden) toggle(byId("settings"), byId("panel-toggle"), false);
};

/** On a narrow screen the panels lie over the conversation. Returns whether one was open. */
function closePanels() {
  if (WIDE.matches || (byId("settings").hidden && byId("conversations").hidden)) return false;
  togglePanel(false);
  toggleList(false);
  return true;
}

function inLanguage() {
  translate();
  document.title = `${t("chat")} · trtllm-openai-server`;
  Object.assign(byId("language"), { textContent: t("language.short"), title: t("language"), lang: otherLanguage() });
  applyTheme(theme());
  byId("help-list").replaceChildren(
    ...SHORTCUTS.flatMap(([keys, name]) => [
      h(
        "dt",
        {},
        keys.map((one) => h("kbd", {}, one)),
      ),
      h("dd", {}, t(name)),
    ]),
  );
  chat.render();
  status.parts && status.render();
}

// ---- code ----

let snippet = "curl";
function showCode() {
  const body = chat.request();
  byId("code-languages").replaceChildren(
    ...Object.keys(SNIPPETS).map((name) =>
      h(
        "button",
        {
          type: "button",
          class: "segment",
          "aria-pressed": String(name === snippet),
          onclick: () => {
            snippet = name;
            showCode();
            byId("code-languages").querySelector("[aria-pressed=true]").focus();
          },
        },
        name,
      ),
    ),
  );
  byId("code-text").textContent = SNIPPETS[snippet](body);
  if (!byId("code-dialog").open) byId("code-dialog").showModal();
}

// ---- shortcuts ----

const SHORTCUTS = [
  [["Enter"], "help.send"],
  [["Shift", "Enter"], "help.line"],
  [["Esc"], "help.stop"],
  [["/"], "help.focus"],
  [["Alt", "N"], "help.new"],
  [["Alt", "C"], "help.chat"],
  [["Alt", "S"], "help.status"],
  [["Alt", "P"], "help.settings"],
  [["Alt", "L"], "help.list"],
  [["←", "→"], "help.tokens"],
  [["?"], "help.help"],
];
const WITH_ALT = {
  KeyN: () => {
    location.hash = "#chat";
    chat.start();
  },
  KeyC: () => (location.hash = "#chat"),
  KeyS: () => (location.hash = "#status"),
  KeyP: () => {
    togglePanel();
    if (!byId("settings").hidden) byId("option-system").focus();
  },
  KeyL: () => toggleList(),
};

function onKey(event) {
  if (document.querySelector("dialog[open]") || event.isComposing) return;
  const typing = event.target.matches?.("input, textarea, select");
  const withAlt = event.altKey && !event.ctrlKey && !event.metaKey ? WITH_ALT[event.code] : undefined;
  const plain = !typing && !event.altKey && !event.ctrlKey && !event.metaKey;
  if (withAlt) withAlt();
  else if (plain && event.key === "/") {
    location.hash = "#chat";
    showView();
    byId("composer-input").focus();
  } else if (plain && event.key === "?") byId("help-dialog").showModal();
  else if (event.key === "Escape" && !byId("chat-view").hidden && (closePanels() || chat.stop()))
    byId("composer-input").focus();
  else return;
  event.preventDefault();
}

// ---- start ----

byId("language").addEventListener("click", () => {
  setLanguage(otherLanguage());
  inLanguage();
});
byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  localStorage.setItem(THEME, next);
  applyTheme(next);
});
byId("model").addEventListener("change", (event) =>
  chooseModel(server.cards.find((one) => one.id === event.target.value)),
);
byId("menu").addEventListener("click", () => toggleList());
byId("panel-toggle").addEventListener("click", () => togglePanel());
byId("key-button").addEventListener("click", async () => {
  if (!(await askForKey(""))) return;
  declined = false;
  server.card = null; // the list of models, with this key
  followServer();
});
byId("key-forget").addEventListener("click", () => {
  key.forget();
  byId("key-dialog").close("forgotten");
  toast(t("key.forgotten"));
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault(); // the policy allows no form to be sent, not even to a dialog
  byId("key-dialog").close("save");
});
for (const button of document.querySelectorAll("[data-close]"))
  button.addEventListener("click", () => button.closest("dialog").close());
byId("help-button").addEventListener("click", () => byId("help-dialog").showModal());
byId("code-button").addEventListener("click", showCode);
byId("code-copy").addEventListener("click", async () => {
  await copyText(byId("code-text").textContent);
  toast(t("copied"));
});
byId("export").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([exported(chat.conversations)], { type: "application/json" }));
  h("a", { href: url, download: `conversations-${new Date().toISOString().slice(0, 10)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
});
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) await chat.import(file);
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  location.hash = "#chat";
  showView();
  byId("composer-input").focus();
});
document.querySelector(".conversation").addEventListener("pointerdown", closePanels);
addEventListener("hashchange", showView);
addEventListener("keydown", onKey);
WIDE.addEventListener("change", () => toggleList(WIDE.matches));

whenKeyNeeded(askForKey);
toggleList(WIDE.matches);
translate();
await chat.open();
inLanguage();
showView();
byId("composer-input").focus();
followServer();
