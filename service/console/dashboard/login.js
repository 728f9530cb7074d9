// Where the token is asked for.

import * as api from "./api.js";
import { changed, state } from "./state.js";
import { h } from "./view.js";

let error = "";
let busy = false;

export function loginPage(entered) {
  async function submit(event) {
    event.preventDefault();
    const token = new FormData(event.target).get("token").trim();
    if (!token || busy) return;
    [busy, error] = [true, ""];
    changed();
    try {
      const session = await api.logIn(token);
      busy = false;
      entered(session);
    } catch (problem) {
      [busy, error] = [false, problem.message];
      changed();
      document.getElementById("token")?.select();
    }
  }
  const told = error || (state.feed.how === "away" ? state.feed.error : "");
  return h(
    "main",
    { class: "login", id: "main" },
    h(
      "form",
      { onsubmit: submit },
      h(
        "svg",
        { viewBox: "0 0 32 32", class: "logo", "aria-hidden": "true" },
        h("rect", { width: 32, height: 32, rx: 8 }),
        h("path", { d: "M7 16h6m0 0 6-7h6m-12 7h12m-12 0 6 7h6" }),
      ),
      h("h1", {}, "Claude Code Proxy"),
      h("label", { for: "token" }, "Dashboard token"),
      h("input", {
        id: "token",
        name: "token",
        type: "password",
        autocomplete: "current-password",
        required: true,
        autofocus: true,
        "aria-describedby": "token-hint",
        "aria-invalid": told ? "true" : undefined,
        mounted: (element) => element.focus(),
      }),
      told && h("p", { class: "error", role: "alert" }, told),
      h("button", { type: "submit", class: "main", disabled: busy }, busy ? "Logging in …" : "Log in"),
      h(
        "p",
        { class: "hint", id: "token-hint" },
        h("code", {}, "ccproxy admin token"),
        " prints it on the proxy's machine. A viewer token is read-only.",
      ),
    ),
  );
}
