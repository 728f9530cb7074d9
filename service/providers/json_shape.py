"""How deep a body's JSON is nested and how many values it has, before anything is made of it.

A decoder builds an object for each value: 32 MB of `{},` are ten million of them, a gigabyte and half a minute. Most
bodies are cleared by counting bytes that may as well stand in their texts; only what these leave in doubt is scanned.
What hides its depth behind brackets in texts is bounded by the decoder (about a thousand levels), which is why nothing
here recurses any deeper than the decoder did. Not here: what the values are (`parts`, `service.edge.fields`).
"""

import re
from typing import Final

from service.errors import ClientError
from service.settings import BodyLimits

ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
TOKEN: Final = re.compile(rb'["\[\]{},]')
OPENING, CLOSING, QUOTE, COMMA, BACKSLASH = b"[{", b"]}", ord('"'), ord(","), ord("\\")
CONTAINERS_PER_BLOCK: Final = 2
"""A conversation of the most blocks may have as many messages, tools and arguments."""
COMMAS_PER_BLOCK: Final = 3
"""No model reads more values than that: each is a token or several."""


def check_shape(raw: bytes, limits: BodyLimits) -> None:
    """Refuse JSON that is nested too deep or has too many values. Raises ClientError."""
    if not is_in_doubt(raw, limits):
        return
    most_containers = limits.content_blocks * CONTAINERS_PER_BLOCK
    most_commas = limits.content_blocks * COMMAS_PER_BLOCK
    depth = containers = commas = 0
    place = next_token(raw, 0)
    while place >= 0:
        token = raw[place]
        if token == QUOTE:
            place = end_of_string(raw, place + 1)
        elif token == COMMA:
            commas += 1
        elif token in OPENING:
            depth, containers = depth + 1, containers + 1
        else:
            depth -= 1
        if depth > limits.json_depth:
            raise ClientError(f"the JSON is nested more than {limits.json_depth} levels deep (MAX_JSON_DEPTH)")
        if containers > most_containers or commas > most_commas:
            raise too_many_blocks(limits)
        place = next_token(raw, place + 1)


def is_in_doubt(raw: bytes, limits: BodyLimits) -> bool:
    """Whether bytes alone don't tell that a body is within the limits: 20 microseconds for 60 KB."""
    most_commas = limits.content_blocks * COMMAS_PER_BLOCK
    if len(raw) > most_commas and raw.count(b",") > most_commas:
        return True
    brackets = raw.translate(ONE_KIND, NO_BRACKETS)
    if len(brackets) <= 2 * limits.json_depth:
        return False
    if len(brackets) > 2 * limits.content_blocks * CONTAINERS_PER_BLOCK:
        return True
    # What is empty inside goes twice, so that siblings don't come between the brackets that close a deep value.
    inner = brackets.replace(b"[]", b"").replace(b"[]", b"")
    return b"]" * (limits.json_depth - 1) in inner


def next_token(raw: bytes, start: int) -> int:
    """Where the next byte is that is structure or begins a text; -1: nowhere."""
    found = TOKEN.search(raw, start)
    return found.start() if found else -1


def end_of_string(raw: bytes, start: int) -> int:
    """Where the quote is that ends a text; the last byte when none does."""
    end = raw.find(b'"', start)
    while end > 0 and is_escaped(raw, end):
        end = raw.find(b'"', end + 1)
    return end if end >= 0 else len(raw) - 1


def is_escaped(raw: bytes, place: int) -> bool:
    """Whether an odd number of backslashes stands before a byte."""
    start = place
    while raw[start - 1] == BACKSLASH:
        start -= 1
    return (place - start) % 2 == 1


def too_many_blocks(limits: BodyLimits) -> ClientError:
    """The refusal of a body of too many values."""
    return ClientError(
        f"messages: the request has more than {limits.content_blocks:,} content blocks (MAX_CONTENT_BLOCKS)"
    )
