"""The lists that come with the proxy, below those of the TOML file: prices, and what models can hold and read."""

import tomllib
from importlib import resources
from typing import Any

import msgspec

from service.ledger.price import Price, PriceList
from service.settings.files import File
from service.settings.policy import ModelLimits


def packaged(package: str, name: str) -> dict[str, Any]:
    """A TOML file that comes with the proxy."""
    return tomllib.loads(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def prices(file: File) -> PriceList:
    """The packaged prices, overridden by the file's; with those, the list has another version."""
    tables = packaged("service.ledger", "prices.toml")
    version = tables.pop("version")
    known = {name: price for vendor in tables.values() for name, price in vendor.items()}
    prices_by_model = msgspec.convert(known, dict[str, Price]) | file.prices
    return PriceList(version + "+own" if file.prices else version, prices_by_model)


def model_limits(file: File) -> tuple[tuple[str, ModelLimits], ...]:
    """Return the limits of models: the file's own entries before the packaged ones."""
    tables = packaged("service.routing", "models.toml")
    known = {name: limits for vendor in tables.values() for name, limits in vendor.items()}
    return (*file.models.items(), *msgspec.convert(known, dict[str, ModelLimits]).items())
