"""The ledger beside the invoice: tokens by kind and dollars by day and model, and what differs beyond a tolerance.

The cost report has no API keys: an amount is shared out among the usage that it is for, by tokens, so that the keys of
the proxy can be told from others. Pure, but for what it is given. Not here: the reports (`invoice`), and the output
(`reconcile_view`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import NamedTuple

from service.ledger.model_names import canonical
from service.ledger.state import Usage
from service.settings.quantities import past_time
from workers.invoice import CostResult, InvoiceError, Page, UsageResult
from workers.usage import Period

DAY = timedelta(days=1)
MOST_DAYS = 366
NUSD_PER_CENT = 10_000_000
KINDS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
NAMES = (*KINDS, "cost_nusd")
FLOORS = {"cost_nusd": NUSD_PER_CENT}
"""Smaller differences don't count: the invoice may be rounded to cents."""
TOKEN_TYPES = {
    "uncached_input_tokens": "input",
    "output_tokens": "output",
    "cache_read_input_tokens": "cache_read",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_5m",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
}
"""The cost report's words."""
PRIORITY = "priority"
"""The invoice has no amounts for this tier, which is paid ahead."""
DEFAULT_WORKSPACE = "default"
NO_KEY = "none"
"""The Console's own use, such as its Workbench."""

Place = tuple[str, str]
"""A day and a model, or a day and what else was paid for."""


class Amounts(NamedTuple):
    """Tokens by kind, and money."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cost_nusd: int = 0

    def plus(self, other: "Amounts") -> "Amounts":
        """The sum of two."""
        return Amounts._make(map(sum, zip(self, other, strict=True)))

    def minus(self, other: "Amounts") -> "Amounts":
        """What this has more than another."""
        return Amounts._make(one - two for one, two in zip(self, other, strict=True))


class InvoiceItem:
    """A row of the usage report, with its share of the costs."""

    __slots__ = ("cost_nusd", "day", "key", "model", "searches", "tier", "tokens", "workspace")

    def __init__(self, day: str, row: UsageResult) -> None:
        cached = row.cache_creation
        self.day = day
        self.model = canonical(row.model or "")
        self.key = row.api_key_id or NO_KEY
        self.workspace = row.workspace_id or DEFAULT_WORKSPACE
        self.tier = row.service_tier or "standard"
        self.tokens = {
            "input": row.uncached_input_tokens,
            "output": row.output_tokens,
            "cache_read": row.cache_read_input_tokens,
            "cache_write_5m": cached.ephemeral_5m_input_tokens if cached else 0,
            "cache_write_1h": cached.ephemeral_1h_input_tokens if cached else 0,
        }
        self.searches = row.server_tool_use.web_search_requests if row.server_tool_use else 0
        self.cost_nusd = Fraction(0)


class OtherCost(NamedTuple):
    """An amount that is for no usage known by model and key, such as the run time of sessions."""

    day: str
    title: str
    workspace: str
    cost_nusd: Fraction


class Invoice(NamedTuple):
    """The two reports, put together."""

    items: list[InvoiceItem]
    charges: list[OtherCost]


class KeyUsage(NamedTuple):
    """An API key of the invoice in its workspace. `compared`: its usage should be in the ledger."""

    key: str
    workspace: str
    amounts: Amounts
    compared: bool


class Line(NamedTuple):
    """A day and a model on both sides. `beyond` names the amounts that differ by more than the tolerance.

    `unpriced`: attempts in the ledger without a price; `prepaid`: the invoice has no amount for some of its usage.
    """

    day: str
    model: str
    ledger: Amounts
    invoice: Amounts
    unpriced: int
    prepaid: bool
    beyond: tuple[str, ...] = ()

    @property
    def difference(self) -> Amounts:
        """What the invoice has more than the ledger."""
        return self.invoice.minus(self.ledger)


class Scope(NamedTuple):
    """What is compared: routes of the ledger; keys and workspaces of the invoice, all if empty."""

    routes: tuple[str, ...]
    keys: tuple[str, ...] = ()
    workspaces: tuple[str, ...] = ()

    def has(self, key: str, workspace: str) -> bool:
        """True if usage of this key in this workspace should be in the ledger."""
        return key in (self.keys or (key,)) and workspace in (self.workspaces or (workspace,))


class Comparison(NamedTuple):
    """The result. `bypassed` are the models on the invoice that the ledger has never seen in the period; `left_out`
    the routes with usage in the period that are on no invoice of this organization."""

    period: Period
    scope: Scope
    tolerance_percent: float
    lines: list[Line]
    accounts: list[KeyUsage]
    bypassed: list[str]
    left_out: list[str]

    @property
    def total(self) -> Line:
        """The sum of all lines."""
        ledger = invoice = Amounts()
        for line in self.lines:
            ledger, invoice = ledger.plus(line.ledger), invoice.plus(line.invoice)
        unpriced = sum(line.unpriced for line in self.lines)
        return Line("total", "", ledger, invoice, unpriced, prepaid=any(line.prepaid for line in self.lines))

    @property
    def ok(self) -> bool:
        """True if nothing differs beyond the tolerance."""
        return not any(line.beyond for line in self.lines)


def days_of(since: str | None, until: str | None, now: datetime) -> Period:
    """Return the whole days, UTC, of a period; by default the last seven that are over. Raises ValueError."""
    begin = midnight(past_time(since, now)) if since else midnight(now) - 7 * DAY
    end = past_time(until, now) if until else midnight(now)
    end = end if end == midnight(end) else midnight(end) + DAY
    if begin >= end:
        raise ValueError(f"the period ends ({end:%Y-%m-%d}) before it begins ({begin:%Y-%m-%d})")
    if end - begin > MOST_DAYS * DAY:
        raise ValueError(f"the period has {(end - begin).days} days; compare at most {MOST_DAYS} at once")
    return Period(begin, end)


def midnight(moment: datetime) -> datetime:
    """The beginning of a day."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def invoice_of(usage: Iterable[Page[UsageResult]], costs: Iterable[Page[CostResult]]) -> Invoice:
    """Put the reports together. Raises InvoiceError for an amount that is none."""
    items = [
        InvoiceItem(day_of(in_utc(bucket.starting_at)), row)
        for page in usage
        for bucket in page.data
        for row in bucket.results
    ]
    invoice = Invoice(items, [])
    by_workspace: dict[Place, list[InvoiceItem]] = defaultdict(list)
    for item in items:
        by_workspace[item.day, item.workspace].append(item)
    for page in costs:
        for bucket in page.data:
            for row in bucket.results:
                day, workspace = day_of(in_utc(bucket.starting_at)), row.workspace_id or DEFAULT_WORKSPACE
                share_out(row, day, workspace, by_workspace[day, workspace], invoice.charges)
    return invoice


def in_utc(moment: datetime) -> datetime:
    """A time of the reports in UTC, as days are; one without a zone is."""
    return moment.astimezone(UTC) if moment.tzinfo else moment


def day_of(moment: datetime) -> str:
    """A day as texts have it."""
    return f"{moment:%Y-%m-%d}"


def share_out(
    row: CostResult, day: str, workspace: str, items: Sequence[InvoiceItem], charges: list[OtherCost]
) -> None:
    """Share a cost out among the usage that it is for, else note it as a charge of its own."""
    amount_nusd = nusd_of(row)
    weights = weights_of(row, items)
    total = sum(weight for _, weight in weights)
    for item, weight in weights:
        item.cost_nusd += amount_nusd * Fraction(weight, total)
    if not weights and amount_nusd:
        title = canonical(row.model) if row.model else (row.cost_type or "other").replace("_", " ")
        charges.append(OtherCost(day, title, workspace, amount_nusd))


def nusd_of(row: CostResult) -> Fraction:
    """The amount in nano-dollars. Raises InvoiceError."""
    if row.currency not in (None, "USD"):
        raise InvoiceError(f"the cost report is in {row.currency}; only US dollars can be compared")
    try:
        amount = Decimal(row.amount)
    except InvalidOperation:
        amount = Decimal("nan")
    if not amount.is_finite():
        raise InvoiceError(f"the cost report has the amount {row.amount[:40]!r}, which is no number")
    return Fraction(amount) * NUSD_PER_CENT


def weights_of(row: CostResult, items: Sequence[InvoiceItem]) -> list[tuple[InvoiceItem, int]]:
    """The usage that a cost is for, with its count of what is paid; empty if that is not known."""
    if row.cost_type == "web_search":
        return counted(items, lambda item: item.searches)
    kind = TOKEN_TYPES.get(row.token_type or "")
    if kind is None:
        return []
    model = canonical(row.model or "")
    weights = counted((item for item in items if item.model == model), lambda item: item.tokens[kind])
    return of_tier(weights, row.service_tier or "")


def of_tier(weights: list[tuple[InvoiceItem, int]], tier: str) -> list[tuple[InvoiceItem, int]]:
    """Those of a tier if there are any, else those that are not paid ahead."""
    same = [weight for weight in weights if weight[0].tier == tier]
    return same or [weight for weight in weights if not is_prepaid(weight[0].tier)]


def counted(items: Iterable[InvoiceItem], count: Callable[[InvoiceItem], int]) -> list[tuple[InvoiceItem, int]]:
    """Items with their counts, without those that are 0."""
    return [(item, weight) for item in items if (weight := count(item))]


def is_prepaid(tier: str) -> bool:
    """True if the cost report has no amounts for a tier."""
    return tier.startswith(PRIORITY)


def compare(
    invoice: Invoice,
    ledger: Mapping[str, Mapping[Place, Usage]],
    period: Period,
    scope: Scope,
    tolerance_percent: float,
) -> Comparison:
    """Compare the invoice with the ledger's usage by route, day and model."""
    ours = ledger_usage(ledger, scope.routes)
    theirs = amounts_of(invoice, scope)
    prepaid = {(item.day, item.model) for item in invoice.items if is_prepaid(item.tier)}
    lines = [
        Line(
            *place,
            ledger=ledger_amounts(ours.get(place, Usage())),
            invoice=theirs.get(place, Amounts()),
            unpriced=ours[place].unpriced if place in ours else 0,
            prepaid=place in prepaid,
        )
        for place in sorted({*ours, *theirs})
    ]
    known = {model for _, model in ours}
    return Comparison(
        period=period,
        scope=scope,
        tolerance_percent=tolerance_percent,
        lines=list(judged(lines, tolerance_percent)),
        accounts=accounts_of(invoice, scope),
        bypassed=sorted({model for _, model in theirs} - known),
        left_out=sorted(route for route in ledger if route not in scope.routes),
    )


def ledger_usage(ledger: Mapping[str, Mapping[Place, Usage]], routes: Sequence[str]) -> dict[Place, Usage]:
    """The ledger's usage of these routes by day and canonical model, without cells that used nothing."""
    found: dict[Place, Usage] = defaultdict(Usage)
    for route in routes:
        for (day, model), usage in ledger.get(route, {}).items():
            if any(getattr(usage, name) for name in (*NAMES, "unpriced")):
                add(found[day, canonical(model)], usage)
    return dict(found)


def add(total: Usage, usage: Usage) -> None:
    """Add what is compared."""
    for name in (*NAMES, "unpriced"):
        setattr(total, name, getattr(total, name) + getattr(usage, name))


def ledger_amounts(usage: Usage) -> Amounts:
    """What the ledger has of a day and a model."""
    return Amounts._make(getattr(usage, name) for name in NAMES)


def amounts_of(invoice: Invoice, scope: Scope) -> dict[Place, Amounts]:
    """What the invoice has by day and model, and by day and charge, of what should be in the ledger."""
    costs: dict[Place, Fraction] = defaultdict(Fraction)
    tokens: dict[Place, Amounts] = defaultdict(Amounts)
    for item in invoice.items:
        if scope.has(item.key, item.workspace):
            place = item.day, item.model
            costs[place] += item.cost_nusd
            tokens[place] = tokens[place].plus(Amounts(**item.tokens))
    for charge in invoice.charges:
        if not scope.workspaces or charge.workspace in scope.workspaces:
            costs[charge.day, charge.title] += charge.cost_nusd
    return {place: tokens[place]._replace(cost_nusd=round(cost)) for place, cost in costs.items()}


def accounts_of(invoice: Invoice, scope: Scope) -> list[KeyUsage]:
    """What the invoice has by API key and workspace, the dearest first."""
    costs: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    tokens: dict[tuple[str, str], Amounts] = defaultdict(Amounts)
    for item in invoice.items:
        place = item.key, item.workspace
        costs[place] += item.cost_nusd
        tokens[place] = tokens[place].plus(Amounts(**item.tokens))
    found = [
        KeyUsage(*place, tokens[place]._replace(cost_nusd=round(cost)), scope.has(*place))
        for place, cost in costs.items()
    ]
    return sorted(found, key=lambda account: (-account.amounts.cost_nusd, account.key, account.workspace))


def judged(lines: Sequence[Line], tolerance_percent: float) -> Iterator[Line]:
    """Mark what differs beyond the tolerance."""
    by_model: dict[str, dict[str, Line]] = defaultdict(dict)
    for line in lines:
        by_model[line.model][line.day] = line
    beyond = {
        (name, *place)
        for name in NAMES
        for days in by_model.values()
        for place in days_beyond(name, days, tolerance_percent)
    }
    for line in lines:
        yield line._replace(beyond=tuple(name for name in names_of(line) if (name, line.day, line.model) in beyond))


def names_of(line: Line) -> Iterator[str]:
    """Yield the amounts of a line that can be compared."""
    return (name for name in NAMES if name != "cost_nusd" or not line.prepaid)


def days_beyond(name: str, days: Mapping[str, Line], tolerance_percent: float) -> Iterator[Place]:
    """Yield a model's days on which an amount differs beyond the tolerance. What the day before or after evens out does
    not count, since a request that spans midnight may be on either day; each day evens out one."""
    left = set(days)
    for day in sorted(days):
        if day in left and differs(name, days[day], tolerance_percent):
            around = (other for other in days_around(day) if other in left)
            evening = [other for other in around if not differs(name, days[day], tolerance_percent, days[other])]
            if evening:
                left -= {day, evening[0]}
            else:
                yield day, days[day].model


def days_around(day: str) -> tuple[str, str]:
    """The day before and the day after."""
    moment = datetime.fromisoformat(day)
    return day_of(moment - DAY), day_of(moment + DAY)


def differs(name: str, line: Line, tolerance_percent: float, other: Line | None = None) -> bool:
    """True if an amount of a line, together with another line's, differs by more than the line's tolerance."""
    largest: int = max(getattr(line.ledger, name), getattr(line.invoice, name))
    allowed = max(largest * tolerance_percent / 100, FLOORS.get(name, 0))
    difference: int = sum(getattr(one.difference, name) for one in (line, other) if one)
    return abs(difference) > allowed
