// Something that is asked for, and asked for again: what it is, or that it is on its way, or why it is not there.

import { changed } from "./state.js";

export class Loaded {
  constructor(ask) {
    this.ask = ask;
    this.data = null;
    this.error = "";
    this.busy = false;
    this.turn = 0;
  }

  // Ask. Of several answers only that to the last question counts. What was there stays until then.
  async load() {
    const turn = ++this.turn;
    this.busy = true;
    changed();
    try {
      const data = await this.ask();
      if (turn === this.turn) [this.data, this.error] = [data, ""];
    } catch (error) {
      if (turn === this.turn) this.error = error.message;
    }
    if (turn === this.turn) this.busy = false;
    changed();
  }

  clear() {
    this.turn += 1;
    [this.data, this.error, this.busy] = [null, "", false];
  }
}

// Asks every so often while the page is looked at; what it gives back ends it.
export function every(ms, act) {
  act();
  const timer = setInterval(() => document.hidden || act(), ms);
  return () => clearInterval(timer);
}
