"""The few words of redis-cli that docs/redis-keys.md uses, through redis-py: for machines that lack the real one.

`python redis_cli.py -p PORT WORDS`, with the password in REDISCLI_AUTH; it prints as redis-cli does into a pipe.
"""

import os
import sys
from typing import Any

from redis import Redis


def lines(reply: Any) -> list[str]:
    """A reply as redis-cli prints it: one value a line, whatever it is nested in."""
    if isinstance(reply, dict):
        reply = [part for pair in reply.items() for part in pair]
    if isinstance(reply, (list, tuple, set)):
        return [line for part in reply for line in lines(part)]
    if reply is None:
        return [""]
    return [reply.decode() if isinstance(reply, bytes) else str(reply)]


def main() -> None:
    port, words = int(sys.argv[2]), sys.argv[3:]
    with Redis(port=port, password=os.environ.get("REDISCLI_AUTH"), protocol=2, decode_responses=False) as redis:
        if words[0] == "--scan":
            found: Any = list(redis.scan_iter(match=words[2]))
        else:
            redis.response_callbacks.clear()
            found = redis.execute_command(*words)
    sys.stdout.write("".join(f"{line}\n" for line in lines(found)))


if __name__ == "__main__":
    main()
