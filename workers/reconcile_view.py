"""Output of `ccproxy reconcile`, as a table and as JSON. Not here: the comparison (`reconcile`)."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.table import Table

from service.telemetry.safe_console import SafeConsole, Text
from workers.reconcile import NAMES, Amounts, Comparison, KeyUsage, Line
from workers.terminal_views import NAME_WIDTH
from workers.usage import dollars

TITLES = ("input", "output", "cache read", "write 5m", "write 1h", "dollars")
SAME = "both"
SIDES = ("ledger", "invoice", "difference")


def show_comparison(found: Comparison, console: SafeConsole) -> None:
    """Print what both sides have by day and model, the invoice by API key, and the result."""
    since, until = found.period
    console.print(f"{since:%Y-%m-%d} to {until:%Y-%m-%d}, UTC; routes: {', '.join(found.scope.routes)}")
    if found.lines:
        console.print(lines_table([*found.lines, found.total]), crop=False)
    else:
        console.print("Neither the ledger nor the invoice has usage in this period.")
    if found.accounts:
        console.print()
        console.print(accounts_table(found.accounts), crop=False)
    console.print()
    for note in notes(found):
        console.print(note, style="dim", soft_wrap=True)
    console.print(Text(verdict(found), style="green" if found.ok else "red"), soft_wrap=True)


def lines_table(lines: Sequence[Line]) -> Table:
    """The table by day and model: one row where both sides are equal, else three."""
    table = new_table(("day", "model", ""))
    for line in lines:
        if line.ledger == line.invoice:
            table.add_row(line.day, Text(line.model), SAME, *cells(line.ledger, line))
            continue
        sides = (line.ledger, line.invoice, line.difference)
        for side, amounts in zip(SIDES, sides, strict=True):
            is_first, is_last = side == SIDES[0], side == SIDES[-1]
            names = (line.day, Text(line.model)) if is_first else ("", "")
            table.add_row(*names, side, *cells(amounts, line, differs=is_last))
    return table


def new_table(names: Sequence[str]) -> Table:
    """An empty table with columns of names and of amounts."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold", min_width=NAME_WIDTH if name == "model" else None)
    for title in TITLES:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def cells(amounts: Amounts, line: Line | None = None, *, differs: bool = False) -> Iterator[Text]:
    """The amounts of a row; of a difference with their signs, and red beyond the tolerance."""
    for name, amount in zip(NAMES, amounts, strict=True):
        sign = "+" if differs and amount > 0 else ""
        text = f"{sign}{dollars(amount, 4)}" if name == "cost_nusd" else f"{sign}{amount:,}"
        yield Text(text, style="red" if differs and line and name in line.beyond else "")


def accounts_table(accounts: Sequence[KeyUsage]) -> Table:
    """The table of the invoice by API key and workspace."""
    table = new_table(("API key", "workspace", ""))
    for account in accounts:
        role = "compared" if account.compared else "not compared"
        table.add_row(Text(account.key), Text(account.workspace), role, *cells(account.amounts))
    return table


def notes(found: Comparison) -> Iterator[str]:
    """Yield what has to be known to read the tables."""
    if found.left_out:
        yield (
            f"Not on this invoice, and not compared: {', '.join(found.left_out)}. "
            "`--route` compares others, such as a second key of the same organization."
        )
    for name in found.bypassed:
        yield f"{name} is on the invoice, and never in the ledger: such requests did not pass through the proxy."
    if has_more(found) and not found.scope.keys:
        yield "The invoice has more: `--api-key` and `--workspace` name what is the proxy's, and leave out the rest."
    yield from notes_on_prices(found.lines)


def has_more(found: Comparison) -> bool:
    """True if the invoice has more than the ledger, beyond the tolerance."""
    return any(line.beyond and max(line.difference) > 0 for line in found.lines)


def notes_on_prices(lines: Sequence[Line]) -> Iterator[str]:
    """Yield what is missing in the dollars."""
    if unpriced := sum(line.unpriced for line in lines):
        yield f"The ledger has {unpriced:,} attempts or batch items without a price; its dollars lack them."
    if any(line.prepaid for line in lines):
        yield "Usage of the priority tier is paid ahead: the invoice has no dollars for it, so those are not compared."


def verdict(found: Comparison) -> str:
    """The result in one sentence."""
    beyond = sum(bool(line.beyond) for line in found.lines)
    if not beyond:
        return f"Ledger and invoice agree within {found.tolerance_percent:g} %."
    rows = "row differs" if beyond == 1 else "rows differ"
    return f"{beyond} {rows} by more than {found.tolerance_percent:g} %."


def comparison_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON-compatible values."""
    return {
        "ok": found.ok,
        "since": f"{found.period.since:%Y-%m-%d}",
        "until": f"{found.period.until:%Y-%m-%d}",
        "time_zone": "UTC",
        "tolerance_percent": found.tolerance_percent,
        "routes": list(found.scope.routes),
        "routes_not_compared": found.left_out,
        "rows": [
            {"day": line.day, "model": line.model, "beyond_tolerance": list(line.beyond)} | line_json(line)
            for line in found.lines
        ],
        "total": line_json(found.total),
        "models_not_in_ledger": found.bypassed,
        "api_keys": [
            {
                "api_key_id": account.key,
                "workspace_id": account.workspace,
                "compared": account.compared,
                **amounts_json(account.amounts),
            }
            for account in found.accounts
        ],
    }


def line_json(line: Line) -> dict[str, Any]:
    """Return both sides as JSON-compatible values."""
    return {
        "ledger": amounts_json(line.ledger),
        "invoice": amounts_json(line.invoice),
        "difference": amounts_json(line.difference),
        "unpriced": line.unpriced,
        "prepaid": line.prepaid,
    }


def amounts_json(amounts: Amounts) -> dict[str, Any]:
    """Return amounts as JSON-compatible values, named as in `ccproxy usage`."""
    tokens = {f"{name}_tokens": count for name, count in zip(NAMES[:-1], amounts, strict=False)}
    return tokens | {"cost_nusd": amounts.cost_nusd, "cost_usd": dollars(amounts.cost_nusd, 9)}
