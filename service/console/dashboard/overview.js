// The overview: health, the serving route and why, quotas, recent events, attempts in progress.

import { address, get } from "./api.js";
import { chart, legend, seriesColor } from "./charts.js";
import * as format from "./format.js";
import { Loaded, every } from "./loading.js";
import { happenings } from "./happened.js";
import { copyButton, empty, mark, panel, requestLink, route, table } from "./parts.js";
import { routeCard } from "./routes.js";
import { now, routeTitle, state } from "./state.js";
import { h } from "./view.js";

const HEADLINES = { ok: "All systems operational", warning: "Needs attention", problem: "Something is wrong" };
const ATTEMPTS_MS = 1_000;
const LISTED_ATTEMPTS = 500; // the most that the API lists
const HOUR_S = 3_600;
const LEAST_HOURS = 24; // so that the first bar of a week stands on an axis of hours

const attempts = new Loaded(() => get("/attempts"));

export function enter() {
  return every(ATTEMPTS_MS, () => attempts.load());
}

export function view() {
  const { overview } = state;
  if (!overview) return h("p", { class: "boot" }, state.feed.how === "away" ? state.feed.error : "Loading …");
  return [
    banner(overview),
    isNew(overview) && firstSteps(),
    h(
      "section",
      { "aria-labelledby": "routes" },
      h(
        "div",
        { class: "section-head" },
        h("h2", { id: "routes" }, "Routes"),
        h("p", {}, "tried in this order"),
      ),
      h("div", { class: "cards" }, overview.routes.map(routeCard)),
    ),
    h(
      "div",
      { class: "columns" },
      panel("Recent events", { id: "last", aside: h("a", { href: "#/events" }, "All events") }, happenings()),
      h(
        "div",
        { class: "stack" },
        panel("In progress", { id: "in-progress", aside: format.plural(openAttempts(overview), "attempt") }, inProgress()),
        panel("Tokens this week, by hour", { id: "hours", aside: "weighted as for quotas" }, hours(overview)),
      ),
    ),
  ];
}

function banner(overview) {
  const title = routeTitle(overview.serving);
  return h(
    "section",
    { class: `banner ${overview.level}`, "aria-label": "Status" },
    h(
      "div",
      { class: "verdict" },
      mark(overview.level),
      h(
        "div",
        {},
        h("p", { class: "headline", role: "status" }, HEADLINES[overview.level]),
        h(
          "p",
          { class: "serving" },
          overview.serving
            ? [nextWords(overview), h("strong", {}, title), ": ", overview.serving_reason, "."]
            : h("strong", {}, `${format.sentence(overview.serving_reason)}.`),
        ),
      ),
    ),
    h(
      "dl",
      { class: "stats" },
      stat("Answered", format.count(overview.requests_per_minute), "in the last minute"),
      stat("In progress", format.count(openAttempts(overview)), openAttempts(overview) === 1 ? "attempt" : "attempts"),
      stat("Replicas", format.count(overview.replicas), "serving"),
      stat("Lag", format.count(overview.fleet_lag), "entries to fold"),
    ),
    overview.notices.length > 0 &&
      h(
        "ul",
        { class: "notices" },
        overview.notices.map((notice) =>
          h("li", { key: `${notice.code} ${notice.subject} ${notice.message}` }, mark(notice.level), h("span", {}, `${format.capitalized(notice.message)}.`)),
        ),
      ),
  );
}

// A route that is tried although it is out must not pass for one that serves.
function nextWords(overview) {
  const serving = overview.routes.find((one) => one.route === overview.serving);
  return serving?.available ? "The next request goes to " : "The next request is tried on ";
}

function stat(name, value, unit) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value, h("small", {}, unit)));
}

const isNew = (overview) =>
  overview.routes.every((one) => one.attempts === 0 && one.open_attempts === 0) &&
  overview.recent.length === 0 &&
  state.events.length === 0;

function firstSteps() {
  const url = location.origin + address("").replace(/\/admin\/api$/, "");
  const command = `export ANTHROPIC_BASE_URL=${url}`;
  return h(
    "section",
    { class: "panel first", "aria-labelledby": "first" },
    h("h2", { id: "first" }, "No requests yet"),
    h("p", {}, "Point Claude Code at this proxy and send a message. It appears here immediately."),
    h("pre", {}, `${command}\nclaude`),
    h("p", {}, copyButton(`${command}\nclaude`, "Copy")),
    h("p", { class: "hint" }, h("code", {}, "ccproxy claude setup"), " writes this to Claude Code's settings."),
  );
}

// As many as the list shows: it is read at another moment than the overview. A list at its limit is not all of them.
function openAttempts(overview) {
  const listed = attempts.data?.length ?? LISTED_ATTEMPTS;
  return listed < LISTED_ATTEMPTS ? listed : overview.open_attempts;
}

function inProgress() {
  if (attempts.error && !attempts.data) return empty("Not available", attempts.error);
  const rows = (attempts.data ?? []).slice(0, 12);
  return [
    table({
      caption: "Attempts in progress",
      rows,
      keyOf: (one) => one.attempt_id,
      empty: empty("No attempts in progress"),
      columns: [
        {
          head: "Elapsed",
          class: "number",
          cell: (one) => h("span", { title: format.exact(one.started_at_ms) }, format.span(now() - one.started_at_ms)),
        },
        { head: "Route", cell: (one) => route(one.route) },
        { head: "Model", cell: (one) => one.model_sent || one.endpoint },
        { head: "Key", cell: (one) => one.client_key || "–" },
        { head: "Request", cell: (one) => requestLink(one.request_id) },
      ],
    }),
    (attempts.data?.length ?? 0) > rows.length &&
      h("p", { class: "hint" }, `and ${attempts.data.length - rows.length} more`),
  ];
}

function hours(overview) {
  const routes = overview.routes.filter((one) => one.quota.hours.some((value) => value > 0));
  if (!routes.length) return empty("No tokens used this week");
  const start = Math.min(...routes.map((one) => one.quota.week_start_ms)) / 1000;
  const length = Math.max(
    LEAST_HOURS,
    ...routes.map((one) => one.quota.hours.length + (one.quota.week_start_ms / 1000 - start) / HOUR_S),
  );
  const series = routes.map((one, index) => ({
    label: one.title,
    color: seriesColor(index),
    values: shifted(one.quota, start, length),
  }));
  return [
    legend(series),
    chart({
      key: "hours",
      bars: true,
      height: 150,
      series,
      show: format.compact,
      times: Array.from({ length }, (_, index) => start + index * HOUR_S),
      label: `Tokens this week, by hour: ${routes.map((one) => `${one.title} ${format.compact(one.quota.used_tokens)}`).join(", ")}`,
    }),
  ];
}

// A route's hours on an axis that may begin before its week.
function shifted(quota, startS, length) {
  const before = Math.round((quota.week_start_ms / 1000 - startS) / HOUR_S);
  return Array.from({ length }, (_, index) => quota.hours[index - before] ?? 0);
}
