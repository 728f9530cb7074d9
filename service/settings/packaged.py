"""The lists that come with the proxy, below those of the TOML file: prices, and what models can hold and read."""

import os
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from service.errors import SettingsError
from service.ledger.price import PriceList
from service.ledger.price_list import ListFile
from service.settings.files import File
from service.settings.policy import ModelLimits
from service.settings.values import expanded

REFRESHED = "prices.toml"
"""The list that `ccproxy prices update` writes, in CCPROXY_HOME."""


@cache
def packaged(package: str, name: str) -> dict[str, Any]:
    """A TOML file that comes with the proxy: read once, and not to be changed."""
    return tomllib.loads(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


@cache
def packaged_prices(name: str = "prices.toml") -> ListFile:
    """The price list that comes with the proxy."""
    return msgspec.convert(packaged("service.ledger", name), ListFile)


def prices_in_force(chosen: str, home: Path) -> ListFile:
    """Return the chosen price list, else the newer one of the refreshed and the built-in. Raises SettingsError."""
    place = price_place(chosen, home)
    return read_prices(place) if place else packaged_prices()


def price_place(chosen: str, home: Path) -> Path | None:
    """Return where the price list in force lies, None for the built-in one. Raises SettingsError."""
    if chosen:
        return expanded(chosen)
    refreshed = home / REFRESHED
    is_newer = os.path.lexists(refreshed) and read_prices(refreshed).made >= packaged_prices().made
    return refreshed if is_newer else None


def read_prices(path: Path) -> ListFile:
    """Return the price list of a file. Raises SettingsError."""
    try:
        return list_in(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: can't be read ({error.strerror}); correct CCPROXY_PRICES or remove it") from None
    except (ValueError, msgspec.ValidationError) as error:
        raise SettingsError(f"{path}: {error}; `ccproxy prices update` writes it anew, or remove it") from None


def list_in(text: str) -> ListFile:
    """Return the price list of a TOML text. Raises ValueError and msgspec.ValidationError."""
    return msgspec.convert(tomllib.loads(text), ListFile)


def model_limits(file: File, prices: PriceList) -> tuple[tuple[str, ModelLimits], ...]:
    """Return the limits of models: the file's own entries before the packaged ones, and those before the price list's
    context windows."""
    tables = packaged("service.routing", "models.toml")
    known = {name: limits for vendor in tables.values() for name, limits in vendor.items()}
    return (*file.models.items(), *msgspec.convert(known, dict[str, ModelLimits]).items(), *listed_windows(prices))


def listed_windows(prices: PriceList) -> Iterable[tuple[str, ModelLimits]]:
    """Yield the context windows that the price list knows."""
    for name, price in prices.models.items():
        if price.context_tokens:
            yield name, ModelLimits(context_tokens=price.context_tokens)
