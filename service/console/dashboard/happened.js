// Recent events, for the overview: failovers, changes of a route's state, refusals, operators' actions. Repeated events
// are one line.

import * as format from "./format.js";
import { ago, empty, mark, requestLink } from "./parts.js";
import { newestFirst, routeTitle, state } from "./state.js";
import { h } from "./view.js";

const MOST_LINES = 12;
const TOLD = ["attempt_lost", "route_notice"];
const TURNS = {
  circuit_open: ["problem", "circuit opened"],
  no_credential: ["problem", "no usable credential"],
  healthy: ["ok", "healthy again"],
  degraded: ["warning", "degraded"],
  waiting: ["warning", "cooling down"],
  quota_warning: ["warning", "weekly quota nearly spent"],
  quota_spent: ["problem", "weekly quota spent"],
};

export function happenings() {
  const lines = bursts([...notable().map(lineOf), ...state.turns.map(turnLine)].filter(Boolean).sort(newestFirst));
  if (!lines.length) return empty("No recent events", "Failovers, refused requests and operator actions appear here.");
  return h(
    "ol",
    { class: "happened" },
    lines
      .slice(0, MOST_LINES)
      .map((line) =>
        h(
          "li",
          { key: line.event_id },
          mark(line.level),
          h(
            "span",
            { class: "what" },
            h("strong", {}, line.title),
            line.more && [" ", h("span", {}, line.more)],
            line.times > 1 && h("span", { class: "times" }, `${line.times} times`),
          ),
          h("span", { class: "when" }, line.request && [requestLink(line.request, "request"), " · "], ago(line.at_ms)),
        ),
      ),
  );
}

// The overview remembers more than the feed, the feed knows what is newest.
function notable() {
  const found = new Map();
  for (const event of [...(state.overview?.recent ?? []), ...state.events]) {
    if (event.stream === "control" || event.outcome === "failed" || TOLD.includes(event.type))
      found.set(event.event_id, event);
  }
  return [...found.values()];
}

function lineOf(event) {
  const common = { event_id: event.event_id, at_ms: event.at_ms, level: event.level, request: event.request_id };
  if (event.type === "attempt_ended" && event.fields.final === false) {
    const next = wentTo(event);
    const way = next ? `: ${routeTitle(event.route)} → ${routeTitle(next)}` : ` from ${routeTitle(event.route)}`;
    return { ...common, title: `Failover${way}`, more: reason(event), alike: `${way} ${event.kind}` };
  }
  if (event.type === "attempt_ended") {
    return {
      ...common,
      title: `${routeTitle(event.route)} failed`,
      more: reason(event),
      alike: `failed ${event.route} ${event.kind}`,
    };
  }
  if (event.type === "route_notice") {
    return { ...common, title: `${routeTitle(event.route)}: ${event.words}`, alike: `notice ${event.route} ${event.words}` };
  }
  if (event.type === "request_refused") {
    return {
      ...common,
      title: `Refused: ${event.client_key || "a client"}`,
      more: format.words(event.kind),
      alike: `refused ${event.client_key} ${event.kind}`,
      times: event.fields.count,
    };
  }
  return { ...common, title: format.sentence(event.words), more: event.by && `by ${event.by}`, alike: event.event_id };
}

const reason = (event) => event.words.replace(/; failed over$/, "");

// The route that took the request after this one, as far as the feed has it.
function wentTo(event) {
  const later = state.events.filter(
    (one) =>
      one.request_id === event.request_id &&
      one.type === "attempt_started" &&
      one.at_ms >= event.at_ms &&
      one.route !== event.route,
  );
  return later.sort(newestFirst).at(-1)?.route;
}

function turnLine(turn) {
  const known = TURNS[turn.is];
  if (!known) return null; // disabling is an event of its own
  const id = `${turn.route} ${turn.at_ms} ${turn.is}`;
  return {
    event_id: id,
    alike: id,
    at_ms: turn.at_ms,
    level: known[0],
    title: `${routeTitle(turn.route)}: ${known[1]}`,
    more: turn.reason,
  };
}

function bursts(lines) {
  const found = [];
  for (const line of lines) {
    const last = found.at(-1);
    if (last?.alike === line.alike) last.times += line.times ?? 1;
    else found.push({ ...line, times: line.times ?? 1 });
  }
  return found;
}
