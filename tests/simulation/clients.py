"""Clients of the model of Redis, as redis-py's look: the workers' plain one and the proxies' asynchronous one.

They are where a network fails: before a command, after it, or in the middle of a pipeline.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Self

from msgspec import Struct
from redis.exceptions import ConnectionError as Refused
from redis.exceptions import TimeoutError as Unanswered

from tests.simulation import redis_model
from tests.simulation.fibers import Places
from tests.simulation.redis_model import Raw, Server, Subscriber, to_name

Command = tuple[str, tuple[Any, ...], dict[str, Any]]


class Commands:
    """Any command by its name, given to `send`."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def command(*args: Any, **options: Any) -> Any:
            return self.send((name, args, options))

        return command

    def send(self, command: Command) -> Any:
        raise NotImplementedError


class Pipe(Commands):
    """Commands that wait for `execute`."""

    def __init__(self, run: Callable[[list[Command]], Any]) -> None:
        self._run = run
        self._waiting: list[Command] = []

    def send(self, command: Command) -> Any:
        self._waiting.append(command)
        return self

    def execute(self, *, raise_on_error: bool = True) -> Any:  # noqa: ARG002 - the model knows no error of a command
        return self._run(self._waiting)


class PlainRedis(Commands):
    """A worker's client."""

    def __init__(self, server: Server, places: Places) -> None:
        self._server = server
        self._places = places

    def send(self, command: Command) -> Any:
        return self._do([command])[0]

    def pipeline(self, *, transaction: bool = True) -> Pipe:  # noqa: ARG002 - redis-py's
        return Pipe(self._do)

    def register_script(self, _text: str) -> Callable[..., Any]:
        """`publish.lua` is the one script there is."""

        def script(keys: list[str], args: list[Any]) -> Any:
            return self._do([("script", (keys, args), {})])[0]

        return script

    def _do(self, commands: list[Command]) -> list[Any]:
        if not commands:
            return []
        what = self._places.come_to("redis." + commands[0][0])
        if what == "fail" or not self._server.up:
            raise Refused("refused")
        replies = [self._one(command) for command in commands]
        if what == "late" or self._places.come_to("redis.reply"):
            raise Unanswered("unanswered")
        return replies

    def _one(self, command: Command) -> Any:
        name, args, options = command
        if name == "script":
            return redis_model.publish_rule(self._server, *args)
        return self._server.call(name, args, options)


class Weather(Struct):
    """How bad the proxies' network is: shares of commands that are refused, cut, or done and not answered."""

    refused: float = 0.0
    cut: float = 0.0
    unanswered: float = 0.0
    slow: float = 0.3
    notices_lost: float = 0.0


class AsyncRedis(Commands):
    """A proxy's client."""

    def __init__(self, server: Server, weather: Weather, rng: Random) -> None:
        self._server = server
        self._weather = weather
        self._rng = rng

    async def send(self, command: Command) -> Any:
        return (await self._do([command]))[0]

    def pipeline(self, *, transaction: bool = True) -> Pipe:  # noqa: ARG002 - redis-py's
        return Pipe(self._do)

    async def aclose(self) -> None:
        """Nothing to close."""

    async def _do(self, commands: list[Command]) -> list[Any]:
        weather, rng = self._weather, self._rng
        if not commands:
            return []
        if rng.random() < weather.slow:
            await asyncio.sleep(rng.random() * 0.01)
        if not self._server.up or rng.random() < weather.refused:
            raise Refused("refused")
        cut = rng.randrange(len(commands)) if rng.random() < weather.cut else len(commands)
        run = self._server.run_id
        replies = [self._server.call(*command) for command in commands[:cut]]
        if cut < len(commands):
            raise Refused("cut")
        if rng.random() < weather.unanswered:
            await asyncio.sleep(rng.choice((0.01, 0.15, 2.0)))
            raise Unanswered("unanswered")
        if rng.random() < weather.slow:
            await asyncio.sleep(rng.random() * 0.02)
            if self._server.run_id != run:
                raise Refused("gone meanwhile")
        return replies

    def pubsub(self, *, ignore_subscribe_messages: bool) -> "Listener":  # noqa: ARG002 - redis-py's
        return Listener(self._server, self._weather, self._rng)


class Listener:
    """A proxy's subscription; notices come late, or not at all."""

    def __init__(self, server: Server, weather: Weather, rng: Random) -> None:
        self._server = server
        self._weather = weather
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._messages: deque[bytes] = deque()
        self._bell = asyncio.Event()
        self._subscriber = Subscriber()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._subscriber in self._server.subscribers:
            self._server.subscribers.remove(self._subscriber)

    async def subscribe(self, channel: Raw) -> None:
        if not self._server.up:
            raise Refused("refused")
        self._subscriber.channel = to_name(channel)
        self._subscriber.say = self._say
        self._subscriber.ring = lambda: self._later(None)
        self._server.subscribers.append(self._subscriber)

    def _say(self, message: bytes) -> None:
        if self._rng.random() >= self._weather.notices_lost:
            self._later(message)

    def _later(self, message: bytes | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_later(self._rng.random() * 0.02, self._take, message)

    def _take(self, message: bytes | None) -> None:
        if message is not None:
            self._messages.append(message)
        self._bell.set()

    async def get_message(self, timeout: float) -> dict[str, Any] | None:  # noqa: ASYNC109 - redis-py's
        if not self._messages and not self._subscriber.broken:
            handle = self._loop.call_later(timeout, self._bell.set)
            await self._bell.wait()
            handle.cancel()
            self._bell.clear()
        if self._subscriber.broken:
            raise Refused("gone")
        return {"type": "message", "data": self._messages.popleft()} if self._messages else None
