"""The format of price lists: TOML with dollars, dates and factors, made into the integers of `price`. Pure.

The packaged list, a refreshed one (`ccproxy prices update`) and the terms that no library knows (`price_terms.toml`)
have this format; `[prices.NAME]` of the settings is a short form of it. Not here: files.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from service.ledger.model_names import canonical
from service.ledger.price import (
    FACTOR,
    NUSD_PER_USD,
    STANDARD,
    LongPrompt,
    ModelPrice,
    PriceList,
    PricePeriod,
    Rates,
    Terms,
    bounds_of,
    family_of,
)

DIGEST_CHARS = 4
VERSION_CHARS = 64
"""Versions go into every event."""
PER_USES = 1_000
"""Tools are listed in dollars per thousand uses."""


MOST_DOLLARS = 10**6
Dollars = Annotated[float, Meta(ge=0, le=MOST_DOLLARS)]
"""An amount, or a factor: a negative one would take from what others cost."""


class DollarRates(Struct, frozen=True, kw_only=True):
    """Dollars per million tokens."""

    input: Dollars
    output: Dollars
    cache_read: Dollars
    cache_write_5m: Dollars
    cache_write_1h: Dollars


class LongPromptRates(DollarRates, frozen=True, kw_only=True):
    """The rates of a whole request whose prompt has more than so many tokens."""

    above_tokens: int


class DatedRates(DollarRates, frozen=True, kw_only=True, omit_defaults=True):
    """The rates from a day on (UTC), the beginning if it names none."""

    since: date | None = None
    long_prompts: tuple[LongPromptRates, ...] = ()


class ListedModel(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model: its prices by speed, the oldest first, its largest prompt, and its other names."""

    context_tokens: int = 0
    names: tuple[str, ...] = ()
    standard: Annotated[tuple[DatedRates, ...], Meta(min_length=1)]
    fast: tuple[DatedRates, ...] = ()


class ListedProvider(Struct, frozen=True, kw_only=True):
    """A provider: its models, and factors for all of them; tools in dollars per thousand uses."""

    tiers: dict[str, Dollars] = {}
    geos: dict[str, Dollars] = {}
    tools: dict[str, Dollars] = {}
    models: dict[str, ListedModel] = {}


class ListFile(Struct, frozen=True, kw_only=True):
    """A whole list; `made` is the day on which its prices were last known to be new."""

    version: Annotated[str, Meta(max_length=VERSION_CHARS)] = ""
    made: date = date(1970, 1, 1)
    providers: dict[str, ListedProvider] = {}


class Price(Struct, frozen=True, forbid_unknown_fields=True):
    """A price of the settings: dollars per million tokens. Over `over_prompt_tokens` of prompt the whole request costs
    `over_factor` as much; `speed: fast` costs `fast_factor` as much, 0: as many times as in the built-in list."""

    input: Dollars
    output: Dollars
    cache_read: Dollars
    cache_write_5m: Dollars
    cache_write_1h: Dollars
    over_prompt_tokens: int = 0
    over_factor: Dollars = 1
    fast_factor: Dollars = 0


def price_list(file: ListFile, own: Mapping[str, Price], providers: Mapping[str, str]) -> PriceList:
    """Return a list with own prices over it, for routes of these providers. Own prices change its version."""
    models = dict(listed_prices(file.providers))
    terms = {provider: terms_of(listed) for provider, listed in file.providers.items()}
    models |= {name: own_price(name, price, models, terms) for name, price in own.items()}
    version = f"{file.version}+{digest_of(own)}" if own else file.version
    return PriceList(version, models, bounds_of(models), providers)


def listed_prices(providers: Mapping[str, ListedProvider]) -> Iterable[tuple[str, ModelPrice]]:
    """Yield the price of each model, by each of its names."""
    for provider, listed in providers.items():
        terms = terms_of(listed)
        for name, model in listed.models.items():
            speeds = {STANDARD: periods_of(model.standard), "standard": periods_of(model.standard)}
            if model.fast:
                speeds["fast"] = periods_of(model.fast)
            price = ModelPrice(provider, speeds, terms, model.context_tokens)
            yield from ((one, price) for one in (name, *model.names))


def terms_of(listed: ListedProvider) -> Terms:
    """Return a provider's factors as integers."""
    return Terms(
        tiers={STANDARD: FACTOR} | {name: round(factor * FACTOR) for name, factor in listed.tiers.items()},
        geos={STANDARD: FACTOR} | {name: round(factor * FACTOR) for name, factor in listed.geos.items()},
        tools={name: round(usd * NUSD_PER_USD / PER_USES) for name, usd in listed.tools.items()},
    )


def periods_of(dated: Iterable[DatedRates]) -> tuple[PricePeriod, ...]:
    """Return rates as integers, the newest first."""
    periods = [PricePeriod(day_ms(one.since), exact(one), long_prompts_of(one)) for one in dated]
    return tuple(sorted(periods, key=lambda period: -period.from_ms))


def long_prompts_of(dated: DatedRates) -> tuple[LongPrompt, ...]:
    """Return the rates of long prompts, the longest first."""
    found = [LongPrompt(one.above_tokens, exact(one)) for one in dated.long_prompts]
    return tuple(sorted(found, key=lambda one: -one.above_tokens))


def exact(dollars: DollarRates | Price, factor: float = 1) -> Rates:
    """Return dollars per million tokens as nano-dollars."""
    kinds = (dollars.input, dollars.output, dollars.cache_read, dollars.cache_write_5m, dollars.cache_write_1h)
    return Rates(*(round(kind * factor * NUSD_PER_USD) for kind in kinds))


def day_ms(day: date | None) -> int:
    """Return when a day begins, in UTC."""
    return 0 if day is None else int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def own_price(name: str, own: Price, models: Mapping[str, ModelPrice], terms: Mapping[str, Terms]) -> ModelPrice:
    """Return a price of the settings. Factors and context are those of the model, or of its family's provider, in the
    list; a model that is in neither has open terms."""
    listed = models.get(name) or models.get(canonical(name))
    relative = listed or next((price for model, price in models.items() if family_of(model) == family_of(name)), None)
    periods = own_periods(own, 1)
    speeds = {STANDARD: periods, "standard": periods}
    if fast_factor := own.fast_factor or (listed and fast_factor_of(listed)):
        speeds["fast"] = own_periods(own, fast_factor)
    provider = relative.provider if relative else ""
    return ModelPrice(provider, speeds, terms.get(provider, OPEN_TERMS), listed.context_tokens if listed else 0)


OPEN_TERMS = Terms(
    tiers=dict.fromkeys((STANDARD, "standard", "priority"), FACTOR) | {"batch": FACTOR // 2},
    geos=dict.fromkeys((STANDARD, "global", "not_available"), FACTOR),
)
"""For models of the settings that belong to no listed provider."""


def own_periods(own: Price, factor: float) -> tuple[PricePeriod, ...]:
    """Return the rates of a price of the settings, times a factor."""
    long_prompt = LongPrompt(own.over_prompt_tokens, exact(own, factor * own.over_factor))
    return (PricePeriod(0, exact(own, factor), (long_prompt,) if own.over_prompt_tokens else ()),)


def fast_factor_of(price: ModelPrice) -> float:
    """Return how many times the standard price `speed: fast` costs; 0 if the model has none."""
    fast, usual = price.speeds.get("fast"), price.speeds[STANDARD][0].rates.output
    return fast[0].rates.output / usual if fast and usual else 0


def digest_of(content: object) -> str:
    """Return a short digest, so that lists with different prices have different versions."""
    return sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:DIGEST_CHARS]
