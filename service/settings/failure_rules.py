"""The shape of the rules by which providers' words are understood: what an error means, and whom a window holds.

The rules themselves are data: `service/routing/failures.toml`, and before them those of a user's own file. What follows
from them is decided in `service.routing`; here they are only read and checked.
"""

import tomllib
from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from service.ledger.events import FailureKind, FailureScope

Dialect = Literal["anthropic", "zai", "compatible"]
"""How a provider is spoken to: Anthropic itself (open lists), Z.AI, or another that speaks the Messages API."""
NamedWait = Literal["", "none", "long"]
UnifiedWord = Literal["", "spent", "open"]
Name = Annotated[str, Meta(min_length=1, max_length=40, pattern="^[a-z0-9_-]+$")]

RuleScope = FailureScope | Literal["capability"]
"""`capability`: this account can't do what the request asks for. Other routes may; nothing waits, nothing counts."""

OUR_OWN: frozenset[str] = frozenset(("", "stale_socket", "deadline"))
"""Kinds that no answer can have: they are about our connection, and our time."""
STATUS_LIMIT = 1_000


class FailureRule(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An answer that meets every condition has this kind and scope. A condition that is left out is met by all.

    `status` has numbers and ranges such as "500-599"; 0 is an answer without one, inside a stream. `types` may end in
    a star. `words`: one of them is in the message, whatever the case; `also`: one of these as well. `empty`: the
    answer says nothing at all. `unified`: a subscription's word for all windows is one of the spent ones, or is
    another. `wait`: no wait is named, or a long one. `window` is the quota window that such an answer says is spent.
    `proven` false: nobody has said whose fault it is, so that another route of the model's family is asked.
    `refresh`: a refused token is worth renewing, once. `source` is where the fact was found.
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
    window: Annotated[str, Meta(max_length=40, pattern="^[a-z0-9_-]*$")] = ""
    proven: bool = True
    refresh: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec names the place of."""
        if self.kind in OUR_OWN:
            raise ValueError(f"an answer can't be of the kind {self.kind!r}")
        if not self.scope:
            raise ValueError("the scope is missing")
        for status in self.status:
            bounds(status)

    def covers(self, status: int) -> bool:
        """Whether the rule is for answers with this status."""
        return not self.status or any(first <= status <= last for first, last in map(bounds, self.status))


class WindowRule(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A quota window: its name in headers, what a representative claim calls it, and the models that it is about.

    `holds` is a word in the names of those models, such as "opus"; "" is all models.
    """

    name: Name
    claims: tuple[str, ...] = ()
    holds: Annotated[str, Meta(max_length=40, pattern="^[a-z0-9._-]*$")] = ""
    source: str = ""


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """All rules. Of those that fit, the first counts. `spent_words` are a window's words for "no more"."""

    failures: tuple[FailureRule, ...] = ()
    windows: tuple[WindowRule, ...] = ()
    spent_words: tuple[str, ...] = ()

    def behind(self, failures: tuple[FailureRule, ...], windows: tuple[WindowRule, ...]) -> "Rules":
        """These rules with others before them; a window that is named again is replaced."""
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
        raise ValueError(f"status {status!r} is not within 0 to {STATUS_LIMIT - 1}, the lesser first")
    return found


@lru_cache(maxsize=1)
def packaged_rules() -> Rules:
    """The rules that come with the proxy."""
    content = resources.files("service.routing").joinpath("failures.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(content), Rules)
