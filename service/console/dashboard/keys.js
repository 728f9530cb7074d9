// Client keys: who has one, what each may use and has used, and issuing, limiting and revoking them.

import * as api from "./api.js";
import { ask, field, show } from "./dialogs.js";
import * as format from "./format.js";
import { Loaded, every } from "./loading.js";
import { ago, badge, copyButton, cost, empty, meter, panel, table, tokens, trouble } from "./parts.js";
import { mayChange, state } from "./state.js";
import { h } from "./view.js";

const AGAIN_MS = 3_000;
const NUSD_PER_USD = 1e9;
const STATES = { ok: ["ok", "valid"], spent: ["problem", "spent"], expired: ["off", "expired"] };

const keys = new Loaded(() => api.get("/keys"));

export function enter() {
  return every(AGAIN_MS, () => keys.load());
}

export function view() {
  return panel(
    "Client keys",
    {
      id: "keys",
      aside: mayChange() && h("button", { type: "button", class: "main", onclick: issue }, "Issue a key"),
      intro: "A key lets a client use the proxy. It is shown once, when issued; only its hash is stored.",
    },
    body(),
  );
}

function body() {
  if (keys.error && !keys.data) return trouble(keys.error, () => keys.load());
  if (!keys.data) return h("p", { class: "boot" }, "Loading keys …");
  return [
    keys.error && h("p", { class: "stale" }, keys.error),
    table({
      kind: "stacks",
      caption: "Client keys and this week's usage",
      rows: keys.data,
      keyOf: (key) => key.key_id,
      empty: empty(
        "No keys",
        "Without keys, the proxy serves any client on this machine, and no others. Issue one for each person or program before it listens on other addresses.",
      ),
      columns: [
        {
          head: "Key",
          cell: (key) =>
            h(
              "span",
              { class: "stacked" },
              h("strong", {}, key.name),
              key.source === "settings"
                ? h(
                    "small",
                    { title: "To change it, edit PROXY_API_KEYS and restart the proxy" },
                    "from the settings",
                  )
                : h("small", {}, key.key_id, ", issued ", ago(key.issued_at_ms)),
            ),
        },
        { head: "State", cell: (key) => badge(...STATES[key.state]) },
        { head: "This week", class: "wide", cell: used },
        { head: "Cost", class: "number", cell: (key) => cost(key.used_cost_nusd, key.unpriced) },
        { head: "Attempts", class: "number", cell: (key) => format.count(key.attempts) },
        { head: "Refused", class: "number", cell: (key) => format.count(key.refused) },
        { head: "In progress", class: "number", cell: (key) => format.count(key.under_way) },
        { head: "Allowed", cell: (key) => h("span", { class: "stacked" }, ...limitWords(key.limits)) },
        ...(mayChange() ? [{ head: h("span", { class: "unseen" }, "Actions"), class: "actions", cell: actions }] : []),
      ],
    }),
  ];
}

function used(key) {
  const { weekly_tokens: most, weekly_cost_nusd: mostCost } = key.limits;
  const counted = mostCost && key.unpriced ? ` · counted as ${format.dollars(key.counted_cost_nusd)}` : "";
  const words = most
    ? [tokens(key.used_tokens), " of ", tokens(most), " tokens"]
    : [tokens(key.used_tokens), " tokens"];
  const limited = Boolean(most || mostCost);
  return h(
    "span",
    { class: "stacked" },
    h("span", {}, words, limited && ` · ${format.percent(key.used_percent)}`, counted),
    limited &&
      meter({
        label: `Weekly limit of ${key.name}`,
        percent: key.used_percent,
        level: key.state === "spent" ? "problem" : key.used_percent >= 90 ? "warning" : "ok",
      }),
    limited && h("small", {}, "resets ", ago(key.resets_at_ms)),
  );
}

function limitWords(limits) {
  const found = [
    limits.models.length && limits.models.join(", "),
    limits.routes.length && `routes ${limits.routes.join(", ")}`,
    limits.weekly_cost_nusd !== null && `${format.dollars(limits.weekly_cost_nusd)} per week`,
    limits.concurrency && `${limits.concurrency} concurrent`,
    limits.expires_at_ms && ["expires ", ago(limits.expires_at_ms)],
  ].filter(Boolean);
  return found.length ? found.map((words) => h("small", {}, words)) : [h("small", {}, "everything")];
}

function actions(key) {
  if (key.source === "settings") return null;
  return [
    h("button", { type: "button", "aria-label": `Limits of ${key.name}`, onclick: () => limit(key) }, "Limits"),
    h(
      "button",
      { type: "button", class: "danger-quiet", "aria-label": `Revoke ${key.name}`, onclick: () => revoke(key) },
      "Revoke",
    ),
  ];
}

// -- changing

function limitFields(limits = {}) {
  const listed = (values) => (values ?? []).join(", ");
  return [
    field({
      name: "weekly_tokens",
      label: "Tokens per week",
      type: "text",
      pattern: format.COUNT,
      hint: "Such as 20M.",
      value: limits.weekly_tokens ?? "",
    }),
    field({
      name: "weekly_usd",
      label: "Dollars per week",
      type: "number",
      min: 0,
      step: "any",
      inputmode: "decimal",
      value: limits.weekly_cost_nusd ? limits.weekly_cost_nusd / NUSD_PER_USD : "",
    }),
    field({
      name: "models",
      label: "Models",
      value: listed(limits.models),
      hint: "Comma-separated; * matches anything, as in claude-haiku-*",
    }),
    field({
      name: "routes",
      label: "Routes",
      value: listed(limits.routes),
      hint: `Comma-separated. Available: ${(state.overview?.routes ?? []).map((one) => one.route).join(", ")}`,
    }),
    field({
      name: "concurrency",
      label: "Concurrent requests",
      type: "number",
      min: 1,
      step: 1,
      inputmode: "numeric",
      value: limits.concurrency ?? "",
    }),
    field({
      name: "expires",
      label: "Expires",
      type: "datetime-local",
      value: limits.expires_at_ms ? localTime(limits.expires_at_ms) : "",
    }),
    h("p", { class: "hint" }, "Leave a field empty for no limit."),
  ];
}

const localTime = (atMs) => new Date(atMs - new Date(atMs).getTimezoneOffset() * 60_000).toISOString().slice(0, 16);

function limitsFrom(values) {
  const list = (text) =>
    text
      .split(",")
      .map((each) => each.trim())
      .filter(Boolean);
  return {
    weekly_tokens: format.countOf(values.weekly_tokens),
    weekly_cost_nusd: values.weekly_usd === "" ? null : Math.round(Number(values.weekly_usd) * NUSD_PER_USD),
    models: list(values.models),
    routes: list(values.routes),
    concurrency: format.countOf(values.concurrency),
    expires_at_ms: values.expires === "" ? null : new Date(values.expires).getTime(),
  };
}

function issue() {
  ask({
    title: "Issue a key",
    confirm: "Issue",
    fields: () => [
      field({
        name: "name",
        label: "Name",
        required: true,
        maxlength: 64,
        pattern: "[A-Za-z0-9][A-Za-z0-9 ._@\\-]*",
        hint: "A person or a program, such as alice or ci. It appears in every event.",
      }),
      h("details", { class: "limits" }, h("summary", {}, "Limits"), limitFields()),
    ],
    act: async (values) => {
      const issued = await api.post("/keys", { name: values.name.trim(), ...limitsFrom(values) });
      await keys.load();
      setTimeout(() =>
        show({
          title: `Key for ${issued.view.name}`,
          close: "Done",
          content: [
            h("p", {}, "Copy it now: it is not stored and can't be shown again."),
            h("pre", { class: "secret", tabindex: 0 }, issued.key),
            copyButton(issued.key, "Copy the key"),
          ],
        }),
      );
    },
  });
}

function limit(key) {
  ask({
    title: `Limits of ${key.name}`,
    confirm: "Set the limits",
    words: "These replace all limits of the key, on all replicas within a second.",
    fields: () => limitFields(key.limits),
    act: async (values) => {
      await api.put(`/keys/${encodeURIComponent(key.key_id)}/limits`, limitsFrom(values));
      await keys.load();
      return `Limits of ${key.name} changed`;
    },
  });
}

function revoke(key) {
  ask({
    title: `Revoke the key of ${key.name}?`,
    confirm: "Revoke",
    danger: true,
    words: "It stops working on all replicas within a second. This can't be undone.",
    act: async () => {
      await api.remove(`/keys/${encodeURIComponent(key.key_id)}`);
      await keys.load();
      return `Key of ${key.name} revoked`;
    },
  });
}
