// The conversations of this tab, in step with what other tabs keep in the same browser.
//
// What another tab saves or deletes appears here. A conversation that is being written to in two tabs becomes
// two: the tab that saves second goes on under a new id, so that nothing is lost.

import * as store from "./store.js";

export class Conversations {
  #list = []; // the latest first
  #on;

  /**
   * `on`: busy(conversation): whether its messages must stay as they are here; changed(conversation): another tab
   * has changed it; gone(conversation): another tab has deleted it; parted(conversation): it goes on as another one;
   * failed(error).
   */
  constructor(on) {
    this.#on = on;
    store.onChange((id) => this.#adopt(id).catch(on.failed));
  }

  get all() {
    return this.#list;
  }

  async open() {
    this.#list = await store.prune(await store.load());
  }

  /** Put a conversation at the top, for one that goes on now. */
  raise(conversation) {
    this.#list = [conversation, ...this.#list.filter((one) => one !== conversation)];
  }

  /** Save it, unless it is empty or not one of these. */
  async keep(conversation) {
    if (!conversation.messages.length || !this.#list.includes(conversation)) return;
    const { id } = conversation;
    try {
      const outcome = await store.save(conversation);
      if (conversation.id !== id) return; // an earlier save of the same has found out
      if (outcome === "deleted") this.#drop(conversation);
      else if (outcome === "conflict") await this.#part(conversation);
    } catch (error) {
      this.#on.failed(error);
    }
  }

  async remove(conversation) {
    this.#list = this.#list.filter((one) => one !== conversation);
    await store.remove(conversation.id);
  }

  /** Take a `remove` back. */
  async restore(conversation) {
    this.#list.push(conversation);
    this.#sort();
    await store.replace(conversation);
  }

  /** Add the conversations of a file; those with the same ids are replaced. Returns them. */
  async import(text) {
    const found = store.imported(text);
    for (const one of found) {
      await store.replace(one);
      await this.#adopt(one.id);
    }
    this.#list = await store.prune(this.#list);
    return this.#list.filter((mine) => found.some((one) => one.id === mine.id));
  }

  async #adopt(id) {
    const stored = await store.get(id);
    const mine = this.#list.find((one) => one.id === id);
    if (!stored) {
      if (mine) this.#drop(mine);
      return;
    }
    if (mine && (mine.revision >= stored.revision || this.#on.busy(mine))) return; // `keep` will find out
    if (mine && JSON.stringify(mine.options) === JSON.stringify(stored.options)) stored.options = mine.options; // in use
    if (mine) Object.assign(mine, stored);
    else this.#list.push(stored);
    this.#sort();
    this.#on.changed(mine ?? stored);
  }

  #drop(conversation) {
    this.#list = this.#list.filter((one) => one !== conversation);
    this.#on.gone(conversation);
  }

  /** Another tab has saved something else under its id. */
  async #part(conversation) {
    const { id } = conversation;
    Object.assign(conversation, { id: store.newId(), revision: 0 });
    this.#on.parted(conversation);
    await this.keep(conversation);
    await this.#adopt(id);
  }

  #sort() {
    this.#list.sort((a, b) => b.updated - a.updated);
  }
}
