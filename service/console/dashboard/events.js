// The event log: filtered, in pages, and followed. The filters stand in the address, so that a view can be passed on.

import { get } from "./api.js";
import * as format from "./format.js";
import { onEvents } from "./live.js";
import { Loaded } from "./loading.js";
import { ago, empty, mark, requestLink, route, trouble } from "./parts.js";
import { changed, newestFirst, now, routeTitle, state } from "./state.js";
import { h } from "./view.js";

const PAGE_SIZE = 100;
const MOST_FOLLOWED = 400;
const FILTERS = ["type", "route", "outcome", "model", "key", "request", "past"];
const TYPES = [
  "attempt_started",
  "attempt_ended",
  "attempt_lost",
  "request_refused",
  "route_disabled",
  "route_enabled",
  "circuit_reset",
  "route_reset",
  "route_notice",
  "quota_limit_changed",
  "client_key_issued",
  "client_key_limited",
  "client_key_revoked",
  "replay_asked",
  "drop_asked",
  "resource_created",
  "batch_item_used",
  "resource_used",
  "usage_repriced",
];
const OUTCOMES = { failed: "failed", ok: "answered", aborted: "client disconnected" };
const PAST = {
  "1h": ["the last hour", 3_600_000],
  "24h": ["the last 24 hours", 86_400_000],
  "7d": ["the last 7 days", 604_800_000],
};

let filters = {};
let events = [];
let next = "";
let source = "";
let follow = true;
const page = new Loaded(() => get("/events", asked("")));
const older = new Loaded(() => get("/events", asked(next)));

export function enter(place) {
  moved(place);
  return onEvents(take);
}

// The address has other filters now.
export function moved(place) {
  filters = Object.fromEntries(FILTERS.map((name) => [name, place.query.get(name) ?? ""]));
  load();
}

async function load() {
  older.clear();
  page.clear();
  events = [];
  await page.load();
  if (page.data) [events, next, source] = [page.data.events, page.data.next, page.data.source];
  changed();
}

async function loadOlder() {
  await older.load();
  if (!older.data) return;
  const known = new Set(events.map((event) => event.event_id));
  events = [...events, ...older.data.events.filter((event) => !known.has(event.event_id))];
  [next, source] = [older.data.next, older.data.source];
  changed();
}

function asked(before) {
  const { past, ...plain } = filters;
  return { ...plain, since: past ? now() - PAST[past][1] : "", before, limit: PAGE_SIZE };
}

function take(fresh) {
  if (!follow || !page.data) return;
  const known = new Set(events.map((event) => event.event_id));
  const wanted = fresh.filter((event) => fits(event) && !known.has(event.event_id));
  if (!wanted.length) return;
  events = [...wanted, ...events].sort(newestFirst);
  if (events.length > MOST_FOLLOWED && events.length - wanted.length <= MOST_FOLLOWED) events.length = MOST_FOLLOWED;
}

function fits(event) {
  const pairs = [
    [filters.type, event.type],
    [filters.route, event.route],
    [filters.outcome, event.outcome],
    [filters.model, event.model],
    [filters.key, event.client_key],
    [filters.request, event.request_id],
  ];
  return pairs.every(([wanted, there]) => !wanted || wanted === there);
}

function go(change) {
  const given = Object.entries({ ...filters, ...change }).filter(([, value]) => value);
  location.hash = `#/events${given.length ? `?${new URLSearchParams(given)}` : ""}`;
}

export function view() {
  return [form(), list()];
}

function form() {
  const select = (name, label, options) =>
    h(
      "div",
      { class: "field" },
      h("label", { for: `filter-${name}` }, label),
      h(
        "select",
        { id: `filter-${name}`, value: filters[name], onchange: (event) => go({ [name]: event.target.value }) },
        h("option", { value: "" }, "any"),
        options.map(([value, words]) => h("option", { value }, words)),
      ),
    );
  const input = (name, label) =>
    h(
      "div",
      { class: "field" },
      h("label", { for: `filter-${name}` }, label),
      h("input", {
        id: `filter-${name}`,
        type: "search",
        value: filters[name],
        placeholder: "any",
        autocomplete: "off",
        spellcheck: "false",
        onchange: (event) => go({ [name]: event.target.value.trim() }),
      }),
    );
  const any = FILTERS.some((name) => filters[name]);
  return h(
    "form",
    {
      class: "filters",
      role: "search",
      "aria-label": "Filter the events",
      onsubmit: (event) => {
        event.preventDefault();
        document.activeElement.blur();
      },
    },
    select(
      "type",
      "Type",
      TYPES.map((type) => [type, format.words(type)]),
    ),
    select(
      "route",
      "Route",
      (state.overview?.routes ?? []).map((one) => [one.route, one.title]),
    ),
    select("outcome", "Outcome", Object.entries(OUTCOMES)),
    select(
      "past",
      "Time",
      Object.entries(PAST).map(([value, [words]]) => [value, words]),
    ),
    input("model", "Model"),
    input("key", "Key"),
    input("request", "Request"),
    h(
      "div",
      { class: "field buttons" },
      h(
        "label",
        { class: "check" },
        h("input", {
          type: "checkbox",
          checked: follow,
          onchange: (event) => {
            follow = event.target.checked;
          },
        }),
        "Follow",
      ),
      any && h("a", { class: "button", href: "#/events" }, "Clear"),
    ),
  );
}

function list() {
  if (page.error) return trouble(page.error, load);
  if (!page.data) return h("p", { class: "boot" }, "Loading events …");
  if (!events.length && !next)
    return empty(
      "No matching events",
      h("a", { href: "#/events" }, "Show all events"),
      " or choose a longer period.",
    );
  return h(
    "section",
    { class: "panel events", "aria-labelledby": "events" },
    h(
      "header",
      {},
      h("h2", { id: "events" }, format.plural(events.length, "event"), " shown"),
      h("div", { class: "aside" }, source === "history" ? "including history from Postgres" : "newest first"),
    ),
    h("ol", { class: "log" }, events.map(entry)),
    older.error && trouble(older.error, loadOlder),
    next
      ? h(
          "p",
          { class: "more" },
          h(
            "button",
            { type: "button", disabled: older.busy, onclick: loadOlder },
            older.busy ? "Loading …" : "Show older events",
          ),
        )
      : h("p", { class: "more muted" }, "No older events."),
  );
}

function entry(event) {
  return h(
    "li",
    { key: event.event_id, class: isStart(event) ? "start" : "" },
    h(
      "details",
      {},
      h(
        "summary",
        {},
        h("span", { class: "when" }, ago(event.at_ms)),
        isStart(event) ? mark("begun", "started") : mark(event.level),
        h("span", { class: "where" }, event.route ? route(event.route) : event.stream),
        h(
          "span",
          { class: "what" },
          !event.type.startsWith("attempt_") && h("strong", {}, format.words(event.type), " "),
          event.words,
        ),
        h("span", { class: "who" }, [event.model, event.client_key].filter(Boolean).join(" · ")),
      ),
      h(
        "div",
        { class: "more" },
        h(
          "p",
          {},
          format.exact(event.at_ms),
          " · replica ",
          event.replica,
          event.by && ` · by ${event.by}`,
          event.position !== null && ` · position ${event.position}`,
          event.request_id && [" · ", requestLink(event.request_id, "show request")],
        ),
        h("p", { class: "narrow" }, narrowing(event)),
        h("pre", {}, JSON.stringify(event.fields, null, 2)),
      ),
    ),
  );
}

// A start says little, its end tells the same again: starts stay in the background.
const isStart = (event) => event.type === "attempt_started";

// From an event to others like it.
function narrowing(event) {
  const ways = [
    ["type", event.type, format.words(event.type)],
    ["route", event.route, event.route && routeTitle(event.route)],
    ["model", event.model, event.model],
    ["key", event.client_key, event.client_key],
  ];
  return [
    "Filter by ",
    ways
      .filter(([name, value]) => value && filters[name] !== value)
      .map(([name, value, words]) =>
        h("button", { type: "button", class: "quiet", onclick: () => go({ [name]: value }) }, words),
      ),
  ];
}
