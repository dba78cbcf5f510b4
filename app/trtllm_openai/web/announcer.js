// What a screen reader hears of an answer: its sentences, as they are complete.

import { byId, h } from "./dom.js";

const KEPT = 20; // announcements that stay in the document
const END = /[.!?。！？\n](?=\s|$)(?!.*[.!?。！？\n](?=\s|$))/s; // the last end of a sentence

let unread = "";

/** Announce a text at once. */
export function announce(text) {
  if (!text.trim()) return;
  const place = byId("announcer");
  place.append(h("p", {}, text));
  while (place.childNodes.length > KEPT) place.firstChild.remove();
}

/** Begin with an answer. */
export function beginAnswer() {
  unread = "";
}

/** Announce what a growing answer has in whole sentences; `last`: and the rest of it. By the token nobody could listen. */
export function announceAnswer(text, last = false) {
  unread += text;
  const end = last ? unread.length : unread.search(END) + 1;
  if (end > 0) announce(unread.slice(0, end));
  unread = unread.slice(end);
}
