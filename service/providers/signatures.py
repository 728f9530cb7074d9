"""Signatures of thoughts that a provider could not check, so that they stay out of the requests that follow.

A conversation that another vendor helped with carries that vendor's thoughts on: without this memory every further
request of it would be refused once. It is this process's own, and bounded: what is forgotten is refused once more.

Not here: which refusal is one (`routing.failure`), or leaving thoughts out (`bodies`).
"""

from hashlib import sha256

from service.providers.bodies import survey

MOST_SIGNATURES = 50_000


class RefusedSignatures:
    """Knows signatures by their digests; the oldest are forgotten."""

    def __init__(self, most: int = MOST_SIGNATURES) -> None:
        self._most = most
        self._known: dict[bytes, None] = {}

    def note(self, raw: bytes) -> None:
        """A body was refused: none of its thoughts need be sent again."""
        for block in survey(raw):
            if block.signature:
                self._known[digest(block.signature)] = None
        while len(self._known) > self._most:
            del self._known[next(iter(self._known))]

    def __contains__(self, signature: object) -> bool:
        """Whether this signature was refused."""
        return bool(self._known) and isinstance(signature, str) and digest(signature) in self._known


def digest(signature: str) -> bytes:
    """Short, since signatures are long."""
    return sha256(signature.encode()).digest()[:12]
