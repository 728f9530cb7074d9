// Tokens, cost, cache hits and latency over time: from Postgres, by way of the workers.

import { get } from "./api.js";
import { chart, legend, seriesColor } from "./charts.js";
import * as format from "./format.js";
import { Loaded, every } from "./loading.js";
import { choice, cost, empty, panel, table, tokens, trouble } from "./parts.js";
import { changed, routeTitle, state } from "./state.js";
import { h } from "./view.js";

const AGAIN_MS = 30_000;
const HOUR_S = 3_600;
const PERIODS = { "24h": ["24 hours", "hour", 24], "7d": ["7 days", "hour", 168], "30d": ["30 days", "day", 30] };
const LATENCY_PERIODS = { "24h": "24h", "7d": "7d", "30d": "7d" };
const GROUPS = { route: "Route", model: "Model", key: "Key" };
const MEASURES = {
  tokens: ["Tokens", (row) => readTokens(row) + row.output_tokens, format.compact],
  cost: ["Cost", (row) => row.cost_nusd, format.dollars],
  attempts: ["Attempts", (row) => row.attempts, format.compact],
  cache: [
    "Cache hits",
    (row) => (readTokens(row) ? (100 * row.cache_read_tokens) / readTokens(row) : null),
    format.percent,
  ],
};
const PERCENTILES = [
  ["p50", "median"],
  ["p95", "95th percentile"],
  ["p99", "99th percentile"],
];
const MOST_SERIES = 6;

const chosen = { period: "24h", by: "route", measure: "tokens", latency: "first_byte" };
const usage = new Loaded(() =>
  get("/usage", { since: chosen.period, by: `${PERIODS[chosen.period][1]},${chosen.by}` }),
);
const latency = new Loaded(() => get("/latency", { since: LATENCY_PERIODS[chosen.period], by: "hour" }));
const latencyByRoute = new Loaded(() => get("/latency", { since: LATENCY_PERIODS[chosen.period], by: "route" }));
const ALL = [usage, latency, latencyByRoute];

const readTokens = (row) =>
  row.input_tokens + row.cache_read_tokens + row.cache_write_5m_tokens + row.cache_write_1h_tokens;

export function enter() {
  return every(AGAIN_MS, load);
}

const load = () => ALL.forEach((one) => one.load());

function choose(name, value) {
  chosen[name] = value;
  if (name === "period") ALL.forEach((one) => one.clear());
  if (name === "period") load();
  else if (name === "by") {
    usage.clear();
    usage.load();
  }
  changed();
}

export function view() {
  return [
    h(
      "div",
      { class: "controls" },
      choice({
        label: "Period",
        options: Object.entries(PERIODS).map(([value, [words]]) => [value, words]),
        chosen: chosen.period,
        choose: (value) => choose("period", value),
      }),
      choice({
        label: "Group by",
        options: Object.entries(GROUPS),
        chosen: chosen.by,
        choose: (value) => choose("by", value),
      }),
      choice({
        label: "Measure",
        options: Object.entries(MEASURES).map(([value, [words]]) => [value, words]),
        chosen: chosen.measure,
        choose: (value) => choose("measure", value),
      }),
    ),
    panel(
      `${MEASURES[chosen.measure][0]} by ${chosen.by}`,
      { id: "usage", aside: usage.data && totals(usage.data.total) },
      usageBody(),
    ),
    panel(
      "Latency",
      {
        id: "latency",
        aside: choice({
          label: "Latency measure",
          options: [
            ["first_byte", "First byte"],
            ["total", "Whole response"],
          ],
          chosen: chosen.latency,
          choose: (value) => choose("latency", value),
        }),
        intro: chosen.period === "30d" ? "Last 7 days: latency is available for 8 days at most." : null,
      },
      latencyBody(),
    ),
  ];
}

const totals = (total) =>
  h(
    "span",
    {},
    tokens(readTokens(total) + total.output_tokens),
    " tokens",
    total.estimated ? ` (${format.count(total.estimated_tokens)} of ${format.plural(total.estimated, "attempt")} estimated)` : "",
    " · ",
    cost(total.cost_nusd, total.unpriced),
    total.unpriced ? ` · ${format.count(total.unpriced)} without a price` : "",
    " · ",
    format.plural(total.attempts, "attempt"),
    total.cache_hit_percent === null ? "" : ` · ${format.percent(total.cache_hit_percent)} cached`,
    total.moves ? [` · ${format.plural(total.moves, "session move")} (`, cost(total.moved_cost_nusd, total.moved_unpriced), ")"] : "",
  );

function waiting(loaded) {
  if (loaded.error && !loaded.data) return trouble(loaded.error, () => loaded.load());
  return loaded.data ? null : h("p", { class: "boot" }, "Loading …");
}

// -- usage

function usageBody() {
  const wait = waiting(usage);
  if (wait) return wait;
  const { rows } = usage.data;
  if (!rows.length) return empty("No usage in this period", "Choose a longer one, or send a request.");
  const [, value, show] = MEASURES[chosen.measure];
  const groups = grouped(rows);
  const times = timesOf(usage.data, PERIODS[chosen.period][1] === "hour" ? HOUR_S : 24 * HOUR_S);
  const bars = chosen.measure !== "cache";
  const series = seriesOf(groups, times, value, bars);
  return [
    usage.error && h("p", { class: "stale" }, usage.error),
    legend(series),
    chart({
      key: `${chosen.measure} ${chosen.by} ${chosen.period}`,
      bars,
      height: 260,
      times,
      series,
      show,
      label: `${MEASURES[chosen.measure][0]} by ${chosen.by} over ${PERIODS[chosen.period][0]}; the table below has the totals`,
    }),
    sums(groups, usage.data.total),
  ];
}

const nameOf = (row) =>
  chosen.by === "route" ? routeTitle(row.route) : row[chosen.by] || (chosen.by === "key" ? "no key" : "–");

// The rows of each group and their sum, the largest first.
function grouped(rows) {
  const found = new Map();
  for (const row of rows) {
    const name = nameOf(row);
    if (!found.has(name)) found.set(name, { name, rows: [], sum: {} });
    const group = found.get(name);
    group.rows.push(row);
    for (const [field, number] of Object.entries(row))
      if (typeof number === "number") group.sum[field] = (group.sum[field] ?? 0) + number;
  }
  return [...found.values()].sort(
    chosen.by === "route" ? byChain : (one, other) => readTokens(other.sum) - readTokens(one.sum),
  );
}

// Routes keep their order, and with it their colours, on every page.
function byChain(one, other) {
  const place = (group) => (state.overview?.routes ?? []).findIndex((each) => each.route === group.rows[0].route);
  return place(one) - place(other);
}

const stampS = (row) => Date.parse(row.hour ?? `${row.day}T00:00Z`) / 1000;

// Every hour or day of the period, also those in which nothing happened.
function timesOf(report, step) {
  const end = Date.parse(report.until) / 1000;
  const start = Math.floor(Date.parse(report.since) / 1000 / step) * step;
  return Array.from({ length: Math.max(1, Math.ceil((end - start) / step)) }, (_, index) => start + index * step);
}

function seriesOf(groups, times, value, bars) {
  const shown = groups.slice(0, MOST_SERIES);
  const rest = groups.slice(MOST_SERIES);
  const made = shown.map((group, index) => ({
    label: group.name,
    color: seriesColor(index),
    values: valuesAt(group.rows, times, value, bars),
  }));
  if (rest.length && bars)
    made.push({
      label: `${rest.length} more`,
      color: seriesColor(MOST_SERIES),
      values: valuesAt(
        rest.flatMap((group) => group.rows),
        times,
        value,
        bars,
      ),
    });
  return made;
}

function valuesAt(rows, times, value, summed) {
  const found = new Map();
  for (const row of rows) {
    const at = stampS(row);
    found.set(at, summed ? (found.get(at) ?? 0) + value(row) : value(row));
  }
  return times.map((at) => found.get(at) ?? (summed ? 0 : null));
}

function sums(groups, total) {
  const number = (head, cell) => ({ head, class: "number", cell });
  return table({
    kind: "stacks",
    caption: `Totals by ${chosen.by}`,
    rows: [...groups, { name: "Total", sum: total, all: true }],
    keyOf: (one) => one.name,
    rowClass: (one) => (one.all ? "total" : ""),
    empty: null,
    columns: [
      { head: GROUPS[chosen.by], cell: (one) => one.name },
      number("Attempts", (one) => format.count(one.sum.attempts)),
      number("Failed", (one) => format.count(one.sum.failed)),
      number("Input", (one) => tokens(one.sum.input_tokens)),
      number("Cache read", (one) => tokens(one.sum.cache_read_tokens)),
      number("Cache write", (one) => tokens(one.sum.cache_write_5m_tokens + one.sum.cache_write_1h_tokens)),
      number("Output", (one) => tokens(one.sum.output_tokens)),
      number("Cached", (one) => format.percent(MEASURES.cache[1](one.sum))),
      number("Cost", (one) => cost(one.sum.cost_nusd, one.sum.unpriced)),
    ],
  });
}

// -- latency

function latencyBody() {
  const wait = waiting(latency);
  if (wait) return wait;
  const { rows } = latency.data;
  if (!rows.length) return empty("No answered requests in this period");
  const byTime = new Map(rows.map((row) => [stampS(row), row]));
  const times = timesOf(latency.data, HOUR_S);
  const series = PERCENTILES.map(([name, words], index) => ({
    label: `${name}: ${words}`,
    color: seriesColor(index),
    values: times.map((at) => byTime.get(at)?.[`${chosen.latency}_${name}_ms`] ?? null),
  }));
  return [
    legend(series),
    chart({
      key: `latency ${chosen.latency} ${chosen.period}`,
      height: 200,
      times,
      series,
      show: format.milliseconds,
      label: `Latency by hour, ${format.words(chosen.latency)}; the table below has it by route`,
    }),
    latencyByRoute.data && percentiles(latencyByRoute.data.rows),
  ];
}

function percentiles(rows) {
  const number = (head, field) => ({ head, class: "number", cell: (row) => format.milliseconds(row[field]) });
  return table({
    caption: "Latency by route",
    rows,
    keyOf: (row) => row.route,
    empty: null,
    columns: [
      { head: "Route", cell: (row) => routeTitle(row.route) },
      { head: "Answered", class: "number", cell: (row) => format.count(row.attempts) },
      number("First byte p50", "first_byte_p50_ms"),
      number("p95", "first_byte_p95_ms"),
      number("p99", "first_byte_p99_ms"),
      number("Total p50", "total_p50_ms"),
      number("p95", "total_p95_ms"),
      number("p99", "total_p99_ms"),
    ],
  });
}
