// Keeps the page alive: the feed of server-sent events; while that fails, asking every few seconds, and the feed again
// after a while. A page that nobody looks at lets go of its feed: a browser has few connections for one address.

import { address, get } from "./api.js";
import { changed, state, takeEvents, takeOverview } from "./state.js";

const POLL_MS = 2_000;
const RETRY_MS = [1_000, 2_000, 5_000, 10_000, 30_000];
const HIDDEN_MS = 20_000;
const SILENT_MS = 40_000; // the feed pings every 15 s; a comment does not reach us, an overview each second does

let source = null;
let poller = 0;
let retrier = 0;
let hider = 0;
let failures = 0;
const listeners = new Set();

// `listener(events)` hears of every event that is new, newest first.
export function onEvents(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function start() {
  stop();
  failures = 0;
  connect();
  document.addEventListener("visibilitychange", looked);
}

export function stop() {
  document.removeEventListener("visibilitychange", looked);
  letGo();
}

function letGo() {
  source?.close();
  source = null;
  clearTimeout(retrier);
  clearTimeout(hider);
  clearInterval(poller);
  poller = 0;
}

function connect() {
  clearTimeout(retrier);
  source?.close();
  source = new EventSource(address("/live"));
  source.addEventListener("overview", (message) => {
    failures = 0;
    live();
    takeOverview(JSON.parse(message.data));
  });
  source.addEventListener("event", (message) => tell([JSON.parse(message.data)]));
  source.addEventListener("error", broken);
}

function live() {
  clearInterval(poller);
  poller = 0;
  if (state.feed.how !== "live") state.feed = { how: "live", heardMs: Date.now(), error: "" };
}

function broken() {
  source?.close();
  source = null;
  state.feed = { ...state.feed, how: "starting" };
  const wait = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)];
  failures += 1;
  clearTimeout(retrier);
  retrier = setTimeout(connect, wait);
  if (!poller) {
    poller = setInterval(poll, POLL_MS);
    poll();
  }
}

export async function poll() {
  try {
    const [overview, page] = await Promise.all([get("/overview"), get("/events", { limit: 50 }).catch(() => null)]);
    if (state.feed.how !== "live") state.feed = { how: "polling", heardMs: Date.now(), error: "" };
    takeOverview(overview);
    if (page) tell(page.events);
  } catch (error) {
    if (state.feed.how !== "live") {
      state.feed = { how: "away", heardMs: state.feed.heardMs, error: error.message };
      changed();
    }
  }
}

function tell(events) {
  const fresh = takeEvents(events);
  if (fresh.length) for (const listener of listeners) listener(fresh);
}

function looked() {
  clearTimeout(hider);
  if (document.hidden) hider = setTimeout(letGo, HIDDEN_MS);
  else if (!source) {
    letGo();
    connect();
  } else if (Date.now() - state.feed.heardMs > SILENT_MS) connect();
}
