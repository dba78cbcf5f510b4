// The list of conversations.

import { byId, h, iconButton } from "./dom.js";
import { t } from "./i18n.js";

/** Show the list; `open` and `remove` are called with the conversation whose buttons are pressed. */
export function showList(conversations, current, open, remove) {
  const items = conversations.map((one) => {
    const title = one.title || t("untitled");
    const link = h("button", { type: "button", class: "conversation-link", onclick: () => open(one) }, title);
    if (one === current) link.setAttribute("aria-current", "true");
    return h(
      "li",
      {},
      link,
      iconButton("trash", t("conversations.delete", { title }), () => remove(one)),
    );
  });
  byId("conversation-list").replaceChildren(...items);
}
