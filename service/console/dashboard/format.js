// Numbers and times as people read them. Every short form has its exact one, to be shown on hovering. Pure, but for the
// reader's own time zone.

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const NUSD_PER_USD = 1e9;

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const moment = new Intl.DateTimeFormat("en-GB", {
  weekday: "short",
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});
const clockTime = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const fullTime = new Intl.DateTimeFormat("en-GB", {
  weekday: "short",
  day: "numeric",
  month: "short",
  year: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
  timeZoneName: "short",
});

// What reorders or hides text, or cannot be seen, in names and messages of strangers; as `service/telemetry/safe_text.py` has it.
const UNSEEN =
  /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\u{e0100}-\u{e01ef}]/gu;

// A text with escapes for all of that: `\u202e`.
export const visible = (text) => text.replace(UNSEEN, escaped);

function escaped(char) {
  const code = char.codePointAt(0).toString(16);
  if (code.length > 4) return `\\U${code.padStart(8, "0")}`;
  return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
}

// What a field for a count takes, and the number of it, as commands and settings read them: 20M, 1.5k, 2_000_000.
export const COUNT = "[0-9][0-9_,]*(\\.[0-9]+)? ?[kKMGT]?";
const SIZES = { k: 1e3, K: 1e3, M: 1e6, G: 1e9, T: 1e12 };

export function countOf(text) {
  const written = text.trim();
  if (written === "") return null;
  const size = SIZES[written.at(-1)] ?? 1;
  return Math.round(Number(written.replace(/[_, kKMGT]/g, "")) * size);
}

export const count = (value) => whole.format(value);
export const compact = (value) => (value < 1_000 ? whole.format(value) : short.format(value).replace("K", "k"));

export function percent(value) {
  if (value === null || value === undefined) return "–";
  return `${value.toFixed(value !== 0 && value < 10 ? 1 : 0)} %`;
}

export function dollars(nusd) {
  if (nusd === null || nusd === undefined) return "–";
  const usd = nusd / NUSD_PER_USD;
  if (usd === 0) return "$0";
  if (usd < 0.01) return `$${usd.toFixed(4)}`;
  return usd < 1_000 ? `$${usd.toFixed(2)}` : `$${whole.format(Math.round(usd))}`;
}

export const exactDollars = (nusd) => `$${((nusd ?? 0) / NUSD_PER_USD).toFixed(6)}`;

export function milliseconds(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < SECOND) return `${Number.isInteger(ms) || ms >= 10 ? Math.round(ms) : ms.toFixed(1)} ms`;
  if (ms < 10 * SECOND) return `${(ms / SECOND).toFixed(2)} s`;
  return ms < MINUTE ? `${(ms / SECOND).toFixed(1)} s` : span(ms);
}

// A while in its two largest units.
export function span(ms) {
  const left = Math.max(0, Math.round(ms / SECOND)) * SECOND;
  if (left < MINUTE) return `${left / SECOND} s`;
  if (left < HOUR) return pair(left, MINUTE, "min", SECOND, "s", left < 10 * MINUTE);
  if (left < DAY) return pair(left, HOUR, "h", MINUTE, "min", true);
  return pair(left, DAY, "d", HOUR, "h", left < 10 * DAY);
}

function pair(ms, large, largeName, little, littleName, both) {
  const rest = Math.floor((ms % large) / little);
  return `${Math.floor(ms / large)} ${largeName}${both && rest ? ` ${rest} ${littleName}` : ""}`;
}

// How far from now, in one unit: this is read at a glance, and the exact time is one hover away.
export function relative(atMs, nowMs) {
  const ahead = atMs - nowMs;
  const far = Math.abs(ahead);
  if (far < 1_500) return "now";
  const words =
    far < MINUTE
      ? `${Math.round(far / SECOND)} s`
      : far < HOUR
        ? `${Math.round(far / MINUTE)} min`
        : far < DAY
          ? `${Math.round(far / HOUR)} h`
          : `${Math.round(far / DAY)} d`;
  return ahead > 0 ? `in ${words}` : `${words} ago`;
}

export const exact = (atMs) => fullTime.format(atMs);
export const clock = (atMs) => clockTime.format(atMs);
export const dateAndTime = (atMs) => moment.format(atMs);

// `quota_spent` -> `quota spent`; a variable's name, in capitals, stays as it has to be typed.
export const words = (name) => name.replace(/([a-z0-9])_(?=[a-z0-9])/g, "$1 ");
export const sentence = (name) => words(name).replace(/^./, (first) => first.toUpperCase());

// Addresses, settings and the like stay as one types them.
export const capitalized = (text) => text.replace(/^[a-z](?=[a-z]* )/, (first) => first.toUpperCase());
export const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : (many ?? `${one}s`)}`;
