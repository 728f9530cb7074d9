"""The one reader of `usage`: what an answer's object of that name says, and for which endpoints it says anything.

Not here: where the object stands in a stream or a body (`tap`), running totals of resources (`resource_totals`),
estimates for what was not reported (`usage_estimate`), and prices.

The rules, by Anthropic's documentation and its SDK's types:

- Later objects of one answer replace earlier figures, since they are running totals. A zero replaces nothing: Z.AI
  starts with zeros and reports at the end, and Claude Code treats Anthropic's late zeros as missing (both seen in
  public sources).
- Cache writes are split by `cache_creation` into 5 minutes and 1 hour. The part of their sum,
  `cache_creation_input_tokens`, beyond the split counts as 5 minutes.
- `output_tokens_details` is a part of the output, not more.
- `iterations` are by type. `message` and `fallback_message` are within the totals, unless they name a model other than
  the answer's: those declined the request before the fallback that served it, and are lines of their own. `compaction`
  and `advisor_message` never are in the totals.
- A `fallback_message` names the model that served: a stream in the middle of which a model declines has begun with the
  name of that one. The lifetimes of its cache writes may be told there alone, and the request's tier and geography at
  the beginning alone.
- `server_tool_use` counts requests of the provider's own tools.
- Tier, speed and geography are texts; the standard ones are left out.
- Who declines or refuses before any output is not billed.
- A field that is none of these, or whose value is none that it may have, and holds something, is told by its name
  (`unread`).
"""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from service.ledger.events import Endpoint, LineKind, TokenCounts, UsageLine
from service.ledger.model_names import NAME_CHARS, bounded_name, canonical
from service.ledger.usage_lines import NO_TOKENS, plus, total_tokens

UsageMeaning = Literal["request", "running_total", "nothing"]
"""Whose usage an answer tells: the request's, that of a resource since it was made, or nobody's."""

CACHE_SPLIT = frozenset(("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"))
PLAIN = frozenset(
    (
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "cache_creation",
        "output_tokens_details",
        "service_tier",
        "inference_geo",
        "speed",
    )
)
"""Fields that each answer may have."""
OWN_FIGURES = frozenset(("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))
RARE = frozenset(("iterations", "server_tool_use", "fallback_credit"))
WORDS = frozenset(("service_tier", "inference_geo", "speed"))
SCALARS = OWN_FIGURES | WORDS
STANDARD_WORDS = frozenset(("", "standard", "global", "not_available"))
"""Tiers, speeds and geographies that cost the list price; a geography is not told where it does not matter."""
ITERATIONS: dict[str, LineKind] = {
    "message": "message",
    "fallback_message": "fallback",
    "compaction": "compaction",
    "advisor_message": "advisor",
}
WITHIN_TOTALS: frozenset[LineKind] = frozenset(("message", "fallback"))
"""Kinds of iterations that are within an answer's totals."""
TOOL_SUFFIX = "_requests"
FIGURE_LIMIT = 10**12
"""A larger count is invalid."""
MOST_LINES = 16
"""Maximum lines of an answer; iterations of one kind and model are one line."""
MOST_UNREAD = 8
MOST_TOOLS = 16
FIELD_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
WORD_CHARS = 32
OTHER_WORD = "other"

TOTALS_BELOW = ("/v1/sessions", "/v1/dreams")
"""Resources whose usage is a running total, and the paths below them."""


def meaning_of(method: str, endpoint: Endpoint, path: str) -> UsageMeaning:
    """Return what `usage` in an answer of an endpoint means. The items of a batch's results are requests, each.

    What is read tells the usage of the request that made it, each time.
    """
    if endpoint != "other":
        return "request" if endpoint == "messages" else "nothing"
    if is_below(path, TOTALS_BELOW):
        return "running_total"
    return "nothing" if method in ("GET", "HEAD") else "request"


def is_below(path: str, resources: Iterable[str]) -> bool:
    """True if a path is that of a collection, or of anything in it."""
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in resources)


class UsageReading(Struct, frozen=True, omit_defaults=True):
    """The usage that an answer reports: its own line, and `more` lines beside it.

    `model` is the one that the answer names, "" if none. `is_plain`: tokens and model are all there is to tell.
    `estimated`: the provider has not reported all of it, and the rest is an estimate (`usage_estimate`).
    """

    tokens: TokenCounts = NO_TOKENS
    model: str = ""
    kind: LineKind = "message"
    tools: dict[str, int] = {}
    tier: str = ""
    speed: str = ""
    geo: str = ""
    unbilled: bool = False
    credit: str = ""
    more: tuple[UsageLine, ...] = ()
    unread: tuple[str, ...] = ()
    is_plain: bool = True
    estimated: bool = False

    @property
    def total(self) -> TokenCounts:
        """The tokens of all lines."""
        return plus(self.tokens, total_tokens(self.more)) if self.more else self.tokens

    def lines(self, model: str) -> tuple[UsageLine, ...]:
        """Return all lines, the answer's own first; `model` serves where the answer names none."""
        own = UsageLine(
            model=model,
            kind=self.kind,
            tokens=self.tokens,
            tools=self.tools,
            tier=self.tier,
            speed=self.speed,
            geo=self.geo,
            unbilled=self.unbilled,
            credit=self.credit,
        )
        return (own, *(line if line.model else replace(line, model=model) for line in self.more))


NO_USAGE = UsageReading()


class UsageReader:
    """Merges the usage objects of one answer."""

    __slots__ = ("_credit", "_figures", "_iterations", "_tools", "_unread", "_words")

    def __init__(self) -> None:
        self._figures: dict[str, int] = {}
        self._words: dict[str, str] = {}
        self._iterations: list[Any] = []
        self._tools: dict[str, int] = {}
        self._credit = ""
        self._unread: dict[str, None] = {}

    def for_next_model(self) -> "UsageReader":
        """Return a reader for the model that goes on with the answer: without figures, but with what was told of the
        request, which is not told again. Its speed may be another."""
        reader = UsageReader()
        reader._words = {name: word for name, word in self._words.items() if name != "speed"}
        reader._credit, reader._unread = self._credit, self._unread
        return reader

    def merge(self, usage: Any) -> None:
        """Merge a later usage object; invalid values are ignored."""
        if not isinstance(usage, dict):
            return
        self._merge_scalars(usage)
        if split := usage.get("cache_creation"):
            self._merge_split(split)
        if not PLAIN.issuperset(usage):
            self._merge_rare(usage)

    def _merge_scalars(self, usage: dict[str, Any]) -> None:
        """Merge counts and words."""
        for name, value in usage.items():
            if type(value) is int:  # excludes bool
                if 0 < value < FIGURE_LIMIT:
                    self._figures[name] = value
                elif value:
                    self._add_unread(name)
            elif name in SCALARS and value:
                if type(value) is not str or name in OWN_FIGURES:
                    self._add_unread(name)
                elif value not in STANDARD_WORDS:
                    self._words[name] = word_in(value)

    def _merge_split(self, split: Any) -> None:
        """Merge the split of cache writes by their lifetime."""
        if isinstance(split, dict):
            figures = {name: count for name, count in figures_in(split) if name in CACHE_SPLIT}
            self._figures.update(figures)
            self._note_unread(split, figures, "cache_creation.")
        else:
            self._add_unread("cache_creation")

    def _merge_rare(self, usage: dict[str, Any]) -> None:
        """Merge what few answers have."""
        if isinstance(iterations := usage.get("iterations"), list):
            self._iterations = iterations
        if isinstance(tools := usage.get("server_tool_use"), dict):
            self._merge_tools(tools)
        self._credit = credit_of(usage.get("fallback_credit")) or self._credit
        is_read = {"iterations": isinstance(iterations, list), "server_tool_use": isinstance(tools, dict)}
        self._note_unread(usage, PLAIN | RARE - {name for name, known in is_read.items() if not known}, "")

    def _merge_tools(self, tools: dict[str, Any]) -> None:
        """Merge the requests of the provider's tools."""
        for name, count in figures_in(tools):
            tool = name.removesuffix(TOOL_SUFFIX)
            if tool != name and FIELD_NAME.fullmatch(tool) and (tool in self._tools or len(self._tools) < MOST_TOOLS):
                self._tools[tool] = count
        self._note_unread(tools, {tool + TOOL_SUFFIX for tool in self._tools}, "server_tool_use.")

    def _note_unread(self, fields: dict[str, Any], known: Collection[str], prefix: str) -> None:
        """Note the fields that hold something and are not known."""
        for name, value in fields.items():
            if name not in known and value:
                self._add_unread(prefix + name)

    def _add_unread(self, name: str) -> None:
        if len(self._unread) < MOST_UNREAD:
            self._unread[name if FIELD_NAME.fullmatch(name) else OTHER_WORD] = None

    @property
    def tokens(self) -> TokenCounts:
        """The counts of the answer's own line so far."""
        figure = self._figures.get
        write_1h = figure("ephemeral_1h_input_tokens", 0)
        write_5m = figure("ephemeral_5m_input_tokens", 0)
        return TokenCounts(
            input=figure("input_tokens", 0),
            output=figure("output_tokens", 0),
            cache_read=figure("cache_read_input_tokens", 0),
            cache_write_5m=max(write_5m, figure("cache_creation_input_tokens", 0) - write_1h),
            cache_write_1h=write_1h,
        )

    def reading(self, model: str, *, unbilled: bool = False) -> UsageReading:
        """Return the usage so far, of an answer that names this model; `unbilled`: it was refused before any output."""
        if len(model) > NAME_CHARS or "\0" in model:
            model = bounded_name(model)
        words = self._words
        is_plain = not (words or self._tools or self._credit or unbilled)
        own = UsageReading(self.tokens, model, is_plain=is_plain)
        if not is_plain:
            own = replace(
                own,
                tools=self._tools,
                tier=words.get("service_tier", ""),
                speed=words.get("speed", ""),
                geo=words.get("inference_geo", ""),
                unbilled=unbilled,
                credit=self._credit,
            )
        if self._iterations:
            own = self._with_iterations(own)
        return replace(own, unread=tuple(self._unread)) if self._unread else own

    def _with_iterations(self, own: UsageReading) -> UsageReading:
        """Return a reading with the lines that its iterations add, of the model that served by them."""
        if served := fallback_in(self._iterations):
            own = replace(own, model=bounded_name(served))
        lines: dict[tuple[str, LineKind], UsageLine] = {}
        for iteration in self._iterations:
            line = self._line_of(iteration, own)
            if line and line.tokens != NO_TOKENS:
                self._add_line(lines, line)
        if any(map(is_fallback, self._iterations)):
            own = replace(own, kind="fallback", tokens=self._with_lifetimes(own.tokens), is_plain=False)
        return replace(own, more=tuple(lines.values()), is_plain=own.is_plain and not lines)

    def _with_lifetimes(self, tokens: TokenCounts) -> TokenCounts:
        """Return the tokens of a fallback with the lifetimes of cache writes that its iteration tells, if nothing else
        has told them."""
        if not CACHE_SPLIT.isdisjoint(self._figures):
            return tokens
        hour = min(sum(hour_in(one) for one in self._iterations if is_fallback(one)), tokens.cache_write_5m)
        return replace(tokens, cache_write_5m=tokens.cache_write_5m - hour, cache_write_1h=hour)

    def _add_line(self, lines: dict[tuple[str, LineKind], UsageLine], line: UsageLine) -> None:
        """Add a line to the one of its kind and model."""
        known = lines.get((line.model, line.kind))
        if known:
            unbilled = line.unbilled and known.unbilled
            line = replace(line, tokens=plus(known.tokens, line.tokens), unbilled=unbilled)
        elif len(lines) >= MOST_LINES:
            self._add_unread("iterations.more")
            return
        lines[line.model, line.kind] = line

    def _line_of(self, iteration: Any, own: UsageReading) -> UsageLine | None:
        """Return the line of an iteration; None if it is within the totals, or unknown."""
        if not isinstance(iteration, dict):
            self._add_unread("iterations")
            return None
        name = text_or_empty(iteration.get("type"))
        kind = ITERATIONS.get(name)
        if kind is None:
            self._add_unread(f"iterations.{name}")
            return None
        model = bounded_name(text_or_empty(iteration.get("model")))
        if kind == "message" and is_another(model, own.model):
            kind = "declined"
        if kind in WITHIN_TOTALS:
            return None
        tokens = self._tokens_of(iteration)
        return UsageLine(
            model=model or own.model,
            kind=kind,
            tokens=tokens,
            tier=own.tier,
            speed=own.speed if kind == "compaction" else "",
            geo=own.geo,
            unbilled=kind == "declined" and not tokens.output,
        )

    def _tokens_of(self, iteration: dict[str, Any]) -> TokenCounts:
        """Return the tokens of an iteration; what else it holds is unread."""
        reader = UsageReader()
        reader.merge({name: value for name, value in iteration.items() if name not in ("type", "model")})
        for name in (*reader._unread, *(RARE & iteration.keys())):
            self._add_unread(f"iterations.{name}")
        return reader.tokens


def is_another(model: str, served: str) -> bool:
    """True if an iteration names another model than its answer; one of them may name none."""
    return bool(model and served) and canonical(model) != canonical(served)


def is_fallback(iteration: Any) -> bool:
    """True if an iteration says that a fallback model served the answer."""
    return isinstance(iteration, dict) and iteration.get("type") == "fallback_message"


def hour_in(iteration: dict[str, Any]) -> int:
    """Return the tokens that an iteration has written to a cache for an hour."""
    split = iteration.get("cache_creation")
    return dict(figures_in(split)).get("ephemeral_1h_input_tokens", 0) if isinstance(split, dict) else 0


def fallback_in(iterations: Iterable[Any]) -> str:
    """Return the fallback model that served an answer, "" if none did."""
    served = [text_or_empty(one.get("model")) for one in iterations if is_fallback(one)]
    return served[-1] if served else ""


def is_figure(value: Any) -> bool:
    """True if a value is a count that is valid, and not 0."""
    return type(value) is int and 0 < value < FIGURE_LIMIT  # excludes bool


def figures_in(fields: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the fields that are positive counts."""
    for name, value in fields.items():
        if is_figure(value):
            yield name, value


def credit_of(told: Any) -> str:
    """Return the outcome of a fallback credit: "redeemed", or why it was not; "" if none was presented."""
    status = told.get("status") if isinstance(told, dict) else None
    if not isinstance(status, dict):
        return ""
    word = text_or_empty(status.get("reason")) or text_or_empty(status.get("type"))
    return word if FIELD_NAME.fullmatch(word) else ""


def word_in(text: str) -> str:
    """Return a tier, speed or geography that is kept; what is none has no price."""
    return text if len(text) <= WORD_CHARS and FIELD_NAME.fullmatch(text) else OTHER_WORD


def text_or_empty(value: Any) -> str:
    """Return a text; "" for anything else."""
    return value if isinstance(value, str) else ""
