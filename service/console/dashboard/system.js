// What serves and how far the ledger is: replicas, streams, workers, the spool, what was put aside, the settings.

import * as api from "./api.js";
import { ask } from "./dialogs.js";
import * as format from "./format.js";
import { Loaded, every } from "./loading.js";
import { ago, badge, empty, fact, facts, panel, table, trouble } from "./parts.js";
import { changed, mayChange, state } from "./state.js";
import { h } from "./view.js";

const FLEET_MS = 2_000;
const ASIDE_MS = 15_000;
const LAG_WARNING = 100;
const SKEW_WARNING_MS = 5_000;

const fleet = new Loaded(() => api.get("/fleet"));
const aside = new Loaded(() => api.get("/dead-letters"));
const settings = new Loaded(() => api.get("/settings"));
const marked = new Set();
let wanted = "";

export function enter() {
  settings.load();
  const ends = [every(FLEET_MS, () => fleet.load()), every(ASIDE_MS, () => aside.load())];
  return () => ends.forEach((end) => end());
}

export function view() {
  return [standing(), putAside(), inForce()];
}

// -- the fleet

function standing() {
  const { data } = fleet;
  if (!data)
    return panel(
      "Fleet",
      { id: "fleet" },
      fleet.error ? trouble(fleet.error, () => fleet.load()) : h("p", { class: "boot" }, "Loading …"),
    );
  return [
    panel(
      "Fleet",
      { id: "fleet" },
      fleet.error && h("p", { class: "stale" }, fleet.error),
      facts(
        fact(
          "Redis",
          data.redis_up ? badge("ok", "up") : badge("problem", "can't be used"),
          data.redis_up || !data.spooling ? "" : "events are kept on disk meanwhile",
        ),
        fact("Workers", workers(data.workers), isStuck() && badge("problem", "can't do their work: see Overview")),
        fact("Replicas", format.count(data.replicas.length)),
        fact(
          "Pending here",
          format.count(data.pending_events),
          data.spooling ? "spooled to disk" : "events in the outbox",
        ),
        fact("Version", state.overview?.version ?? "–", isMixed(data.replicas) && badge("warning", "replicas differ")),
      ),
    ),
    panel(
      "Replicas",
      { id: "replicas" },
      table({
        kind: "stacks",
        caption: "Replicas",
        rows: data.replicas,
        keyOf: (one) => one.replica,
        empty: empty("No known replicas", "The list comes from Redis."),
        columns: [
          {
            head: "Replica",
            cell: (one) => [h("code", {}, one.replica), one.here && [" ", badge("serving", "this one")]],
          },
          { head: "Version", cell: (one) => version(one) },
          { head: "Address", cell: (one) => (one.address ? h("code", {}, one.address) : "–") },
          { head: "Started", cell: (one) => [started(one), one.draining && [" ", badge("warning", "draining")]] },
          { head: "Clock", class: "number", cell: (one) => clock(one) },
          { head: "PID", class: "number", cell: (one) => one.pid },
          { head: "Last seen", class: "number", cell: (one) => `${format.milliseconds(one.seen_ms_ago)} ago` },
          { head: "Pending events", class: "number", cell: (one) => format.count(one.pending) },
          {
            head: "Settings",
            cell: (one) =>
              one.agrees ? h("code", {}, one.settings) : [h("code", {}, one.settings), " ", badge("warning", "differ")],
          },
        ],
      }),
    ),
    panel(
      "Streams",
      {
        id: "streams",
        intro:
          "Lag: entries that the workers have not folded yet. Gaps: sequence numbers that have not arrived.",
      },
      table({
        caption: "Streams",
        rows: data.streams,
        keyOf: (one) => one.stream,
        empty: empty("No streams yet", "The first request creates one."),
        columns: [
          { head: "Stream", cell: (one) => one.stream },
          {
            head: "Lag",
            class: "number",
            cell: (one) => (one.lag >= LAG_WARNING ? badge("warning", format.count(one.lag)) : format.count(one.lag)),
          },
          { head: "Position", class: "number", cell: (one) => format.count(one.position) },
          {
            head: "Snapshot",
            class: "number",
            cell: (one) => (one.snapshot_age_ms === null ? "none" : `${format.span(one.snapshot_age_ms)} old`),
          },
          { head: "Gaps", class: "number", cell: (one) => (one.gaps ? badge("warning", format.count(one.gaps)) : "0") },
          { head: "Epoch", class: "number", cell: (one) => one.epoch },
        ],
      }),
    ),
  ];
}

function isMixed(replicas) {
  return new Set(replicas.map((one) => one.version).filter(Boolean)).size > 1;
}

function version(one) {
  if (!one.version) return badge("warning", "unknown");
  return one.version === state.overview?.version ? one.version : [one.version, " ", badge("warning", "other version")];
}

const started = (one) => (one.started_at_ms ? ago(one.started_at_ms) : "–");

// How far the machine's clock is from the fleet's time, which is that of Redis.
function clock(one) {
  if (one.clock_skew_ms === null) return "–";
  const far = Math.abs(one.clock_skew_ms);
  if (far < SKEW_WARNING_MS) return "right";
  return badge("warning", `${format.span(far)} ${one.clock_skew_ms > 0 ? "fast" : "slow"}`);
}

const isStuck = () => state.overview?.notices.some((notice) => notice.code === "worker");

function workers(number) {
  if (number === null) return badge("off", "unknown");
  return number ? format.count(number) : badge("problem", "none: start `ccproxy worker`");
}

// -- what was put aside

function putAside() {
  const { data } = aside;
  const many = data && data.dead_letters + data.quarantined;
  return panel(
    "Dead letters and quarantine",
    {
      id: "aside",
      intro:
        "Entries that this version can't decode, and events that contradict the ledger. They block nothing else.",
      aside: Boolean(many) &&
        mayChange() && [
          h("button", { type: "button", onclick: replay }, "Retry dead letters"),
          h(
            "button",
            { type: "button", class: "danger-quiet", disabled: marked.size === 0, onclick: drop },
            marked.size ? `Drop ${marked.size}` : "Drop",
          ),
        ],
    },
    asideBody(data),
  );
}

function asideBody(data) {
  if (!data)
    return aside.error ? trouble(aside.error, () => aside.load()) : h("p", { class: "boot" }, "Loading …");
  return [
    aside.error && h("p", { class: "stale" }, aside.error),
    table({
      caption: "Dead letters and quarantined events",
      rows: data.rows,
      keyOf: (one) => one.id,
      empty: empty("No dead letters and no quarantined events"),
      columns: [
        ...(mayChange() ? [{ head: h("span", { class: "unseen" }, "Select"), cell: checkbox }] : []),
        { head: "Seen", cell: (one) => ago(one.seen_at_ms) },
        { head: "Kind", cell: (one) => one.kind },
        { head: "Stream", cell: (one) => one.stream },
        { head: "Reason", cell: (one) => one.reason },
        { head: "Entry", cell: (one) => h("details", {}, h("summary", {}, one.entry), h("pre", {}, one.raw)) },
      ],
    }),
  ];
}

function checkbox(one) {
  return h("input", {
    type: "checkbox",
    checked: marked.has(one.id),
    "aria-label": `Select ${one.kind} ${one.entry}`,
    onchange: (event) => {
      if (event.target.checked) marked.add(one.id);
      else marked.delete(one.id);
      changed();
    },
  });
}

function replay() {
  ask({
    title: "Retry the dead letters?",
    confirm: "Retry",
    words: "Those that the workers can now decode are folded; the rest stay.",
    act: async () => {
      const told = await api.post("/dead-letters/replay", { stream: "" });
      await aside.load();
      return `${format.plural(told.read, "event")} folded, ${told.left} left`;
    },
  });
}

function drop() {
  const ids = [...marked];
  ask({
    title: `Drop ${format.plural(ids.length, "row")} permanently?`,
    confirm: "Drop",
    danger: true,
    words: "Their content is lost. The ledger stays consistent without them.",
    act: async () => {
      const told = await api.post("/dead-letters/drop", { ids });
      marked.clear();
      await aside.load();
      return `${format.plural(told.dropped, "row")} dropped`;
    },
  });
}

// -- settings

// The name that one types: the variable's, and where the TOML file alone sets it, the place.
const settingName = (one) =>
  one.variable
    ? h("span", { title: one.meaning }, h("code", {}, one.variable), h("small", { class: "place" }, one.name))
    : h("code", {}, one.name);

function inForce() {
  const rows = (settings.data ?? []).filter(
    (one) => [one.variable, one.name, one.value, one.meaning].some((text) => text.toLowerCase().includes(wanted)),
  );
  return panel(
    "Effective settings",
    {
      id: "settings",
      intro: "Of the replica that serves this page. Secrets are masked. docs/settings.md explains each setting.",
      aside: h(
        "label",
        {},
        h("span", { class: "unseen" }, "Find a setting"),
        h("input", {
          type: "search",
          placeholder: "Find a setting",
          value: "",
          oninput: (event) => {
            wanted = event.target.value.toLowerCase();
            changed();
          },
        }),
      ),
    },
    settings.error
      ? trouble(settings.error, () => settings.load())
      : settings.data
        ? table({
            kind: "long",
            caption: "Effective settings",
            rows,
            keyOf: (one) => one.name,
            empty: empty("No matching settings"),
            columns: [
              { head: "Setting", cell: settingName },
              {
                head: "Value",
                cell: (one) => (one.value === "" ? h("span", { class: "muted" }, "not set") : h("code", {}, one.value)),
              },
            ],
          })
        : h("p", { class: "boot" }, "Loading settings …"),
  );
}
