// Charts by uPlot (vendor/): lines, and bars that stand on each other. Each is named for screen readers, and what it
// shows stands in a table or in words beside it as well. Not here: what is shown.

import * as format from "./format.js";
import { h } from "./view.js";

const PALETTE = ["--series-1", "--series-2", "--series-3", "--series-4", "--series-5", "--series-6"];
const OTHERS = "--series-rest";
const DAY_S = 86_400;
const AXIS_FONT = "11px system-ui, sans-serif";

const charts = new Set();

// The colour of the n-th of what is compared; those beyond the palette share one.
export const seriesColor = (index) => PALETTE[index] ?? OTHERS;

// `times` in seconds; each of `series` is {label, values, color, dash, fill}. `bars`: each value stands on those before
// it. `show(value)` writes a value, `height` is in pixels, `small` leaves out what only a large chart has room for; `range` and
// `top` fix the axes.
export function chart(spec) {
  return h("div", {
    class: `chart ${spec.small ? "small" : ""}`,
    role: "img",
    "aria-label": spec.label,
    key: spec.key,
    style: { height: `${spec.height}px` },
    mounted: (element) => mount(element, spec),
    updated: (element) => update(element, spec),
    removed: unmount,
  });
}

export function legend(series) {
  return h(
    "ul",
    { class: "legend" },
    series.map((one) =>
      h("li", {}, h("span", { class: "swatch", style: { background: `var(${one.color})` } }), one.label),
    ),
  );
}

// Colours are drawn, not styled: when they change, so must the drawing.
export function recolor() {
  for (const element of charts) rebuild(element);
}

function mount(element, spec) {
  element.spec = spec;
  element.observer = new ResizeObserver(() => resize(element));
  element.observer.observe(element);
  charts.add(element);
  rebuild(element);
}

function unmount(element) {
  charts.delete(element);
  element.observer.disconnect();
  element.plot.destroy();
}

function update(element, spec) {
  const shape = shapeOf(element.spec);
  const same = sameData(element.spec, spec);
  element.spec = spec;
  if (shape !== shapeOf(spec)) rebuild(element);
  else if (!same) element.plot.setData(dataOf(spec));
}

const shapeOf = (spec) => JSON.stringify([spec.height, spec.bars, spec.series.map((one) => [one.label, one.color])]);

function sameData(one, other) {
  return (
    JSON.stringify([one.times, one.series.map((each) => each.values)]) ===
    JSON.stringify([other.times, other.series.map((each) => each.values)])
  );
}

function resize(element) {
  const width = element.clientWidth;
  if (width && width !== element.plot.width) element.plot.setSize({ width, height: element.spec.height });
}

function rebuild(element) {
  element.plot?.destroy();
  element.plot = new uPlot(optionsOf(element), dataOf(element.spec), element);
}

// Bars are drawn from the highest sum to the lowest, each over the one before.
function dataOf(spec) {
  if (!spec.bars) return [spec.times, ...spec.series.map((one) => one.values)];
  const sums = [];
  let below = spec.times.map(() => 0);
  for (const one of spec.series) {
    below = below.map((sum, index) => sum + (one.values[index] ?? 0));
    sums.unshift(below);
  }
  return [spec.times, ...sums];
}

function optionsOf(element) {
  const { spec } = element;
  const drawn = spec.bars ? [...spec.series].reverse() : spec.series;
  return {
    width: Math.max(element.clientWidth, 50),
    height: spec.height,
    padding: spec.small ? [6, 14, 0, 14] : [10, 18, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { show: !spec.bars } },
    scales: {
      x: { range: (_, first, last) => rangeOf(element.spec, first, last) },
      y: { range: (_, __, most) => [0, 1.06 * (element.spec.top ?? most ?? 0) || 1] },
    },
    series: [{}, ...drawn.map((one) => seriesOf(one, spec))],
    axes: axesOf(spec),
    hooks: { setCursor: [(plot) => point(plot, element)] },
  };
}

// The first and the last bar need half a bar's room beside them, and a lonely point an axis of hours.
function rangeOf(spec, first, last) {
  if (spec.range) return spec.range;
  const half = spec.times.length > 1 ? (spec.times[1] - spec.times[0]) / 2 : DAY_S / 4;
  return spec.bars || first === last ? [first - half, last + half] : [first, last];
}

function seriesOf(one, spec) {
  const color = resolved(one.color);
  const common = {
    label: one.label,
    stroke: color,
    width: spec.bars ? 0 : (one.width ?? 1.75),
    points: { show: false },
  };
  if (spec.bars) return { ...common, fill: color, paths: uPlot.paths.bars({ size: [0.82, 48], gap: 0, radius: 0.08 }) };
  const lonely = spec.times.length < 2 || one.values.filter((value) => value !== null).length === 1;
  return {
    ...common,
    dash: one.dash,
    spanGaps: false,
    fill: one.fill && faded(color),
    points: { show: lonely && !one.dash, size: 5, fill: color },
  };
}

function axesOf(spec) {
  const stroke = resolved("--muted");
  const grid = { stroke: resolved("--line"), width: 1 };
  const common = { stroke, font: AXIS_FONT, ticks: { show: false } };
  return [
    {
      ...common,
      grid: { show: false },
      size: 22,
      gap: 4,
      space: spec.small ? 44 : 64,
      values: (_, splits, __, ___, step) => splits.map((at) => timeLabel(at, step, spec.small)),
    },
    { ...common, grid, show: !spec.small, size: 58, gap: 6, space: 36, values: (_, splits) => splits.map(spec.show) },
  ];
}

function timeLabel(atS, stepS, small) {
  const at = new Date(atS * 1000);
  if (small) return at.toLocaleDateString("en-GB", { weekday: "short" });
  if (stepS >= DAY_S || (at.getHours() === 0 && at.getMinutes() === 0)) {
    return at.toLocaleDateString(
      "en-GB",
      stepS > 2 * DAY_S ? { day: "numeric", month: "short" } : { weekday: "short", day: "numeric" },
    );
  }
  return format.clock(at);
}

// What stands under the pointer, in words.
function point(plot, element) {
  const { spec } = element;
  const index = plot.cursor.idx;
  element.tip ??= element.appendChild(Object.assign(document.createElement("div"), { className: "tip" }));
  const { tip } = element;
  tip.hidden = index === null || index === undefined || plot.cursor.left < 0;
  if (tip.hidden) return;
  const rows = spec.series.filter((one) => one.values[index] !== null && one.values[index] !== undefined);
  tip.replaceChildren(
    line("b", spec.named?.(index) ?? format.dateAndTime(spec.times[index] * 1000)),
    ...rows.map((one) => row(one, spec.show(one.values[index]))),
  );
  const onRight = plot.cursor.left > element.clientWidth / 2;
  tip.style.setProperty("left", onRight ? "auto" : `${plot.cursor.left + plot.bbox.left / devicePixelRatio + 12}px`);
  tip.style.setProperty(
    "right",
    onRight ? `${element.clientWidth - plot.cursor.left - plot.bbox.left / devicePixelRatio + 12}px` : "auto",
  );
}

function row(one, value) {
  const made = line("span", "");
  const swatch = line("i", "");
  swatch.style.setProperty("background", `var(${one.color})`);
  made.append(swatch, line("em", one.label), line("strong", value));
  return made;
}

function line(tag, words) {
  const made = document.createElement(tag);
  made.textContent = format.visible(String(words));
  return made;
}

// A colour of the style sheet as a canvas takes it.
function resolved(name) {
  const probe = document.body.appendChild(document.createElement("span"));
  probe.style.setProperty("color", `var(${name})`);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

const faded = (color) => color.replace(/^rgb\((.*)\)$/, "rgba($1, 0.14)");
