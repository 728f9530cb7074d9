"""Redis Cluster's clients of redis-py, made to fail like all others: with RedisError, when they are asked.

redis-py's synchronous client already fails when it is made. Not here: when a Cluster is meant (`factory`), and which
failures become RedisError (`failures`).
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Self

from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import ClusterNode, RedisCluster
from redis.commands.core import Script

from service.redis_client.failures import as_redis_error, guarded_pipeline


class AsyncCluster(AsyncRedisCluster):
    """For the proxies."""

    is_cluster = True

    async def initialize(self, *args: Any, **options: Any) -> Any:
        """Learn who has which slots."""
        with as_redis_error():
            return await super().initialize(*args, **options)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command, wherever its key lies."""
        with as_redis_error():
            return await super().execute_command(*args, **options)

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Commands that may span slots."""
        return guarded_pipeline(super().pipeline(*args, **options))


class SyncCluster(RedisCluster):
    """For the workers and the commands; behind LazyCluster."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command, wherever its key lies."""
        with as_redis_error():
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def get_node_from_key(self, *args: Any, **options: Any) -> Any:
        """Who has a key."""
        with as_redis_error():
            return super().get_node_from_key(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Commands that may span slots."""
        made: Any = super().pipeline(*args, **options)  # type: ignore[no-untyped-call]
        execute: Callable[..., Any] = made.execute

        def guarded(*args: Any, **options: Any) -> Any:
            with as_redis_error():
                return execute(*args, **options)

        made.execute = guarded
        return made


class LazyCluster:
    """A SyncCluster that is looked for when it is first asked, and again as long as it is not found."""

    is_cluster = True

    def __init__(self, nodes: Sequence[tuple[str, int]], options: dict[str, Any]) -> None:
        self._nodes = nodes
        self._options = options
        self._found: SyncCluster | None = None
        self._turn = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        """All that a client can be asked."""
        return getattr(self._cluster(), name)

    def register_script(self, script: str) -> Script:
        """A script, sent where it is missing when it is called."""
        return Script(self, script.encode())  # type: ignore[arg-type]

    def close(self) -> None:
        """Close what was opened."""
        with self._turn:
            found, self._found = self._found, None
        if found is not None:
            found.close()

    def _cluster(self) -> SyncCluster:
        with self._turn, as_redis_error():
            if self._found is None:
                self._found = SyncCluster(startup_nodes=[ClusterNode(*node) for node in self._nodes], **self._options)  # type: ignore[no-untyped-call]
            return self._found
