"""Bounds the nesting depth and the number of values of a body's JSON before it is decoded.

A decoder builds an object for each value: 32 MB of `{},` are ten million of them, a gigabyte and half a minute. Most
bodies pass by counting bytes, including those inside texts; only doubtful ones are scanned. Depth hidden behind
brackets in texts is bounded by the decoder (about a thousand levels), so nothing here recurses deeper than that. Not
here: the values themselves (`raw_json`, `service.edge.body_fields`).
"""

import re
from collections.abc import Iterator
from typing import Final

from service.errors import ClientError
from service.settings import BodyLimits

ONE_KIND: Final = bytes.maketrans(b"{}", b"[]")
NO_STRUCTURE: Final = bytes(set(range(256)) - set(b"[]{},"))
TOKEN: Final = re.compile(rb'"[^"\\]*+"|["\[\]{},]')
"""Structure, or a text without escapes, or the beginning of one with escapes."""
ESCAPES: Final = re.compile(rb'(?:[^"\\]*+\\.){1,4096}+', re.DOTALL)
"""Bounded, because a match blocks all other tasks."""
OPENING, QUOTE, COMMA, BACKSLASH = b"[{", ord('"'), ord(","), b"\\"
CONTAINERS_PER_BLOCK: Final = 2
"""A conversation of the maximum number of blocks may have as many messages, tools and arguments."""
COMMAS_PER_BLOCK: Final = 3
"""No model reads more values than that: each is at least a token."""
MOST_KEYS: Final = 10_000
"""Maximum keys of one object, which is decoded at once."""
FIRST_COUNT: Final = {OPENING[0]: -1 << 60, OPENING[1]: 0}
"""Initial comma counts: a list is bounded only by the total."""
CLEAR_COMMAS: Final = 50_000
"""Bodies with at most this many commas are not scanned for objects with many keys."""


def check_shape(raw: bytes, limits: BodyLimits) -> None:
    """Reject JSON that is nested too deep or has too many values. Raises ClientError."""
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
    """True if counting bytes does not prove the body to be within the limits: one pass over it, which is the most that
    a large body costs here."""
    structure = raw.translate(ONE_KIND, NO_STRUCTURE)
    brackets = structure.translate(None, b",")  # `replace` searches for each comma anew
    if len(structure) - len(brackets) > min(CLEAR_COMMAS, limits.content_blocks * COMMAS_PER_BLOCK):
        return True
    if len(brackets) <= 2 * limits.json_depth:
        return False
    if len(brackets) > 2 * limits.content_blocks * CONTAINERS_PER_BLOCK:
        return True
    # Empty arrays are removed twice, so that siblings don't separate the closing brackets of a deep value.
    inner = brackets.replace(b"[]", b"").replace(b"[]", b"")
    return b"]" * (limits.json_depth - 1) in inner


def tokens(raw: bytes) -> Iterator[int]:
    """Yield the structural bytes: brackets and commas outside of texts."""
    place = 0
    while match := TOKEN.search(raw, place):
        token, place = raw[match.start()], match.end()
        if token != QUOTE:
            yield token
        elif match.end() - match.start() == 1:
            place = end_of_text(raw, place) + 1


def end_of_text(raw: bytes, start: int) -> int:
    """Return the position of the quote that ends a text with escapes; the last byte if there is none."""
    end = raw.find(b'"', start)
    while end >= 0 and raw.find(BACKSLASH, start, end) >= 0 and (match := ESCAPES.match(raw, start)):
        start = match.end()
        if start > end:
            end = raw.find(b'"', start)
    return end if end >= 0 else len(raw) - 1


def too_many_blocks(limits: BodyLimits) -> ClientError:
    """Return the error for a body with too many values."""
    return ClientError(
        f"messages: the request has more than {limits.content_blocks:,} content blocks (MAX_CONTENT_BLOCKS)"
    )
