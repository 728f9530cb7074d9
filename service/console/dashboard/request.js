// One request: how it ended, and its attempts on one line of time.

import { get } from "./api.js";
import * as format from "./format.js";
import { onEvents } from "./live.js";
import { Loaded } from "./loading.js";
import { ago, badge, copyButton, cost, empty, fact, facts, panel, route, tokens, trouble } from "./parts.js";
import { now, routeTitle, state } from "./state.js";
import { h } from "./view.js";

const VERDICTS = {
  ok: ["ok", "answered"],
  failed: ["problem", "failed"],
  aborted: ["off", "client disconnected"],
  refused: ["warning", "refused"],
  open: ["serving", "in progress"],
};
const OUTCOMES = {
  ok: ["ok", "answered"],
  failed: ["problem", "failed"],
  aborted: ["off", "client disconnected"],
  lost: ["warning", "lost"],
  open: ["serving", "in progress"],
};
const MARKS = 4;

const found = new Loaded(() => get(`/requests/${encodeURIComponent(state.page.argument)}`));

export function enter(page) {
  found.clear();
  found.load();
  return onEvents((events) => events.some((event) => event.request_id === page.argument) && found.load());
}

export function view(page) {
  const back = h("p", { class: "back" }, h("a", { href: "#/events" }, "← Events"));
  if (found.error) {
    return [
      back,
      panel(
        `Request ${page.argument}`,
        { id: "request" },
        trouble(found.error, () => found.load()),
        h(
          "p",
          { class: "hint" },
          "Every response has the request's id in its header ",
          h("code", {}, "x-ccproxy-request-id"),
          ".",
        ),
      ),
    ];
  }
  if (!found.data) return [back, h("p", { class: "boot" }, "Loading the request …")];
  const request = found.data;
  return [
    back,
    heading(request),
    panel("Attempts", { id: "attempts", aside: scaleWords() }, timeline(request)),
    panel("Events", { id: "events" }, events(request)),
  ];
}

const scaleWords = () =>
  h(
    "span",
    { class: "legend" },
    h("span", {}, h("span", { class: "swatch waits" }), "waiting for the first byte"),
    h("span", {}, h("span", { class: "swatch flows" }), "receiving the response"),
  );

function heading(request) {
  const [level, words] = VERDICTS[request.verdict];
  const total = sumOf(request.attempts);
  return h(
    "section",
    { class: "panel request", "aria-labelledby": "request" },
    h(
      "header",
      {},
      h("h2", { id: "request" }, "Request ", h("code", {}, request.request_id)),
      badge(level, words),
      h("div", { class: "aside" }, copyButton(request.request_id, "Copy id")),
    ),
    request.refused &&
      h("p", { class: "reason" }, "Refused by the proxy: ", h("strong", {}, format.words(request.refused))),
    facts(
      fact("Received", ago(request.started_at_ms), format.exact(request.started_at_ms)),
      fact(
        "Duration",
        request.ended_at_ms ? format.milliseconds(request.ended_at_ms - request.started_at_ms) : "still in progress",
      ),
      fact("Model", request.model_asked || "–"),
      fact("Key", request.client_key || "none"),
      fact("Session", request.session_id ? h("code", {}, request.session_id) : "–"),
      fact("Endpoint", format.words(request.endpoint)),
      fact("Input", tokens(total.read), total.read ? `${format.percent((100 * total.cached) / total.read)} cached` : ""),
      fact("Output", tokens(total.output)),
      fact("Cost", cost(total.cost, total.unpriced)),
    ),
  );
}

function sumOf(attempts) {
  const sum = { read: 0, cached: 0, output: 0, cost: 0, unpriced: 0 };
  for (const { tokens: used, cost_nusd, outcome } of attempts) {
    sum.read += used.input + used.cache_read + used.cache_write_5m + used.cache_write_1h;
    sum.cached += used.cache_read;
    sum.output += used.output;
    sum.cost += cost_nusd ?? 0;
    sum.unpriced += cost_nusd === null && outcome !== "open" ? 1 : 0;
  }
  return sum;
}

function timeline(request) {
  if (!request.attempts.length)
    return empty("No route was tried", request.refused ? "The proxy refused the request itself." : "");
  const from = request.started_at_ms;
  const lasts = Math.max(1, ...request.attempts.map((one) => one.started_at_ms - from + lengthOf(one)));
  return [
    h(
      "ol",
      { class: "timeline" },
      request.attempts.map((one, index) =>
        h("li", { key: one.attempt_id }, bar(one, from, lasts), details(one, request.attempts[index + 1])),
      ),
    ),
    h(
      "div",
      { class: "scale", "aria-hidden": "true" },
      Array.from({ length: MARKS + 1 }, (_, index) => h("span", {}, format.milliseconds((lasts * index) / MARKS))),
    ),
  ];
}

const lengthOf = (one) => one.total_ms ?? (one.outcome === "open" ? now() - one.started_at_ms : 0);

function bar(one, from, lasts) {
  const share = (ms) => `${(100 * ms) / lasts}%`;
  const start = one.started_at_ms - from;
  const length = lengthOf(one);
  const first = Math.min(one.first_byte_ms ?? length, length);
  const words = `${routeTitle(one.route)}: started ${format.milliseconds(start)} after the request, ${OUTCOMES[one.outcome][1]} after ${format.milliseconds(length)}`;
  return h(
    "div",
    { class: `bar ${one.outcome}`, role: "img", "aria-label": words, title: words },
    h("span", { class: "waits", style: { left: share(start), width: share(first) } }),
    h("span", { class: "flows", style: { left: share(start + first), width: share(length - first) } }),
  );
}

function details(one, next) {
  const [level, words] = OUTCOMES[one.outcome];
  const why = [
    one.kind && format.words(one.kind),
    one.status ? `status ${one.status}` : "",
    one.scope && `scope: ${one.scope}`,
  ]
    .filter(Boolean)
    .join(", ");
  const used = one.tokens;
  const read = used.input + used.cache_read + used.cache_write_5m + used.cache_write_1h;
  return h(
    "div",
    { class: "attempt" },
    h(
      "p",
      {},
      h("strong", {}, route(one.route)),
      " ",
      badge(level, words),
      " ",
      h("span", { class: "muted" }, one.model_served || one.model_sent),
    ),
    one.outcome === "failed" && h("p", { class: "why" }, format.sentence(why), one.message && `: ${one.message}`),
    next && one.outcome === "failed" && h("p", { class: "why" }, "→ failed over to ", h("strong", {}, route(next.route))),
    h(
      "p",
      { class: "muted numbers" },
      `first byte ${format.milliseconds(one.first_byte_ms)} · total ${format.milliseconds(lengthOf(one))}`,
      read + used.output > 0 &&
        ` · ${format.count(read)} input tokens (${format.count(used.cache_read)} cached), ${format.count(used.output)} output · ${one.cost_nusd === null ? "no price" : format.dollars(one.cost_nusd)}`,
      ` · replica ${one.replica}`,
    ),
  );
}

function events(request) {
  return h(
    "ol",
    { class: "log" },
    request.events.map((event) =>
      h(
        "li",
        { key: event.event_id },
        h(
          "details",
          {},
          h(
            "summary",
            {},
            h("span", { class: "number muted" }, `+${format.milliseconds(event.at_ms - request.started_at_ms)}`),
            " ",
            h("strong", {}, format.sentence(event.type)),
            " ",
            route(event.route),
            " ",
            h("span", { class: "muted" }, event.words),
          ),
          h("pre", {}, JSON.stringify(event.fields, null, 2)),
        ),
      ),
    ),
  );
}
