// Draws: a tree of plain objects becomes, and keeps being, a tree of elements. What has not changed is not touched, so
// that focus, selection and scrolling stay where they are while the page is alive.
//
// Text only ever becomes text nodes, with escapes for what reorders or hides text: nothing that comes from the API can
// be markup, or pose as something else. Not here: what is drawn.

import { visible } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const SHOWN = new Set(["title", "aria-label", "placeholder"]);
const LIVE_PROPERTIES = new Set(["value", "checked", "disabled", "open", "selected", "indeterminate"]);

// An element: its tag, its attributes, and what is in it. `on…` are handlers, `style` an object, `key` its name among
// its siblings; `mounted(el)`, `updated(el)` and `removed(el)` are for what is drawn by others (charts, dialogs).
export function h(tag, attributes, ...children) {
  return { tag, attributes: attributes ?? {}, children: flat(children), element: null };
}

export function draw(container, ...tree) {
  const next = flat(tree);
  if (!container.drawn) container.replaceChildren(); // what stood there before the first drawing
  patchChildren(container, container.drawn ?? [], next, container.namespaceURI === SVG);
  container.drawn = next;
}

function flat(children) {
  return children.flat(Infinity).map((child) => {
    if (child === null || child === undefined || child === false || child === true) return text("");
    return typeof child === "object" ? child : text(String(child));
  });
}

function text(value) {
  return { tag: "#text", value: visible(value), attributes: {}, children: [], element: null };
}

function patchChildren(parent, olds, news, inSvg) {
  const pairs = matched(olds, news);
  const kept = new Set(pairs.values());
  for (const old of olds) if (!kept.has(old)) remove(old);
  let place = parent.firstChild;
  for (const next of news) {
    const old = pairs.get(next);
    if (old) patch(old, next, inSvg);
    else make(next, inSvg);
    if (next.element === place) place = place.nextSibling;
    else parent.insertBefore(next.element, place);
    if (!old) mounted(next);
  }
}

// Which old node each new one goes on from: by key, else by tag in the same order.
function matched(olds, news) {
  const keyed = new Map();
  const others = [];
  for (const old of olds) {
    if (old.attributes.key === undefined) others.push(old);
    else keyed.set(old.attributes.key, old);
  }
  const pairs = new Map();
  let next = 0;
  for (const node of news) {
    const key = node.attributes.key;
    const old = key === undefined ? others[next++] : keyed.get(key);
    if (old && old.tag === node.tag) pairs.set(node, old);
    if (key !== undefined) keyed.delete(key);
  }
  return pairs;
}

function make(node, inSvg) {
  if (node.tag === "#text") {
    node.element = document.createTextNode(node.value);
    return;
  }
  const svg = inSvg || node.tag === "svg";
  node.element = svg ? document.createElementNS(SVG, node.tag) : document.createElement(node.tag);
  const { value, ...rest } = node.attributes;
  setAttributes(node.element, {}, rest);
  patchChildren(node.element, [], node.children, svg);
  if (value !== undefined) setAttributes(node.element, {}, { value }); // a <select> knows its options only now
}

function mounted(node) {
  node.attributes.mounted?.(node.element);
}

function patch(old, next, inSvg) {
  next.element = old.element;
  if (next.tag === "#text") {
    if (old.value !== next.value) next.element.data = next.value;
    return;
  }
  setAttributes(next.element, old.attributes, next.attributes);
  patchChildren(next.element, old.children, next.children, inSvg || next.tag === "svg");
  next.attributes.updated?.(next.element);
}

function remove(node) {
  node.element.remove();
  removed(node);
}

function removed(node) {
  node.attributes.removed?.(node.element);
  node.children.forEach(removed);
}

function setAttributes(element, before, after) {
  for (const name of Object.keys(before)) if (!(name in after)) setAttribute(element, name, undefined, before[name]);
  for (const [name, value] of Object.entries(after)) {
    if (value !== before[name]) setAttribute(element, name, value, before[name]);
  }
}

function setAttribute(element, name, value, before) {
  if (name === "key" || name === "mounted" || name === "updated" || name === "removed") return;
  if (name.startsWith("on")) element[name] = value ?? null;
  else if (name === "style") setStyle(element, before ?? {}, value ?? {});
  else if (LIVE_PROPERTIES.has(name) && name in element) element[name] = value ?? "";
  else if (value === undefined || value === null || value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? "" : SHOWN.has(name) ? visible(String(value)) : String(value));
}

function setStyle(element, before, after) {
  for (const name of Object.keys(before)) if (!(name in after)) element.style.removeProperty(name);
  for (const [name, value] of Object.entries(after)) {
    if (before[name] !== value) element.style.setProperty(name, value);
  }
}
