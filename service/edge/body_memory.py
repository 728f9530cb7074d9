"""Bounds the memory of all bodies in this process; new requests are rejected beyond it.

A request's share covers its body, the decoded body, and what was parsed of it, and is released when the request ends.
Body parts that a connection buffers before its request is handled count too (`request_cycle`), but never displace
bodies of handled requests: anybody may send them without a key. Not here: the limit of one body (`body_reader`).
"""

from service.errors import BodyMemoryFull

RETRY_S = 2
UNASKED_PART = 8
"""Divisor of the bound for buffered bodies of unknown senders; beyond it, requests are handled at once."""


class BodyMemory:
    """Counts held bytes, in total and by client key; `unasked` are of requests that are not handled yet."""

    __slots__ = ("held", "held_by_key", "most_bytes", "most_key_bytes", "most_unasked_bytes", "unasked")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.most_unasked_bytes = most_bytes // UNASKED_PART
        self.most_key_bytes = most_bytes // 2
        self.held = 0
        self.held_by_key: dict[str, int] = {}
        self.unasked = 0


class MemoryShare:
    """A request's share, released by `close`. A client key may have half of the total: else a few large, slow bodies
    would lock out all others."""

    __slots__ = ("_bytes", "_key_id", "_memory")

    def __init__(self, memory: BodyMemory, key_id: str) -> None:
        self._memory = memory
        self._key_id = key_id
        self._bytes = 0

    def add(self, size: int) -> None:
        """Reserve more bytes. Raises BodyMemoryFull if there is no room."""
        memory = self._memory
        if memory.held - memory.unasked + size > memory.most_bytes:
            raise BodyMemoryFull(
                "the memory for request bodies is full (MAX_HELD_BODY_BYTES); try again",
                retry_after_s=RETRY_S,
            )
        if self._key_id:
            held = memory.held_by_key.get(self._key_id, 0) + size
            if held > memory.most_key_bytes:
                raise BodyMemoryFull(
                    "this key's requests use half of the memory for bodies, the most for one key (MAX_HELD_BODY_BYTES)",
                    retry_after_s=RETRY_S,
                )
            memory.held_by_key[self._key_id] = held
        memory.held += size
        self._bytes += size

    def give_back(self, size: int) -> None:
        """Release some bytes."""
        memory = self._memory
        memory.held -= size
        self._bytes -= size
        if self._key_id in memory.held_by_key:
            memory.held_by_key[self._key_id] -= size
            if not memory.held_by_key[self._key_id]:
                del memory.held_by_key[self._key_id]

    def close(self) -> None:
        """Release all bytes; idempotent."""
        if self._bytes:
            self.give_back(self._bytes)
