"""Lists of models in the shape of `GET /v1/models`: read, joined and cut into pages. Pure.

Not here: which routes are asked for theirs (`relay.model_list`), and what a key may use (`routing.keys`).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec

from service.errors import ClientError
from service.ledger.model_names import canonical

Entry = Mapping[str, Any]
USUAL_PAGE = 20
LARGEST_PAGE = 1_000
SPELLED = {"glm": "GLM"}
LONG_AGO = "1970-01-01T00:00:00Z"
"""When a model was made, for one of which nobody says it (as Anthropic's documentation has it)."""
DATE_DIGITS = 8


def entries_in(body: bytes) -> list[Entry] | None:
    """Return the models of a list, each with what clients rely on; None if a body is no such list."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    items = fields.get("data") if isinstance(fields, dict) else None
    if not isinstance(items, list):
        return None
    return [completed(item) for item in items if isinstance(item, dict) and is_name(item.get("id"))]


def is_name(value: object) -> bool:
    """True for the name of a model."""
    return isinstance(value, str) and bool(value)


def completed(item: Mapping[str, Any]) -> Entry:
    """Return a model of whatever shape in Anthropic's."""
    given = {"type": "model"} | {name: value for name, value in item.items() if name != "object"}
    given["display_name"] = item.get("display_name") or display_name(item["id"])
    given["created_at"] = item.get("created_at") or time_of(item.get("created"))
    return given


def time_of(seconds: object) -> str:
    """Return a time as Anthropic writes it."""
    if not isinstance(seconds, int) or not 0 < seconds < 2**32:
        return LONG_AGO
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def known_entry(model: str) -> Entry:
    """Return the entry of a model that is known by its name alone."""
    return completed({"id": model})


def display_name(model: str) -> str:
    """Return a name for people.

    >>> display_name("claude-opus-4-8-20260115")
    'Claude Opus 4.8'
    """
    words = canonical(model).split("-")
    name = ""
    for word, last in zip(words, ["", *words], strict=False):
        is_minor = word.isdigit() and last.isdigit() and len(word) < DATE_DIGITS
        name += f".{word}" if is_minor else f" {SPELLED.get(word, word.capitalize())}"
    return name.strip()


def joined(lists: Iterable[Iterable[Entry]]) -> list[Entry]:
    """Return all models once, as the first list has them."""
    found: dict[str, Entry] = {}
    for entries in lists:
        for entry in entries:
            found.setdefault(entry["id"], entry)
    return list(found.values())


def page_of(entries: Sequence[Entry], query: str) -> dict[str, Any]:
    """Return the page that a query asks for. Raises ClientError for an invalid one."""
    asked = {name: values[-1] for name, values in parse_qs(query).items()}
    limit = limit_in(asked.get("limit", str(USUAL_PAGE)))
    ids = [entry["id"] for entry in entries]
    start, end = 0, len(entries)
    if "after_id" in asked:
        start = index_of(asked["after_id"], ids, "after_id") + 1
    if "before_id" in asked:
        end = index_of(asked["before_id"], ids, "before_id")
        start = max(start, end - limit)
        has_more = start > 0
    else:
        has_more = start + limit < end
    page = list(entries[start : min(end, start + limit)])
    return {
        "data": page,
        "has_more": has_more,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def limit_in(text: str) -> int:
    """Return the size of a page. Raises ClientError."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= LARGEST_PAGE:
        raise ClientError(f"limit: Input should be an integer from 1 to {LARGEST_PAGE}")
    return int(text)


def index_of(model: str, ids: Collection[str], name: str) -> int:
    """Return where a page begins or ends. Raises ClientError."""
    if model not in ids:
        raise ClientError(f"{name}: there is no such model in this list")
    return list(ids).index(model)
