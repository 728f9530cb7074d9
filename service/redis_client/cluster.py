"""redis-py's Cluster clients, adapted to connect on first use and to fail with RedisError like all others.

redis-py's synchronous client already fails in its constructor. Not here: choosing a Cluster client (`factory`), and
mapping failures to RedisError (`failures`).
"""

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Self

from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import ClusterNode, RedisCluster
from redis.commands.core import Script

from service.redis_client.failures import as_redis_error, guarded_pipeline


class AsyncCluster(AsyncRedisCluster):
    """Asynchronous client, for the proxies."""

    is_cluster = True

    async def initialize(self, *args: Any, **options: Any) -> Any:
        """Discover which node owns which slots."""
        with as_redis_error():
            return await super().initialize(*args, **options)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command on the node of its key."""
        with as_redis_error():
            return await super().execute_command(*args, **options)

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Return a pipeline that may span slots."""
        return guarded_pipeline(super().pipeline(*args, **options))


class SyncCluster(RedisCluster):
    """Synchronous client, for workers and commands; wrapped in LazyCluster."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command on the node of its key."""
        with as_redis_error():
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def get_node_from_key(self, *args: Any, **options: Any) -> Any:
        """Return the node of a key."""
        with as_redis_error():
            return super().get_node_from_key(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, *args: Any, **options: Any) -> Any:
        """Return a pipeline that may span slots."""
        made: Any = super().pipeline(*args, **options)  # type: ignore[no-untyped-call]
        execute: Callable[..., Any] = made.execute

        def guarded(*args: Any, **options: Any) -> Any:
            with as_redis_error():
                return execute(*args, **options)

        made.execute = guarded
        return made


class LazyCluster:
    """A SyncCluster that connects on first use, and retries on each use until it succeeds."""

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
        """Forward to the client."""
        return getattr(self._cluster(), name)

    def register_script(self, script: str) -> Script:
        """Register a script, which is loaded where it is missing when it is called."""
        return Script(self, script.encode())  # type: ignore[arg-type]

    def close(self) -> None:
        """Close the client if it was opened."""
        with self._turn:
            found, self._found = self._found, None
        if found is not None:
            found.close()

    def _cluster(self) -> SyncCluster:
        with self._turn, as_redis_error():
            if self._found is None:
                self._found = SyncCluster(startup_nodes=[ClusterNode(*node) for node in self._nodes], **self._options)  # type: ignore[no-untyped-call]
            return self._found
