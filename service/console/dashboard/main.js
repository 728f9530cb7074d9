// The page as a whole: who is logged in, which page is shown, and the frame around it.

import * as api from "./api.js";
import { recolor } from "./charts.js";
import * as eventsPage from "./events.js";
import * as format from "./format.js";
import * as keysPage from "./keys.js";
import * as live from "./live.js";
import { loginPage } from "./login.js";
import * as overviewPage from "./overview.js";
import * as requestPage from "./request.js";
import { changed, forget, onChange, state } from "./state.js";
import * as systemPage from "./system.js";
import * as usagePage from "./usage.js";
import { draw, h } from "./view.js";

const PAGES = {
  overview: { page: overviewPage, title: "Overview" },
  usage: { page: usagePage, title: "Usage" },
  events: { page: eventsPage, title: "Events" },
  keys: { page: keysPage, title: "Keys" },
  system: { page: systemPage, title: "System" },
  requests: { page: requestPage, title: "Request", hidden: true },
};
const THEMES = { "": "Auto", light: "Light", dark: "Dark" };
const TICK_MS = 1_000;

let leave = null;
let shown = "";

// `#/events?route=zai` -> the page, what comes after its name, and its query.
function readAddress() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/");
  state.page = {
    name: name in PAGES ? name : "overview",
    argument: decodeURIComponent(rest.join("/")),
    query: new URLSearchParams(query ?? ""),
  };
  enter();
}

function enter() {
  if (!state.session) return;
  const place = `${state.page.name}/${state.page.argument}`;
  if (place !== shown) {
    leave?.();
    const first = shown === "";
    shown = place;
    leave = PAGES[state.page.name].page.enter(state.page) ?? null;
    if (!first)
      requestAnimationFrame(() => {
        scrollTo(0, 0);
        document.getElementById("main")?.focus({ preventScroll: true });
      });
  } else PAGES[state.page.name].page.moved?.(state.page);
  changed();
}

function paint() {
  document.title = titleOf();
  draw(
    document.getElementById("app"),
    state.session === undefined
      ? h("p", { class: "boot" }, "Loading the dashboard …")
      : state.session
        ? frame()
        : loginPage(begin),
  );
}

function titleOf() {
  const signs = { warning: "▲ ", problem: "■ " };
  const name = state.session ? `${PAGES[state.page.name].title} · ` : "";
  return `${signs[state.overview?.level] ?? ""}${name}Claude Code Proxy`;
}

function frame() {
  return h(
    "div",
    { class: "frame" },
    h(
      "header",
      { class: "top" },
      h("a", { class: "brand", href: "#/" }, logo(), h("span", {}, "Claude Code Proxy")),
      h(
        "nav",
        { "aria-label": "Pages" },
        Object.entries(PAGES)
          .filter(([, one]) => !one.hidden)
          .map(tab),
      ),
      h("div", { class: "tools" }, feedState(), themeChoice(), account()),
    ),
    h(
      "main",
      { id: "main", tabindex: "-1" },
      h("h1", { class: "unseen" }, PAGES[state.page.name].title),
      PAGES[state.page.name].page.view(state.page),
    ),
  );
}

function tab([name, one]) {
  const here = state.page.name === name || (name === "events" && state.page.name === "requests");
  return h(
    "a",
    { href: name === "overview" ? "#/" : `#/${name}`, "aria-current": here ? "page" : undefined },
    one.title,
  );
}

function logo() {
  return h(
    "svg",
    { viewBox: "0 0 32 32", class: "logo", "aria-hidden": "true" },
    h("rect", { width: 32, height: 32, rx: 8 }),
    h("path", { d: "M7 16h6m0 0 6-7h6m-12 7h12m-12 0 6 7h6" }),
  );
}

function feedState() {
  const { how, heardMs, error } = state.feed;
  const [level, words, more] = {
    live: ["ok", "Live", "Updates arrive as they happen"],
    polling: ["warning", "Every 2 s", "The live feed is unavailable; the page polls every 2 seconds and keeps reconnecting"],
    away: ["problem", "Disconnected", error],
    starting: ["off", "Connecting", "Connecting to the live feed"],
  }[how];
  const since = how === "away" && heardMs ? `, last update ${format.span(Date.now() - heardMs)} ago` : "";
  return h(
    "span",
    { class: `feed ${how}`, title: more, role: "status" },
    h("span", { class: `dot ${level}`, "aria-hidden": "true" }),
    words + since,
  );
}

function themeChoice() {
  const chosen = document.documentElement.dataset.theme ?? "";
  return h(
    "label",
    { class: "theme" },
    h("span", { class: "unseen" }, "Theme"),
    h(
      "select",
      { value: chosen, onchange: (event) => setTheme(event.target.value) },
      Object.entries(THEMES).map(([value, words]) => h("option", { value }, words)),
    ),
  );
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try {
    if (theme) localStorage.setItem("ccproxy-theme", theme);
    else localStorage.removeItem("ccproxy-theme");
  } catch {
    // No storage: it holds until the page is closed.
  }
  recolor();
  changed();
}

function account() {
  return h(
    "button",
    { type: "button", class: "quiet", title: `Logged in as ${state.session.role}`, onclick: logOut },
    "Log out",
  );
}

async function logOut() {
  await api.logOut().catch(() => null);
  end();
}

function begin(session) {
  state.session = session;
  live.start();
  readAddress();
}

function end() {
  live.stop();
  leave?.();
  [leave, shown] = [null, ""];
  forget();
}

// Its address is a place on this page, and addresses here are pages.
function skip(event) {
  event.preventDefault();
  document.getElementById("main")?.focus();
}

async function start() {
  document.querySelector(".skip").addEventListener("click", skip);
  onChange(paint);
  addEventListener(api.SESSION_OVER, end);
  addEventListener("hashchange", readAddress);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
  setInterval(() => document.hidden || changed(), TICK_MS); // relative times move
  const session = await api.resume();
  if (session) begin(session);
  else forget();
}

start();
