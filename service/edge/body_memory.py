"""How much memory the bodies of all requests of this process may take together; the newest is refused beyond that.

One request's share is what it holds: its body, the same decoded, and what was read of it. It is given back when the
request ends, however it does. What a connection keeps of a body before its request is handled counts too
(`request_cycle`), but takes no room from bodies of requests that are: anybody may send it, and nobody is refused for
it. Not here: how large one body may be (`body_reader`).
"""

from service.errors import BodyMemoryFull

RETRY_S = 2
UNASKED_PART = 8
"""So large a part of the bound may be kept before it is known who sends it; then requests are handled at once."""


class BodyMemory:
    """Counts the bytes that are held, in all and by client key; of `unasked`, the requests are not handled yet."""

    __slots__ = ("held", "held_by_key", "most_bytes", "most_key_bytes", "most_unasked_bytes", "unasked")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.most_unasked_bytes = most_bytes // UNASKED_PART
        self.most_key_bytes = most_bytes // 2
        self.held = 0
        self.held_by_key: dict[str, int] = {}
        self.unasked = 0


class MemoryShare:
    """One request's part; `close` gives back all of it. One client key has half of all at most: a few large bodies that
    come slowly would keep out everybody else."""

    __slots__ = ("_bytes", "_key_id", "_memory")

    def __init__(self, memory: BodyMemory, key_id: str) -> None:
        self._memory = memory
        self._key_id = key_id
        self._bytes = 0

    def add(self, size: int) -> None:
        """Hold more. Raises BodyMemoryFull when there is no room."""
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
        """Hold less again."""
        memory = self._memory
        memory.held -= size
        self._bytes -= size
        if self._key_id in memory.held_by_key:
            memory.held_by_key[self._key_id] -= size
            if not memory.held_by_key[self._key_id]:
                del memory.held_by_key[self._key_id]

    def close(self) -> None:
        """Hold nothing any more; a second time changes nothing."""
        if self._bytes:
            self.give_back(self._bytes)
