"""A finding of `ccproxy check`. Not here: the checks."""

from msgspec import Struct


class Finding(Struct, frozen=True):
    """Result of a check. `ok` None: a note, or not configured, which is no error."""

    what: str
    ok: bool | None
    words: str
