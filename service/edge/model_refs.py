"""Models that a request names in other fields than `model`: advisor tools, and the provider's fallbacks.

Needed for keys with an allow-list of models. Not here: the check (`key_limits`).
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from service.protocol.file_refs import read

PLACES = ("tools", "fallbacks")
OBJECT = msgspec.json.Decoder(dict[str, Raw])


def named_models(plain: bytes) -> Iterator[str]:
    """Yield their names, "" for one that is not a text. Raises ClientError for duplicate keys on the way to one."""
    fields = OBJECT.decode(plain)
    for place in PLACES:
        items = read(bytes(fields[place])) if place in fields else None
        for item in items if isinstance(items, list) else [items]:
            yield from model_of(item)


def model_of(item: Any) -> Iterator[str]:
    """Yield the model of a tool or a fallback, given as an object or a name."""
    model = item.get("model") if isinstance(item, dict) else item
    if model is not None:
        yield model if isinstance(model, str) else ""
