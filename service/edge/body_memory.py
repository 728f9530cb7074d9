"""How much memory the bodies of all requests of this process may take together; the newest is refused beyond that.

One request's share is what it holds: its body, the same decoded, and what was read of it. It is given back when the
request ends, however it does. What a connection keeps of a body before its request is handled counts too (`exchange`),
but takes no room from bodies of requests that are: anybody may send it, and nobody is refused for it.
Not here: how large one body may be (`bodies`).
"""

from service.errors import BodyMemoryFull

RETRY_S = 2
UNASKED_PART = 8
"""So large a part of the bound may be kept before it is known who sends it; then requests are handled at once."""


class BodyMemory:
    """Counts the bytes that are held; `unasked` are those of them whose requests are not handled yet."""

    __slots__ = ("held", "most_bytes", "most_unasked_bytes", "unasked")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.most_unasked_bytes = most_bytes // UNASKED_PART
        self.held = 0
        self.unasked = 0


class Share:
    """One request's part; `close` gives back all of it."""

    __slots__ = ("_bytes", "_memory")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._bytes = 0

    def add(self, size: int) -> None:
        """Hold more. Raises BodyMemoryFull when there is no room."""
        memory = self._memory
        if memory.held - memory.unasked + size > memory.most_bytes:
            raise BodyMemoryFull(
                "the bodies of all requests take as much memory as this proxy may use for them (MAX_HELD_BODY_BYTES)",
                retry_after_s=RETRY_S,
            )
        memory.held += size
        self._bytes += size

    def give_back(self, size: int) -> None:
        """Hold less again."""
        self._memory.held -= size
        self._bytes -= size

    def close(self) -> None:
        """Hold nothing any more; a second time changes nothing."""
        self._memory.held -= self._bytes
        self._bytes = 0
