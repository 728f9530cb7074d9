"""Walks the types of the `anthropic` package: what may be on the wire, by name.

Not here: what the proxy makes of it (`wire.toml`), and the comparison.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import anthropic
import anthropic.types
from anthropic import _error_classes
from anthropic.types import beta
from pydantic import BaseModel
from typing_extensions import is_typeddict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATH = re.compile(r'"(/v1/[^"\s]*)"')
ID = re.compile(r"\{[^}]*\}")
ELSEWHERE = ("organization", "compliance", "webhook", "claude_tag", "analytics")
"""Parts of modules' names that are about the administration of organizations, which has resources of its own."""


def literals(kind: Any) -> set[str]:
    """The words that a type allows, through unions, annotations and aliases; other strings are left out."""
    if get_origin(kind) is Literal:
        return {str(word) for word in get_args(kind)}
    return set().union(*(literals(part) for part in get_args(kind))) if get_args(kind) else set()


def members(kind: Any) -> Iterator[Any]:
    """The classes of a union, through annotations, lists and nested unions."""
    if inspect.isclass(kind) and not get_args(kind):
        if kind not in (NoneType, str):
            yield kind
        return
    for part in get_args(kind):
        yield from members(part)


def tags(kind: Any, field: str = "type") -> set[str]:
    """The values of the field that tells a union's members apart."""
    return set().union(*(literals(hints_of(member).get(field)) for member in members(kind)))


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """The fields of a class with their types."""
    if is_typeddict(kind):
        return get_type_hints(kind, include_extras=True)
    return {name: info.annotation for name, info in getattr(kind, "model_fields", {}).items()}


@cache
def modules() -> list[Any]:
    """All modules of types that clients of the Messages API meet."""
    found = pkgutil.walk_packages(anthropic.types.__path__, "anthropic.types.")
    names = [info.name for info in found if not any(part in info.name for part in ELSEWHERE)]
    return [importlib.import_module(name) for name in names]


def models() -> set[str]:
    """The names of models."""
    return literals(anthropic.types.Model)


def price_words() -> set[str]:
    """The words in usage that change its price."""
    fields = beta.BetaUsage.model_fields
    names = ("service_tier", "speed")
    return {f"{name} {word}" for name in names for word in literals(fields[name].annotation)}


def usage_fields() -> set[str]:
    """The fields of all objects of usage in answers, as `Class.field`; the beta's classes are the same ones."""
    found: set[str] = set()
    for module in modules():
        for name, kind in vars(module).items():
            if is_usage(name, kind, module):
                found |= {f"{plain(name)}.{field}" for field in kind.model_fields}
    return found


def is_usage(name: str, kind: Any, module: Any) -> bool:
    """True for a class of usage that is defined in this module."""
    if not (inspect.isclass(kind) and issubclass(kind, BaseModel) and kind.__module__ == module.__name__):
        return False
    return "Usage" in name or name.endswith(("CacheCreation", "TokensDetails"))


def plain(name: str) -> str:
    """A class's name without the mark of beta types."""
    return name.removeprefix("Beta").removeprefix("ManagedAgents")


def iterations() -> set[str]:
    """The kinds of `usage.iterations`."""
    return tags(beta.beta_iterations_usage.BetaIterationsUsageItem)


def errors() -> set[str]:
    """The types of errors, and the codes that tell more, with their status."""
    types = tags(anthropic.types.ErrorObject) | tags(beta_error_object()) | literals(anthropic.types.shared.ErrorType)
    coded = {f"{status} {code}" for status, code in _error_classes.ERROR_CLASSES if code}
    return types | coded


def beta_error_object() -> Any:
    """The union of the beta's errors."""
    return importlib.import_module("anthropic.types.beta_error_object").BetaErrorObject


def stop_reasons() -> set[str]:
    """Why a message ended."""
    return literals(anthropic.types.StopReason) | literals(beta.BetaStopReason)


def answer_blocks() -> set[str]:
    """The kinds of content blocks in answers."""
    return tags(anthropic.types.ContentBlock) | tags(beta.BetaContentBlock)


def request_blocks() -> set[str]:
    """The kinds of content blocks in requests."""
    return tags(anthropic.types.ContentBlockParam) | tags(beta.BetaContentBlockParam)


def deltas() -> set[str]:
    """The kinds of deltas of a content block."""
    return tags(anthropic.types.RawContentBlockDelta) | tags(beta.BetaRawContentBlockDelta)


def stream_events() -> set[str]:
    """The events of a stream of a message."""
    return tags(anthropic.types.RawMessageStreamEvent) | tags(beta.BetaRawMessageStreamEvent)


def session_events() -> set[str]:
    """The events of a session's stream."""
    return tags(beta.sessions.BetaManagedAgentsStreamSessionEvents)


def fields() -> set[str]:
    """The fields of requests for messages, and for their tokens."""
    params = ("message_create_params", "message_count_tokens_params")
    found: set[str] = set()
    for package in ("anthropic.types", "anthropic.types.beta"):
        for name in params:
            module = importlib.import_module(f"{package}.{name}")
            for kind in vars(module).values():
                if is_typeddict(kind) and "Params" in kind.__name__ and kind.__module__ == module.__name__:
                    found |= set(get_type_hints(kind))
    return found


def betas() -> set[str]:
    """The names of betas."""
    return literals(anthropic.types.AnthropicBetaParam)


def resources() -> set[str]:
    """The paths below `/v1/` that the package asks for, without ids, their words separated by dots."""
    folder = Path(anthropic.__file__).parent / "resources"
    found = {path for file in folder.rglob("*.py") for path in PATH.findall(file.read_text(encoding="utf-8"))}
    return {words_of(path) for path in found}


def queries() -> set[str]:
    """The parameters of lists that name something."""
    found: set[str] = set()
    for module in modules():
        for name, kind in vars(module).items():
            if name.endswith("ListParams") and is_typeddict(kind):
                found |= {field for field in hints_of(kind) if re.fullmatch("ids|.*_ids?", field)}
    return found


def words_of(path: str) -> str:
    """A path without ids and query."""
    words = ID.sub("", path.partition("?")[0]).removeprefix("/v1/").split("/")
    return ".".join(filter(None, words))


KINDS: dict[str, Callable[[], set[str]]] = {
    "models": models,
    "price_words": price_words,
    "usage": usage_fields,
    "iterations": iterations,
    "errors": errors,
    "stop_reasons": stop_reasons,
    "answer_blocks": answer_blocks,
    "request_blocks": request_blocks,
    "deltas": deltas,
    "stream_events": stream_events,
    "session_events": session_events,
    "fields": fields,
    "betas": betas,
    "resources": resources,
    "queries": queries,
}
