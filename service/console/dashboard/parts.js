// Pieces that several pages are made of. Not here: asking, and what a page is about.

import * as format from "./format.js";
import { now, routeTitle } from "./state.js";
import { h } from "./view.js";

const SHAPES = {
  ok: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13Zm3.2 4.6-3.9 4.6a.8.8 0 0 1-1.2 0L4.6 9.1l1-1 1.1 1.1 3.4-4Z",
  warning: "M8 1.2 15.2 14H.8L8 1.2Zm-.8 4.6.2 4h1.2l.2-4H7.2Zm.8 6.6a.9.9 0 1 0 0-1.8.9.9 0 0 0 0 1.8Z",
  problem: "M5 1h6l4 4v6l-4 4H5l-4-4V5l4-4Zm2.2 3.4.2 4.8h1.2l.2-4.8H7.2ZM8 12.4a.9.9 0 1 0 0-1.8.9.9 0 0 0 0 1.8Z",
  begun: "M8 5.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5Z",
  off: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13ZM4.5 7.2h7v1.6h-7V7.2Z",
};
const LEVEL_WORDS = { ok: "ok", warning: "warning", problem: "problem", off: "off" };
const STATES = {
  healthy: ["ok", "healthy"],
  degraded: ["warning", "degraded"],
  quota_warning: ["warning", "quota low"],
  quota_spent: ["problem", "quota spent"],
  circuit_open: ["problem", "circuit open"],
  no_credential: ["problem", "no credential"],
  waiting: ["warning", "cooling down"],
  disabled: ["off", "disabled"],
  off: ["off", "off"],
};

// Colour is never alone: each level has a shape, and words for those who see neither.
export function mark(level, words) {
  return h(
    "svg",
    { class: `mark ${level}`, viewBox: "0 0 16 16", role: "img", "aria-label": words ?? LEVEL_WORDS[level] },
    h("path", { d: SHAPES[level] ?? SHAPES.ok, "fill-rule": "evenodd" }),
  );
}

export function badge(level, words) {
  return h("span", { class: `badge ${level}` }, words);
}

export function routeState(state) {
  const [level, words] = STATES[state] ?? ["warning", format.words(state)];
  return h(
    "span",
    { class: `badge ${level}` },
    h(
      "svg",
      { class: "mark", viewBox: "0 0 16 16", "aria-hidden": "true" },
      h("path", { d: SHAPES[level], "fill-rule": "evenodd" }),
    ),
    words,
  );
}

export function ago(atMs) {
  if (!atMs) return h("span", { class: "muted" }, "never");
  return h("time", { datetime: new Date(atMs).toISOString(), title: format.exact(atMs) }, format.relative(atMs, now()));
}

export const tokens = (value) => h("span", { title: `${format.count(value)} tokens` }, format.compact(value));

// What has no price is no part of a cost: a sum says so, and is never shown as if it were all.
export const cost = (nusd, unpriced = 0) =>
  h(
    "span",
    { title: unpriced ? `${format.exactDollars(nusd)}, and ${format.count(unpriced)} without a price` : format.exactDollars(nusd) },
    unpriced && !nusd ? "no price" : `${format.dollars(nusd)}${unpriced ? "+" : ""}`,
  );

export function fact(name, value, more) {
  return h("div", { class: "fact" }, h("dt", {}, name), h("dd", {}, value, more && h("small", {}, more)));
}

export const facts = (...children) => h("dl", { class: "facts" }, children);

// How much of something is gone. `ahead` is where it is going to stand, `warnAt` where it begins to matter.
export function meter({ label, percent, ahead, warnAt, level }) {
  const width = (value) => `${Math.min(100, Math.max(0, value))}%`;
  return h(
    "div",
    {
      class: `meter ${level}`,
      role: "meter",
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      "aria-valuenow": Math.min(100, Math.round(percent)),
      "aria-valuetext": format.percent(percent),
    },
    ahead > percent && h("span", { class: "ahead", style: { width: width(ahead) } }),
    h("span", { class: "gone", style: { width: width(percent) } }),
    warnAt && h("span", { class: "warn-at", style: { left: width(warnAt) } }),
  );
}

// A table: `columns` are {head, cell(row), class}; `caption` is for those who hear it. `kind`: `stacks` is a list on
// phones, `long` scrolls by itself.
export function table({ caption, columns, rows, keyOf, empty, rowClass, kind }) {
  if (!rows.length) return empty;
  return h(
    "div",
    { class: `scroll ${kind ?? ""}`, tabindex: 0, role: "region", "aria-label": caption },
    h(
      "table",
      {},
      h("caption", { class: "unseen" }, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          columns.map((one) => h("th", { scope: "col", class: one.class }, one.head)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            { key: keyOf(row), class: rowClass?.(row) },
            columns.map((one) =>
              h(
                "td",
                { class: one.class, "data-head": typeof one.head === "string" ? one.head : undefined },
                h("div", {}, one.cell(row)),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

// There is nothing, and what to do about it.
export function empty(title, ...more) {
  return h("div", { class: "empty" }, h("p", { class: "title" }, title), more.length ? h("p", {}, more) : null);
}

export function trouble(error, again) {
  return h(
    "div",
    { class: "trouble", role: "alert" },
    mark("problem"),
    h("p", {}, error),
    again && h("button", { type: "button", onclick: again }, "Try again"),
  );
}

export function panel(title, { id, aside, intro, wide } = {}, ...children) {
  return h(
    "section",
    { class: `panel ${wide ? "wide" : ""}`, "aria-labelledby": id },
    h("header", {}, h("h2", { id }, title), aside && h("div", { class: "aside" }, aside)),
    intro && h("p", { class: "intro" }, intro),
    children,
  );
}

// One of a few, as buttons side by side.
export function choice({ label, options, chosen, choose }) {
  return h(
    "div",
    { class: "choice", role: "group", "aria-label": label },
    options.map(([value, words]) =>
      h(
        "button",
        { type: "button", "aria-pressed": value === chosen ? "true" : "false", onclick: () => choose(value) },
        words,
      ),
    ),
  );
}

export function requestLink(id, words) {
  return h("a", { href: `#/requests/${encodeURIComponent(id)}`, title: `Request ${id}` }, words ?? shortId(id));
}

export const shortId = (id) => (id.length > 12 ? `…${id.slice(-8)}` : id);

export function route(id) {
  return h("span", { class: "route-name", title: id }, routeTitle(id));
}

export function copyButton(textToCopy, label) {
  return h(
    "button",
    {
      type: "button",
      onclick: async (event) => {
        const button = event.currentTarget;
        const done = await navigator.clipboard?.writeText(textToCopy).then(
          () => true,
          () => false,
        );
        button.textContent = done ? "Copied" : "Copy failed: select the text";
        setTimeout(() => {
          button.textContent = label;
        }, 2_000);
      },
    },
    label,
  );
}
