"""How deep a body's JSON is nested and how many values it has, before anything is made of it.

A decoder builds an object for each value: 32 MB of `{},` are ten million of them, a gigabyte and half a minute. Most
bodies are cleared by counting bytes that may as well stand in their texts; only what these leave in doubt is scanned.
What hides its depth behind brackets in texts is bounded by the decoder (about a thousand levels), which is why nothing
here recurses any deeper than the decoder did. Not here: what the values are (`raw_json`, `service.edge.body_fields`).
"""

import re
from collections.abc import Iterator
from typing import Final

from service.errors import ClientError
from service.settings import BodyLimits

ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
TOKEN: Final = re.compile(rb'"[^"\\]*+"|["\[\]{},]')
"""Structure, or a text without escapes, or how one with escapes begins."""
ESCAPES: Final = re.compile(rb'(?:[^"\\]*+\\.){1,4096}+', re.DOTALL)
"""No more of them at once than take a moment: nothing else runs meanwhile."""
OPENING, QUOTE, COMMA, BACKSLASH = b"[{", ord('"'), ord(","), b"\\"
CONTAINERS_PER_BLOCK: Final = 2
"""A conversation of the most blocks may have as many messages, tools and arguments."""
COMMAS_PER_BLOCK: Final = 3
"""No model reads more values than that: each is a token or several."""
MOST_KEYS: Final = 10_000
"""Of one object, which is decoded in one go."""
FIRST_COUNT: Final = {OPENING[0]: -1 << 60, OPENING[1]: 0}
"""Where the count of commas begins: a list has no bound but that of the whole."""
CLEAR_COMMAS: Final = 50_000
"""Bodies with no more are not scanned for objects of many keys."""


def check_shape(raw: bytes, limits: BodyLimits) -> None:
    """Refuse JSON that is nested too deep or has too many values. Raises ClientError."""
    if not is_in_doubt(raw, limits):
        return
    most_containers = limits.content_blocks * CONTAINERS_PER_BLOCK
    most_commas = limits.content_blocks * COMMAS_PER_BLOCK
    containers = commas = 0
    commas_in = [0]
    for token in tokens(raw):
        if token == COMMA:
            commas += 1
            commas_in[-1] += 1
        elif token in OPENING:
            containers += 1
            commas_in.append(FIRST_COUNT[token])
        elif len(commas_in) > 1:
            commas_in.pop()
        if len(commas_in) > limits.json_depth + 1:
            raise ClientError(f"the JSON is nested more than {limits.json_depth} levels deep (MAX_JSON_DEPTH)")
        if containers > most_containers or commas > most_commas or commas_in[-1] > MOST_KEYS:
            raise too_many_blocks(limits)


def is_in_doubt(raw: bytes, limits: BodyLimits) -> bool:
    """Whether bytes alone don't tell that a body is within the limits: 20 microseconds for 60 KB."""
    most_commas = min(CLEAR_COMMAS, limits.content_blocks * COMMAS_PER_BLOCK)
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


def tokens(raw: bytes) -> Iterator[int]:
    """The bytes that are structure: brackets and commas outside of texts."""
    place = 0
    while match := TOKEN.search(raw, place):
        token, place = raw[match.start()], match.end()
        if token != QUOTE:
            yield token
        elif match.end() - match.start() == 1:
            place = end_of_text(raw, place) + 1


def end_of_text(raw: bytes, start: int) -> int:
    """Where the quote is that ends a text with escapes; the last byte when none does."""
    end = raw.find(b'"', start)
    while end >= 0 and raw.find(BACKSLASH, start, end) >= 0 and (match := ESCAPES.match(raw, start)):
        start = match.end()
        if start > end:
            end = raw.find(b'"', start)
    return end if end >= 0 else len(raw) - 1


def too_many_blocks(limits: BodyLimits) -> ClientError:
    """The refusal of a body of too many values."""
    return ClientError(
        f"messages: the request has more than {limits.content_blocks:,} content blocks (MAX_CONTENT_BLOCKS)"
    )
