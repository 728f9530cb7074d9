"""`ccproxy prices`: shows the price list in force, and refreshes it. Not here: reading the library (`price_source`)."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.table import Table

from service.commands import config_option, json_option, with_settings
from service.commands.price_source import (
    PriceSourceError,
    as_toml,
    fetched_prices,
    installed_prices,
    list_of,
    prices_in,
)
from service.errors import SettingsError
from service.ledger.events import TokenCounts
from service.ledger.price import STANDARD, ModelPrice, PriceList, Rates, rates_at
from service.ledger.price_list import ListFile
from service.private_files import make_folder, opener
from service.settings.packaged import REFRESHED, list_in, packaged_prices, price_place, read_prices
from service.telemetry.safe_console import SafeConsole, Text
from service.telemetry.terminal import echo, echo_json

NO_TOKENS = TokenCounts()
NUSD_PER_USD_PER_MTOK = 10**9
TITLES = ("input", "output", "cached", "5m write", "1h write")
FIELDS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")


@click.group(invoke_without_command=True)
@config_option
@json_option
@click.pass_context
def prices(context: click.Context, config: Path | None, *, as_json: bool) -> None:
    """Show the price list in force, in dollars per million tokens."""
    if context.invoked_subcommand:
        return
    settings, now = with_settings(config), datetime.now(UTC)
    place = price_place(settings.prices_file, settings.home)
    rows = [price_fields(names, price, now) for names, price in named_prices(settings.prices)]
    if as_json:
        echo_json({"version": settings.prices.version, "list": str(place or "built-in"), "models": rows})
        return
    echo(f"Version {settings.prices.version}, {place or 'built-in'}; dollars per million tokens")
    SafeConsole().print(table_of(rows))


def named_prices(prices: PriceList) -> list[tuple[list[str], ModelPrice]]:
    """Return each price once, with the names of its model, the usual one first; sorted by it."""
    names: dict[int, list[str]] = {}
    for name, price in prices.models.items():
        names.setdefault(id(price), []).append(name)
    return [(found, prices.models[found[0]]) for found in sorted(names.values())]


def price_fields(names: list[str], price: ModelPrice, now: datetime) -> dict[str, Any]:
    """Return a model's prices of now, in dollars per million tokens: those of usual prompts, and of `speed: fast`."""
    now_ms = int(now.timestamp() * 1000)
    fast = rates_at(price.speeds.get("fast", ()), NO_TOKENS, now_ms)
    return {
        "model": names[0],
        "names": names[1:],
        "provider": price.provider,
        "context_tokens": price.context_tokens or None,
        "standard": dollars(rates_at(price.speeds[STANDARD], NO_TOKENS, now_ms)),
        "fast": dollars(fast) if fast else None,
        "long_prompts_above_tokens": long_prompts_above(price, now_ms),
    }


def dollars(rates: Rates | None) -> dict[str, float]:
    """Return rates in dollars per million tokens."""
    return {kind: getattr(rates, kind) / NUSD_PER_USD_PER_MTOK for kind in FIELDS} if rates else {}


def long_prompts_above(price: ModelPrice, now_ms: int) -> int | None:
    """Return above how many tokens of prompt a request costs more, None without such a limit."""
    period = next((one for one in price.speeds[STANDARD] if now_ms >= one.from_ms), None)
    return min((one.above_tokens for one in period.long_prompts), default=None) if period else None


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return a table with a row per model."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("model", no_wrap=True)
    for title in (*TITLES, "fast", "long prompts"):
        table.add_column(title, justify="right")
    for row in rows:
        standard, fast, above = row["standard"], row["fast"], row["long_prompts_above_tokens"]
        numbers = [f"{standard[kind]:g}" if standard else "-" for kind in FIELDS]
        extra = (f"{fast['input']:g}/{fast['output']:g}" if fast else "", f"> {above:,}" if above else "")
        table.add_row(Text(row["model"]), *numbers, *extra)
    return table


@prices.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--from-network", is_flag=True, help="Fetch the newest prices, from where the library says.")
@click.option(
    "--to", type=click.Path(path_type=Path, dir_okay=False), help="Write the list there; default: CCPROXY_HOME."
)
@config_option
@json_option
def update(file: Path | None, to: Path | None, config: Path | None, *, from_network: bool, as_json: bool) -> None:
    """Write a new price list, for the next start of proxies: those that run go on with theirs.

    From FILE, JSON data of genai-prices or a list of another ccproxy; without one, from the installed genai-prices. The
    network is asked only with --from-network.
    """
    settings = with_settings(config)
    target = to or Path(settings.prices_file or settings.home / REFRESHED)
    try:
        listed = new_list(file, target, from_network=from_network)
        write_list(target, listed)
    except (PriceSourceError, SettingsError) as error:
        raise click.ClickException(f"{error}; nothing was changed") from None
    except OSError as error:
        raise click.ClickException(f"{target}: {error.strerror}; nothing was changed") from None
    if as_json:
        echo_json({"file": str(target), "version": listed.version})
        return
    echo(f"{target}: version {listed.version}; proxies that run go on with theirs until they are restarted")


def new_list(file: Path | None, target: Path, *, from_network: bool) -> ListFile:
    """Return the list to write. Raises PriceSourceError and SettingsError."""
    if file and file.suffix == ".toml":
        return read_prices(file)
    if from_network:
        label, source = fetched_prices()
    else:
        label, source = prices_in(file) if file else installed_prices()
    before = read_prices(target) if target.exists() else packaged_prices()
    return list_of(source, packaged_prices("price_terms.toml"), label, before, datetime.now(UTC).date())


def write_list(target: Path, listed: ListFile) -> None:
    """Write a list, all of it or nothing. Raises PriceSourceError."""
    text = readable_toml(listed)
    make_folder(target.parent)
    beside = target.with_name(f"{target.name}.new")
    with open(beside, "w", encoding="utf-8", opener=opener) as new:
        new.write(text)
    beside.replace(target)


def readable_toml(listed: ListFile) -> str:
    """Return a list as TOML that proxies can read, and read as the same list. Raises PriceSourceError."""
    text = as_toml(listed)
    try:
        is_same = list_in(text) == listed
    except (ValueError, msgspec.ValidationError) as error:
        raise PriceSourceError(f"the source makes no price list: {error}") from None
    if not is_same:
        raise PriceSourceError("the source has names or figures that a price list can't hold")
    return text
