// A route as a card: how it stands and why, its week with the forecast, its counts, and what an operator may do.

import * as api from "./api.js";
import { chart } from "./charts.js";
import { ask, field } from "./dialogs.js";
import * as format from "./format.js";
import { poll } from "./live.js";
import { ago, badge, cost, fact, facts, meter, routeState, tokens } from "./parts.js";
import { mayChange, now } from "./state.js";
import { h } from "./view.js";

const HOUR_MS = 3_600_000;
const WARN_PERCENT = 90;
const CHART_PX = 96;
const WITNESSES = 3; // the ledger counts no further

export function routeCard(one) {
  const unused = one.state === "off" && one.attempts === 0;
  return h(
    "article",
    {
      class: `card ${one.serves && one.available ? "serves" : ""} ${one.available ? "" : "away"}`,
      key: one.route,
      "aria-labelledby": `route-${one.route}`,
    },
    h(
      "header",
      {},
      h("span", { class: "order", "aria-hidden": "true" }, one.priority),
      h("h3", { id: `route-${one.route}`, title: one.route }, one.title),
      one.serves && (one.available ? badge("serving", "serving") : badge("warning", "tried next")),
      routeState(one.state),
    ),
    h("p", { class: "reason" }, reasonOf(one)),
    !unused && week(one),
    !unused && counts(one),
    one.windows.length > 0 && windows(one),
    one.cool_downs.length > 0 && coolDowns(one),
    hasUnknown(one) && unknown(one),
    mayChange() && actions(one),
  );
}

function reasonOf(one) {
  const until =
    one.until_ms && one.until_ms > now()
      ? h(
          "span",
          { class: "until", title: format.exact(one.until_ms) },
          ` · until ${format.clock(one.until_ms)}, ${format.relative(one.until_ms, now())}`,
        )
      : null;
  if (one.reason) return [format.sentence(one.reason), until];
  if (one.state === "quota_warning") return "Weekly quota nearly spent; other routes are tried first";
  return one.serves
    ? "Serving requests"
    : one.available
      ? "Ready, on standby"
      : [format.sentence(one.state), until];
}

// -- the week

function week(one) {
  const { quota } = one;
  if (!quota.limit_tokens) {
    return h(
      "div",
      { class: "week" },
      h("p", { class: "used" }, h("strong", {}, tokens(quota.used_tokens)), " tokens this week, no limit"),
      operatorsLimit(quota),
      weekChart(one),
    );
  }
  const level = quota.state === "spent" ? "problem" : quota.state === "warning" ? "warning" : "ok";
  return h(
    "div",
    { class: "week" },
    h(
      "p",
      { class: "used" },
      h("strong", {}, format.percent(quota.used_percent)),
      " of ",
      tokens(quota.limit_tokens),
      " tokens this week",
      h("span", { class: "resets" }, "resets ", ago(quota.resets_at_ms)),
    ),
    meter({
      label: `Weekly quota of ${one.title}`,
      percent: quota.used_percent,
      ahead: quota.forecast?.percent_at_reset ?? 0,
      warnAt: WARN_PERCENT,
      level,
    }),
    h("p", { class: "forecast" }, forecastWords(quota)),
    operatorsLimit(quota),
    weekChart(one),
  );
}

const operatorsLimit = (quota) =>
  quota.limit_source === "operator" &&
  h("p", { class: "forecast" }, "Limit set by an operator; in the settings: ", limitWords(quota.configured_tokens));

const limitWords = (limit) => (limit ? [tokens(limit), " tokens"] : "none");

function forecastWords(quota) {
  const { forecast } = quota;
  if (quota.state === "spent")
    return [h("strong", {}, "Spent"), ": other routes are used until the reset"];
  if (!forecast || forecast.tokens_per_hour === 0) return "No usage in the last 24 hours, so no forecast";
  if (forecast.spent_at_ms) {
    return [
      "At this rate ",
      h("strong", {}, "it runs out ", ago(forecast.spent_at_ms)),
      `, ${format.dateAndTime(forecast.spent_at_ms)}`,
    ];
  }
  return `At this rate, ${format.percent(forecast.percent_at_reset)} used at the reset`;
}

// What was used so far, where it leads, and the limit.
function weekChart(one) {
  const { quota } = one;
  if (quota.used_tokens === 0 && !quota.limit_tokens) return null;
  const sums = [];
  quota.hours.reduce((sum, value, index) => (sums[index] = sum + value), 0);
  const from = quota.week_start_ms / 1000;
  const nowS = Math.max(from + 1, now() / 1000);
  const hourly = sums
    .slice(0, -1)
    .map((_, index) => from + ((index + 1) * HOUR_MS) / 1000)
    .filter((at) => at < nowS);
  const times = [from, ...hourly, quantized(nowS), quota.resets_at_ms / 1000];
  const used = [0, ...sums.slice(0, hourly.length), quota.used_tokens, null];
  const series = [{ label: "used", color: "--accent", values: used, fill: true }];
  if (quota.limit_tokens) {
    const end = quota.forecast ? (quota.forecast.percent_at_reset * quota.limit_tokens) / 100 : null;
    const most = Math.min(end ?? 0, quota.limit_tokens * 1.3);
    const blank = times.slice(0, -2).map(() => null);
    if (end !== null && end > quota.used_tokens)
      series.push({ label: "forecast", color: "--accent", dash: [4, 4], values: [...blank, quota.used_tokens, end] });
    series.push({
      label: "limit",
      color: "--problem",
      dash: [2, 4],
      width: 1.25,
      values: times.map(() => quota.limit_tokens),
    });
    return draw(one, times, series, most);
  }
  return draw(one, times, series, 0);
}

// The last point moves on by minutes, not by seconds: a chart drawn each second would be for nothing.
const quantized = (seconds) => Math.floor(seconds / 60) * 60 + 59;

function draw(one, times, series, most) {
  const { quota } = one;
  return chart({
    key: "week",
    small: true,
    height: CHART_PX,
    times,
    series,
    show: format.compact,
    range: [times[0], times.at(-1)],
    top: Math.max(most, quota.limit_tokens ?? 0, quota.used_tokens),
    label: `${one.title}, tokens this week: ${format.count(quota.used_tokens)} used${quota.limit_tokens ? ` of ${format.count(quota.limit_tokens)}` : ""}`,
  });
}

// -- counts

function counts(one) {
  const share = one.attempts ? ` ${format.percent((100 * one.failed) / one.attempts)}` : "";
  const read = one.input_tokens + one.cache_read_tokens + one.cache_write_5m_tokens + one.cache_write_1h_tokens;
  return facts(
    fact("Attempts", format.count(one.attempts), one.open_attempts ? `${one.open_attempts} in progress` : ""),
    fact("Failed", format.count(one.failed), one.failed ? share : ""),
    fact("Input", tokens(read), one.cache_hit_percent === null ? "" : `${format.percent(one.cache_hit_percent)} cached`),
    fact("Output", tokens(one.output_tokens)),
    fact("Cost", cost(one.cost_nusd, one.unpriced), one.unpriced ? `${format.count(one.unpriced)} without a price` : ""),
    fact("Last failure", one.last_failure_ms || !one.failed ? ago(one.last_failure_ms) : "not known", one.last_failure_kind && format.words(one.last_failure_kind)),
  );
}

function windows(one) {
  return h(
    "div",
    { class: "windows" },
    h("p", {}, "Limits reported by the provider"),
    one.windows.map((each) =>
      h(
        "div",
        { key: each.name },
        h("span", {}, each.name),
        meter({
          label: `${one.title}, window ${each.name}`,
          percent: each.used_percent ?? 0,
          level: each.status === "rejected" ? "problem" : (each.used_percent ?? 0) >= WARN_PERCENT ? "warning" : "ok",
        }),
        h("span", { class: "number" }, format.percent(each.used_percent)),
        h("span", { class: "muted" }, each.resets_at_ms ? ["resets ", ago(each.resets_at_ms)] : ""),
      ),
    ),
  );
}

function coolDowns(one) {
  return h(
    "div",
    { class: "cool-downs" },
    h("p", {}, "Cool-downs"),
    one.cool_downs.map((each) =>
      h(
        "div",
        { key: `${each.endpoint}/${each.account}/${each.scope}/${each.models}/${each.reason}` },
        h("span", {}, [each.scope, each.models, each.endpoint].filter(Boolean).join(", ")),
        h("span", { class: "muted" }, each.account ? `account ${each.account}` : each.reason),
        h("span", { class: "muted" }, "ends ", ago(each.until_ms)),
      ),
    ),
  );
}

const hasUnknown = (one) => one.unknown_errors > 0 || Object.keys(one.second_opinions).length > 0;

const OPINIONS = {
  answered: "answered by another account",
  confirmed: "refused there too",
  none: "without a second opinion",
};

// Errors in words that no rule knows: whose fault they are, others have to say. The words themselves are in the log.
function unknown(one) {
  const opinions = Object.entries(one.second_opinions).map(
    ([outcome, count]) => `${format.count(count)} ${OPINIONS[outcome] ?? outcome}`,
  );
  return h(
    "div",
    { class: "unknown" },
    h("p", {}, `Errors that no rule knows: ${format.count(one.unknown_errors)}`),
    one.unknown_words.map((each) =>
      h(
        "div",
        { key: `${each.endpoint}/${each.account}/${each.words}` },
        h("span", { title: `digest of its words: ${each.words}` }, `status ${each.status}, ${each.endpoint}`),
        h("span", { class: "muted" }, metBy(each)),
        h("span", { class: "muted" }, "last ", ago(each.at_ms)),
      ),
    ),
    opinions.length > 0 && h("p", {}, `Second opinions: ${opinions.join(", ")}`),
  );
}

function metBy(each) {
  const most = (count, noun) => (count >= WITNESSES ? `${count} or more ${noun}s` : format.plural(count, noun));
  return `${most(each.requests, "request")} of ${most(each.clients, "client")}`;
}

// -- actions

function actions(one) {
  const act = (words, run) =>
    h("button", { type: "button", onclick: run, "aria-label": `${words}: ${one.title}` }, words);
  return h(
    "footer",
    {},
    one.state === "disabled" ? act("Enable", () => enable(one)) : act("Disable", () => disable(one)),
    act("Reset", () => reset(one)),
    act("Limit", () => limit(one)),
  );
}

const path = (one, action) => `/routes/${encodeURIComponent(one.route)}/${action}`;

async function changedTo(words) {
  await poll();
  return words;
}

function disable(one) {
  ask({
    title: `Disable ${one.title}?`,
    confirm: "Disable",
    danger: true,
    words: "No replica sends it new requests until you enable it again. Requests in progress are completed.",
    fields: () =>
      field({ name: "reason", label: "Reason", hint: "Optional. Shown with the route.", maxlength: 200 }),
    act: async ({ reason }) => {
      await api.post(path(one, "disable"), { reason });
      return changedTo(`${one.title} is disabled`);
    },
  });
}

function enable(one) {
  ask({
    title: `Enable ${one.title}?`,
    confirm: "Enable",
    words: "All replicas use it again within a second.",
    act: async () => {
      await api.post(path(one, "enable"));
      return changedTo(`${one.title} is enabled`);
    },
  });
}

function reset(one) {
  ask({
    title: `Reset ${one.title}?`,
    confirm: "Reset",
    words: "Closes its circuit, ends its cool-downs, and forgets what its provider said of limits and models. Usage stays. The next request may use it.",
    act: async () => {
      const done = await api.post(path(one, "reset"));
      return changedTo(`${one.title} is reset: ${done.words}`);
    },
  });
}

function limit(one) {
  ask({
    title: `Weekly limit of ${one.title}`,
    confirm: "Set the limit",
    words: "Usage so far stays counted. From 90 % on, other routes are tried first; at 100 %, this route gets no more requests.",
    fields: () =>
      field({
        name: "tokens",
        label: "Tokens per week",
        type: "text",
        pattern: format.COUNT,
        value: one.quota.limit_tokens ?? "",
        hint: "Such as 20M. 0 means no limit. Leave empty to use the configured limit.",
      }),
    act: async ({ tokens: given }) => {
      await api.put(path(one, "limit"), { weekly_tokens: format.countOf(given) });
      return changedTo(`Limit of ${one.title} changed`);
    },
  });
}
