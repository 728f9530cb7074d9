// Questions before something is changed, and what became of it. Dialogs are the browser's own: they hold the focus, end
// with Escape, and give the focus back.

import { visible } from "./format.js";
import { draw, h } from "./view.js";

const TOAST_MS = 6_000;

// Asks. `fields()` draws inputs, whose values `act(values)` is given; it may answer with words for a toast. While it
// runs the dialog stays, and shows what it throws.
export function ask({ title, words, fields, confirm, danger, act }) {
  const opener = document.activeElement;
  const dialog = document.body.appendChild(document.createElement("dialog"));
  dialog.setAttribute("aria-labelledby", "dialog-title");
  const close = () => dialog.close();
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (opener?.isConnected) opener.focus();
  });
  let busy = false;
  let error = "";
  const paint = () => draw(dialog, form());

  async function submit(event) {
    event.preventDefault();
    if (busy) return;
    const values = Object.fromEntries(new FormData(event.target));
    [busy, error] = [true, ""];
    paint();
    try {
      const told = await act(values);
      close();
      if (told) toast(told);
    } catch (problem) {
      [busy, error] = [false, problem.message];
      paint();
    }
  }

  const form = () =>
    h(
      "form",
      { onsubmit: submit },
      h("h2", { id: "dialog-title" }, title),
      words && h("p", {}, words),
      fields?.(),
      error && h("p", { class: "error", role: "alert" }, error),
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", class: "quiet", onclick: close }, "Cancel"),
        h(
          "button",
          { type: "submit", class: danger ? "danger" : "main", disabled: busy },
          busy ? "Please wait …" : confirm,
        ),
      ),
    );

  paint();
  dialog.showModal();
}

// Shows something until it is put away.
export function show({ title, content, close: closeWords }) {
  const dialog = document.body.appendChild(document.createElement("dialog"));
  dialog.setAttribute("aria-labelledby", "dialog-title");
  dialog.addEventListener("close", () => dialog.remove());
  draw(
    dialog,
    h(
      "div",
      { class: "form" },
      h("h2", { id: "dialog-title" }, title),
      content,
      h(
        "div",
        { class: "buttons" },
        h("button", { type: "button", class: "main", onclick: () => dialog.close() }, closeWords),
      ),
    ),
  );
  dialog.showModal();
}

export function field({ name, label, hint, ...attributes }) {
  const id = `field-${name}`;
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    h("input", {
      id,
      name,
      autocomplete: "off",
      spellcheck: "false",
      "aria-describedby": hint ? `${id}-hint` : undefined,
      ...attributes,
    }),
    hint && h("p", { class: "hint", id: `${id}-hint` }, hint),
  );
}

export function toast(words, level = "ok") {
  const made = document.createElement("p");
  made.className = `toast ${level}`;
  made.textContent = visible(String(words));
  document.getElementById("toasts").append(made);
  setTimeout(() => made.remove(), TOAST_MS);
}
