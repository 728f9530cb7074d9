"""Signatures of thoughts that a provider could not check, so that they stay out of the requests that follow.

A conversation that another vendor helped with carries that vendor's thoughts on: without this memory every further
request of it would be refused once. It is this process's own, and bounded: what is forgotten is refused once more.

Not here: which refusal is one (`routing.failure`), or leaving thoughts out (`bodies`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256

from service.protocol.body_survey import BlockSurvey, survey

MOST_SIGNATURES = 50_000


class RefusedSignatures:
    """Knows signatures by their digests; the oldest are forgotten."""

    def __init__(self, most: int = MOST_SIGNATURES) -> None:
        self._most = most
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def note(self, raw: bytes, blocks: Sequence[BlockSurvey] | None = None) -> None:
        """A body was refused: none of its thoughts need be sent again. `blocks` are those of its messages, where
        somebody has read them already."""
        signatures = [block.signature for block in (survey(raw) if blocks is None else blocks) if block.signature]
        self._known.update(dict.fromkeys(map(digest, signatures[-self._most :])))
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def __contains__(self, signature: object) -> bool:
        """Whether this signature was refused."""
        return bool(self._known) and isinstance(signature, str) and digest(signature) in self._known


def digest(signature: str) -> bytes:
    """Short, since signatures are long."""
    return sha256(signature.encode()).digest()[:12]
