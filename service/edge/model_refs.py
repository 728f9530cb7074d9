"""Models that a request names beside its own: an advisor among its tools, and what the provider may fall back to.

They are looked for when a key may use some models only. Not here: whether it may use them (`key_limits`).
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Raw

from service.protocol.file_refs import read

PLACES = ("tools", "fallbacks")
OBJECT = msgspec.json.Decoder(dict[str, Raw])


def named_models(plain: bytes) -> Iterator[str]:
    """Their names, "" for one that is no text. Raises ClientError when a key stands twice on the way to one."""
    fields = OBJECT.decode(plain)
    for place in PLACES:
        items = read(bytes(fields[place])) if place in fields else None
        for item in items if isinstance(items, list) else [items]:
            yield from model_of(item)


def model_of(item: Any) -> Iterator[str]:
    """The model in an item: a tool or a fallback as an object, or a name alone."""
    model = item.get("model") if isinstance(item, dict) else item
    if model is not None:
        yield model if isinstance(model, str) else ""
