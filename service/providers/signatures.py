"""Remembers signatures of thinking blocks that a provider rejected, so that they are removed from later requests.

Another vendor's thinking stays in a conversation: without this cache, each further request would be rejected once. It
is per process and bounded: a forgotten signature is rejected once more.

Not here: recognizing the rejection (`routing.failure`), and removing the blocks (`bodies`).
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256

from service.protocol.body_survey import BlockSurvey, survey

MOST_SIGNATURES = 50_000


class RefusedSignatures:
    """Set of digests of signatures; the oldest are dropped."""

    def __init__(self, most: int = MOST_SIGNATURES) -> None:
        self._most = most
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def add(self, raw: bytes, blocks: Sequence[BlockSurvey] | None = None) -> None:
        """Add all signatures of a rejected body. `blocks` are those of its messages if the caller has read them
        already."""
        signatures = [block.signature for block in (survey(raw) if blocks is None else blocks) if block.signature]
        self._known.update(dict.fromkeys(map(digest, signatures[-self._most :])))
        while len(self._known) > self._most:
            self._known.popitem(last=False)

    def __contains__(self, signature: object) -> bool:
        """True if this signature was rejected."""
        return bool(self._known) and isinstance(signature, str) and digest(signature) in self._known


def digest(signature: str) -> bytes:
    """Return a short digest, since signatures are long."""
    return sha256(signature.encode()).digest()[:12]
