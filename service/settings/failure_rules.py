"""Rules that classify providers' errors, and quota windows with the models that they apply to.

The rules are data: those of the user's TOML file, then `service/routing/failures.toml`. They are read and checked here
and applied in `service.routing`.
"""

import tomllib
from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from service.ledger.events import FailureKind, FailureScope

Dialect = Literal["anthropic", "zai", "compatible"]
"""The dialect of a provider: Anthropic itself (open lists), Z.AI, or another that speaks the Messages API."""
NamedWait = Literal["", "none", "long"]
UnifiedWord = Literal["", "spent", "open"]
Name = Annotated[str, Meta(min_length=1, max_length=40, pattern="^[a-z0-9_-]+$")]

RuleScope = FailureScope | Literal["capability"]
"""`capability`: this account can't do what the request asks for. Other routes may; nothing waits, nothing counts."""

OUR_OWN: frozenset[str] = frozenset(("", "stale_socket", "deadline"))
"""Kinds that no response can have: they are about the proxy's own connection and time."""
STATUS_LIMIT = 1_000


class FailureRule(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The kind and scope of a response that meets all conditions. A condition that is left out is always met.

    `status` has numbers and ranges such as "500-599"; 0 is an error inside a stream, which has none. `types` may end in
    a star. `words`: the message contains one of them, in any case; `also`: one of these as well. `empty`: the response
    says nothing at all; `page`: it is a web page or plain text, no JSON. `unified`: a subscription's status of all
    windows means spent, or not. `wait`: the response names no wait, or a long one. `window` is the quota window that
    such a response reports as spent. `proven` false: it is not known whose fault it is, so that another route of the
    model's family is tried. `refresh`: a rejected token is worth renewing, once. `source` is where the fact was found.
    """

    kind: FailureKind
    scope: RuleScope
    source: str = ""
    dialects: tuple[Dialect, ...] = ()
    providers: tuple[str, ...] = ()
    status: tuple[int | str, ...] = ()
    types: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    unified: UnifiedWord = ""
    should_retry: bool | None = None
    wait: NamedWait = ""
    empty: bool = False
    page: bool = False
    window: Annotated[str, Meta(max_length=40, pattern="^[a-z0-9_-]*$")] = ""
    proven: bool = True
    refresh: bool = False

    def __post_init__(self) -> None:
        """Check what types can't say. Raises ValueError, to which msgspec adds the place."""
        if self.kind in OUR_OWN:
            raise ValueError(f"a response can't be of the kind {self.kind!r}")
        if not self.scope:
            raise ValueError("the scope is missing")
        for status in self.status:
            bounds(status)

    def covers(self, status: int) -> bool:
        """Return true if the rule applies to responses with this status."""
        return not self.status or any(first <= status <= last for first, last in map(bounds, self.status))


class WindowRule(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A quota window: its name in headers, its names in the representative-claim header, and its models.

    `holds` is a part of those models' names, such as "opus"; "" is all models.
    """

    name: Name
    claims: tuple[str, ...] = ()
    holds: Annotated[str, Meta(max_length=40, pattern="^[a-z0-9._-]*$")] = ""
    source: str = ""


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """All rules. The first that applies counts. `spent_words` are the statuses of a window that is spent."""

    failures: tuple[FailureRule, ...] = ()
    windows: tuple[WindowRule, ...] = ()
    spent_words: tuple[str, ...] = ()

    def behind(self, failures: tuple[FailureRule, ...], windows: tuple[WindowRule, ...]) -> "Rules":
        """These rules after others; a window that the others name is replaced."""
        renamed = {window.name for window in windows}
        kept = tuple(window for window in self.windows if window.name not in renamed)
        return Rules((*failures, *self.failures), (*windows, *kept), self.spent_words)


def bounds(status: int | str) -> tuple[int, int]:
    """The first and last status of a number or a range; raises ValueError."""
    first, _, last = str(status).partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        raise ValueError(f'status {status!r} is neither a number nor a range such as "500-599"')
    found = int(first), int(last or first)
    if not 0 <= found[0] <= found[1] < STATUS_LIMIT:
        raise ValueError(f"status {status!r} is not within 0 to {STATUS_LIMIT - 1}, the lower first")
    return found


@lru_cache(maxsize=1)
def packaged_rules() -> Rules:
    """The rules that come with the proxy."""
    content = resources.files("service.routing").joinpath("failures.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(content), Rules)
