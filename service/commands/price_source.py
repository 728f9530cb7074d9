"""Makes price lists from the library `genai-prices`, which is kept for it: as installed, as fetched, or its JSON file.

What the library does not know is put beside it (`price_terms.toml`). Not here: the commands (`prices`).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

from service.ledger.model_names import canonical
from service.ledger.price_list import (
    DatedRates,
    DollarRates,
    ListedModel,
    ListedProvider,
    ListFile,
    LongPromptRates,
    digest_of,
)

LIBRARY = "genai-prices"
NAME = re.compile(r"[a-z][a-z0-9.-]*[a-z0-9]")
PART_OF_DATE = re.compile(r"-20\d\d$")
"""The library matches some names by the beginning of their date."""
KINDS = {
    "input": ("input_mtok",),
    "output": ("output_mtok",),
    "cache_read": ("cache_read_mtok", "input_mtok"),
    "cache_write_5m": ("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
}
"""The library's price of each kind of token, and what applies where there is none."""
COMMENT = """\
# Prices by provider and model, in dollars per million tokens; tools in dollars per 1,000 uses. Made by
# `ccproxy prices update` (`make prices`) from the library genai-prices, with price_terms.toml beside it: change those.
# The version goes into every event that was priced with this list. A model that is not here costs null.
"""


class PriceSourceError(Exception):
    """A source of prices can't be read."""


def installed_prices() -> tuple[str, list[dict[str, Any]]]:
    """Return the installed library's version and its providers. Raises PriceSourceError."""
    try:
        from genai_prices.data import providers
    except ImportError:
        raise PriceSourceError(missing()) from None
    return version(LIBRARY), plain(providers)


def fetched_prices() -> tuple[str, list[dict[str, Any]]]:
    """Fetch the newest prices with the installed library, from where it says. Raises PriceSourceError."""
    try:
        from genai_prices import UpdatePrices
    except ImportError:
        raise PriceSourceError(missing()) from None
    try:
        snapshot = UpdatePrices().fetch()
    except Exception as error:  # noqa: BLE001 - of any of its HTTP client's and parser's kinds
        raise PriceSourceError(f"the newest prices could not be fetched: {error}") from None
    return version(LIBRARY), plain(snapshot.providers if snapshot else [])


def prices_in(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return the providers of the library's JSON file. Raises PriceSourceError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PriceSourceError(f"{path}: {error}") from None
    if not isinstance(found, list):
        raise PriceSourceError(f"{path}: not a list of providers, as the JSON data of {LIBRARY} is")
    return "", found


def missing() -> str:
    """Say how to install the library."""
    return f"the library {LIBRARY} is not installed: pip install {LIBRARY}, or name a file with its JSON data"


def plain(value: Any) -> Any:
    """Return the library's objects as its JSON file has them."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, date | str | int | float) or not hasattr(value, "__dict__"):
        return value
    return {name.rstrip("_"): plain(one) for name, one in vars(value).items() if one is not None}


def list_of(
    source: Iterable[Mapping[str, Any]], terms: ListFile, label: str, before: ListFile, today: date
) -> ListFile:
    """Return a price list: a source's models, and what it lacks. It was made today, unless it says what the one before
    says. Raises PriceSourceError."""
    try:
        found = {provider["id"]: provider for provider in source if provider["models"]}
        if absent := sorted(terms.providers.keys() - found.keys()):
            raise PriceSourceError(f"no prices of {', '.join(absent)}")
        providers = {name: joined(found[name], listed) for name, listed in terms.providers.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise PriceSourceError(f"not what the JSON data of {LIBRARY} are ({error!r})") from None
    digest = digest_of(providers)
    made = before.made if before.version.endswith(f"-{digest}") else today
    return ListFile(version=f"{label or f'{today:%Y%m%d}'}-{digest}", made=made, providers=providers)


def joined(source: Mapping[str, Any], terms: ListedProvider) -> ListedProvider:
    """Return a provider's models, the source's before those of the terms."""
    models: dict[str, ListedModel] = {}
    for model in source["models"]:
        try:
            listed = listed_model(model)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise PriceSourceError(
                f"{source['id']}: the price of {model.get('id')} can't be read ({error!r})"
            ) from None
        if listed and "-" in (name := canonical(model["id"])):  # not claude-v1, whose number is no part of a name
            models[name] = listed
    known = {*models, *(name for listed in models.values() for name in listed.names)}
    lacking = {name: listed for name, listed in terms.models.items() if name not in known}
    return ListedProvider(tiers=terms.tiers, geos=terms.geos, tools=terms.tools, models=models | lacking)


def listed_model(model: Mapping[str, Any]) -> ListedModel | None:
    """Return a model as price lists have it; None if it is not priced by tokens."""
    standard = tuple(dated_rates(model["prices"]))
    if not standard:
        return None
    variants = [one for one in model.get("price_variants") or () if one["when"] == {"speed": "fast"}]
    return ListedModel(
        context_tokens=int(model.get("context_window") or 0),
        names=tuple(sorted({*names_in(model.get("match") or {})} - {canonical(model["id"])})),
        standard=standard,
        fast=tuple(dated_rates(variants)),
    )


def names_in(match: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names by which a model is known, as far as they are whole names."""
    for clause in (match, *match.get("or", ())):
        for name in (clause.get("equals"), clause.get("starts_with")):
            known = canonical(name) if name else ""
            if NAME.fullmatch(known) and not PART_OF_DATE.search(known):
                yield known


def dated_rates(prices: Any) -> Iterator[DatedRates]:
    """Yield the rates of each period, of those that are for tokens."""
    for condition in prices if isinstance(prices, list) else [{"prices": prices}]:
        rates = condition["prices"]
        if {"input_mtok", "output_mtok"} <= rates.keys():
            long_prompts = tuple(
                LongPromptRates(above_tokens=one, **dollars(rates, one)) for one in prompt_limits(rates)
            )
            yield DatedRates(since=start_of(condition), long_prompts=long_prompts, **dollars(rates, 0))


def start_of(condition: Mapping[str, Any]) -> date | None:
    """Return the day from which a price holds, None for the first. Raises KeyError for conditions of another kind."""
    if not condition.get("constraint"):
        return None
    start: str | date = condition["constraint"]["start_date"]
    return date.fromisoformat(start) if isinstance(start, str) else start


def prompt_limits(rates: Mapping[str, Any]) -> list[int]:
    """Return the sizes of prompts above which a request costs more."""
    return sorted({tier["start"] for price in rates.values() if isinstance(price, dict) for tier in price["tiers"]})


def dollars(rates: Mapping[str, Any], above_tokens: int) -> dict[str, float]:
    """Return the price of each kind for prompts of more than so many tokens."""
    return {
        kind: dollars_above(next(rates[name] for name in names if name in rates), above_tokens)
        for kind, names in KINDS.items()
    }


def dollars_above(price: Any, above_tokens: int) -> float:
    """Return a price for prompts of more than so many tokens."""
    if not isinstance(price, dict):
        return float(price)
    reached = {tier["start"]: tier["price"] for tier in price["tiers"] if tier["start"] <= above_tokens}
    return float(reached[max(reached)] if reached else price["base"])


def as_toml(listed: ListFile) -> str:
    """Return a list as TOML."""
    lines = [COMMENT.rstrip(), f'version = "{listed.version}"', f"made = {listed.made}"]
    for name, provider in listed.providers.items():
        lines += ["", f"[providers.{name}]"]
        lines += [f"{field} = {table_of(getattr(provider, field))}" for field in ("tiers", "geos", "tools")]
        for model, prices in provider.models.items():
            lines += ["", f'[providers.{name}.models."{model}"]', *model_lines(prices)]
    return "\n".join(lines) + "\n"


def table_of(numbers: Mapping[str, float]) -> str:
    """Return numbers by name as an inline table."""
    return f"{{ {', '.join(f'{name} = {number:.15g}' for name, number in numbers.items())} }}" if numbers else "{}"


def model_lines(model: ListedModel) -> Iterator[str]:
    """Yield the lines of a model."""
    if model.context_tokens:
        yield f"context_tokens = {model.context_tokens:_}"
    if model.names:
        quoted = ", ".join(f'"{name}"' for name in model.names)
        yield f"names = [{quoted}]"
    for speed, periods in (("standard", model.standard), ("fast", model.fast)):
        if periods:
            yield f"{speed} = ["
            yield from (f"  {{ {', '.join(rate_words(period))} }}," for period in periods)
            yield "]"


def rate_words(rates: DollarRates) -> Iterator[str]:
    """Yield a period's fields."""
    if isinstance(rates, DatedRates) and rates.since:
        yield f"since = {rates.since}"
    if isinstance(rates, LongPromptRates):
        yield f"above_tokens = {rates.above_tokens:_}"
    yield from (f"{kind} = {getattr(rates, kind):.15g}" for kind in KINDS)
    if isinstance(rates, DatedRates) and rates.long_prompts:
        inner = ", ".join(f"{{ {', '.join(rate_words(one))} }}" for one in rates.long_prompts)
        yield f"long_prompts = [{inner}]"
