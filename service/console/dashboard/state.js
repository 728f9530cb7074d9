// What the page knows, in one place, and who wants to hear when it changes. Not here: asking, drawing.

const KEPT_EVENTS = 500;
const KEPT_TURNS = 20;

export const state = {
  session: undefined, // undefined: not asked yet; null: nobody is logged in
  overview: null,
  events: [], // the newest of the live feed, newest first
  turns: [], // how routes changed their state while this page looked on, newest first
  feed: { how: "starting", heardMs: 0, error: "" }, // live, polling, away, starting
  page: { name: "overview", argument: "", query: new URLSearchParams() },
};

let skewMs = 0; // the proxy's clock minus this one's
let scheduled = false;
let redraw = () => {};

export function onChange(draw) {
  redraw = draw;
}

export function changed() {
  if (scheduled) return;
  scheduled = true;
  // Not an animation frame: a page in the background shall be right when it is looked at.
  setTimeout(() => {
    scheduled = false;
    redraw();
  }, 16);
}

export const now = () => Date.now() + skewMs;
export const mayChange = () => state.session?.role === "admin";
export const routeTitle = (id) => state.overview?.routes.find((route) => route.route === id)?.title ?? id;

export function takeOverview(overview) {
  skewMs = overview.at_ms - Date.now();
  noteTurns(state.overview, overview);
  state.overview = overview;
  state.feed.heardMs = Date.now();
  changed();
}

// A circuit that opens is no event of its own, it follows from events: this page has seen it happen.
function noteTurns(before, after) {
  for (const route of before ? after.routes : []) {
    const was = before.routes.find((one) => one.route === route.route)?.state;
    if (was === undefined || was === route.state) continue;
    state.turns.unshift({ at_ms: after.at_ms, route: route.route, was, is: route.state, reason: route.reason });
    state.turns.length = Math.min(state.turns.length, KEPT_TURNS);
  }
}

// The feed begins anew with its newest events whenever it connects: those that are known are not taken twice.
export function takeEvents(events) {
  const known = new Set(state.events.map((event) => event.event_id));
  const fresh = events.filter((event) => !known.has(event.event_id));
  if (fresh.length) {
    state.events = [...fresh, ...state.events].sort(newestFirst).slice(0, KEPT_EVENTS);
    changed();
  }
  return fresh;
}

export function newestFirst(one, other) {
  return other.at_ms - one.at_ms || (other.event_id > one.event_id ? 1 : -1);
}

export function forget() {
  Object.assign(state, { session: null, overview: null, events: [], turns: [] });
  changed();
}
