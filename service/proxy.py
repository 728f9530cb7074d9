"""The programmatic face: a proxy inside a Python program, and the loop behind `ccproxy serve`.

    from service import ClaudeCodeProxy, ProxyConfig, ProviderConfig

    proxy = ClaudeCodeProxy(ProxyConfig(port=4181, anthropic=ProviderConfig(api_key="...")))
    await proxy.start()
    ...
    await proxy.stop()

Not here: what a request goes through (`relay`), how settings are read (`settings`).
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from functools import partial

import uvicorn
from msgspec import Struct

from service import app
from service.drain import Drain
from service.edge.connection import ClientConnection
from service.egress import egress_mistakes
from service.errors import ProxyError
from service.settings import LogLevel, Settings, from_variables
from service.telemetry.log import set_up, show_in_program

log = logging.getLogger("ccproxy.proxy")

END_S = 5
"""Maximum time for responses to end with an error once the drain is over."""
START_S = 15.0
"""Longer than any start takes; after it, something is wrong."""
BACKLOG = 2048
LOOK_S = 5.0
"""Interval of checks for slow clients."""
COLLECT_AFTER = 20_000
"""Net allocated objects before a garbage collection: a few hundred requests' worth."""


class ProviderConfig(Struct, frozen=True, kw_only=True):
    """A provider's key and address; None is the default address."""

    api_key: str = ""
    base_url: str | None = None
    weekly_limit: int = 0


class SubscriptionConfig(Struct, frozen=True, kw_only=True):
    """The owner's Claude subscription: a token, or Claude Code's credentials file."""

    enabled: bool = True
    oauth_token: str = ""
    credentials_path: str = ""
    base_url: str | None = None
    weekly_limit: int = 0


class ProxyConfig(Struct, frozen=True, kw_only=True):
    """Configuration by a program. Nothing is read from the environment; a route without a credential is off.

    `redis_url` None: the ledger is in this process only, and ends with it. `home` is the folder of the spool.
    """

    port: int = 4181
    host: str = "127.0.0.1"
    anthropic: ProviderConfig = ProviderConfig()
    claude_subscription: SubscriptionConfig = SubscriptionConfig(enabled=False)
    zai: ProviderConfig = ProviderConfig()
    model_fallback_map: dict[str, str] = {}
    fallback_on_codes: tuple[int, ...] = ()
    log_level: LogLevel = "info"
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    redis_url: str | None = None
    home: str | None = None

    def environment(self) -> dict[str, str]:
        """Return the configuration as variables, so that both ways are validated by the same rules."""
        subscription = self.claude_subscription
        found = {
            "PROXY_PORT": str(self.port),
            "PROXY_HOST": self.host,
            "PROXY_API_KEYS": ",".join(self.api_keys),
            "ALLOWED_HOSTS": ",".join(self.allowed_hosts),
            "ALLOWED_ORIGINS": ",".join(self.allowed_origins),
            "CLAUDE_SUBSCRIPTION_ENABLED": str(subscription.enabled).lower(),
            "CLAUDE_CODE_OAUTH_TOKEN": subscription.oauth_token,
            "CLAUDE_CREDENTIALS_PATH": subscription.credentials_path,
            "CLAUDE_SUBSCRIPTION_BASE_URL": subscription.base_url or "",
            "SUBSCRIPTION_WEEKLY_LIMIT": str(subscription.weekly_limit),
            "MODEL_FALLBACK_MAP": ",".join(f"{name}={target}" for name, target in self.model_fallback_map.items()),
            "FALLBACK_ON_CODES": ",".join(str(code) for code in self.fallback_on_codes),
            "LOG_LEVEL": self.log_level,
            "REDIS_URL": self.redis_url or "",
            "CCPROXY_HOME": self.home or "",
        }
        for prefix, provider in (("ANTHROPIC", self.anthropic), ("ZAI", self.zai)):
            found[f"{prefix}_API_KEY"] = provider.api_key
            found[f"{prefix}_BASE_URL"] = provider.base_url or ""
            found[f"{prefix}_WEEKLY_LIMIT"] = str(provider.weekly_limit)
        return found


class ClaudeCodeProxy:
    """A proxy in this process and on this event loop. It serves from the return of `start` until that of `stop`.

    Raises SettingsError for an invalid configuration, and ProxyError if the address is in use.
    """

    def __init__(self, config: ProxyConfig | Settings | None = None) -> None:
        if not isinstance(config, Settings):
            config = from_variables((config or ProxyConfig()).environment())
            show_in_program(config.log_level, config.log_format)
        self.settings = config
        self._server: QuietServer | None = None
        self._drain = Drain()
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Its URL, for ANTHROPIC_BASE_URL."""
        return f"http://{self.settings.host}:{self.settings.port}{self.settings.base_path}"

    async def start(self, listener: socket.socket | None = None) -> None:
        """Listen (or use a given listening socket), and return once requests are served."""
        listener = listener or listen(self.settings)
        parts = app.Parts(self.settings)
        self._drain = parts.drain
        self._server = QuietServer(server_config(parts))
        self._task = asyncio.create_task(self._server.serve([listener]), name="proxy")
        async with asyncio.timeout(START_S):
            while not self._server.started:
                if self._task.done():
                    await self._task
                    raise ProxyError("the proxy stopped during start-up; see its log")
                await asyncio.sleep(0.01)
        log.info("proxy.started", extra={"url": self.url})

    async def stop(self) -> None:
        """Shut down gracefully: fail readiness at once, serve on for DRAIN_DELAY, let responses in progress finish
        within DRAIN_TIMEOUT, and save pending events."""
        if self._server is None or self._task is None:
            return
        drain, times = self._drain, self.settings.drain
        drain.begin()
        log.info("proxy.draining", extra={"requests": len(self._server.server_state.tasks)})
        await drain.wait(times.delay_ms / 1000)
        self._server.exit_soon()
        limit = asyncio.ensure_future(drain.wait(times.limit_ms / 1000))
        await asyncio.wait({self._task, limit}, return_when=asyncio.FIRST_COMPLETED)
        limit.cancel()
        drain.end()
        await asyncio.wait({self._task}, timeout=END_S)
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()  # its client does not even read the error
        await self._task
        self._server, self._task = None, None
        log.info("proxy.stopped")

    def stop_now(self) -> None:
        """Cancel requests in progress; for a `stop` in progress."""
        self._drain.end()

    async def wait(self) -> None:
        """Wait until the proxy ends by itself."""
        if self._task:
            await asyncio.shield(self._task)


class QuietServer(uvicorn.Server):
    """uvicorn's server without signal handlers, which belong to the embedding program."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._exiting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as in the base class
        """Capture nothing."""
        yield

    async def main_loop(self) -> None:
        """Look after slow clients, and return as soon as the server has to exit. uvicorn's own loop wakes an idle
        process ten times a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._exiting.wait()

    def exit_soon(self) -> None:
        """Begin uvicorn's own shutdown."""
        self.should_exit = True
        self._exiting.set()

    async def on_tick(self, counter: int) -> bool:
        """Disconnect slow clients."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, ClientConnection):
                connection.close_if_slow()
        return await super().on_tick(counter)


def server_config(parts: app.Parts) -> uvicorn.Config:
    """Return uvicorn's configuration: without its log and its headers."""
    return uvicorn.Config(
        app.create_app(parts),
        access_log=False,
        backlog=BACKLOG,
        date_header=False,
        http=partial(ClientConnection, shortcut=app.shortcut(parts)),  # type: ignore[arg-type] # as good as a class
        lifespan="on",
        log_config=None,
        loop="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=parts.settings.drain.limit_ms // 1000 + END_S,
        timeout_keep_alive=parts.settings.keep_alive_ms / 1000,  # type: ignore[arg-type] # a timer's delay
        ws="none",
    )


def listen(settings: Settings) -> socket.socket:
    """Return the listening socket. Raises ProxyError if the address is in use.

    Created with IPPROTO_TCP, because asyncio disables Nagle's algorithm only then; it would cost 40 ms per response.
    """
    listener = socket.socket(family_of(settings), socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ProxyError(
            f"{settings.host}:{settings.port} is not available ({error.strerror}); "
            "is a proxy already running there? Otherwise set PROXY_PORT to another port"
        ) from None
    listener.set_inheritable(False)
    return listener


def inherited(settings: Settings, descriptor: int) -> socket.socket:
    """Return the listening socket inherited from the parent; it is not inherited any further."""
    os.set_inheritable(descriptor, False)
    return socket.socket(family_of(settings), socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=descriptor)


def family_of(settings: Settings) -> socket.AddressFamily:
    """Return the address family: IPv6 for an address with colons."""
    return socket.AF_INET6 if ":" in settings.host else socket.AF_INET


def serve_forever(
    settings: Settings, listener: socket.socket | None = None, started: Callable[[], None] = lambda: None
) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit status.

    `listener`: a socket of the parent process, which has logged the settings' messages; `started` is called once
    requests are served.
    """
    set_up(settings.log_level, settings.log_format)
    if listener is None:
        log_notices(settings)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return runner.run(serve(settings, listener, started))
        except ProxyError as error:
            log.error(error.message)  # noqa: TRY400 - the message is sufficient
            return 1


def log_notices(settings: Settings) -> None:
    """Log what is worth knowing of the settings, and what is wrong with the proxies that the environment names."""
    for notice in (*settings.notices, *egress_mistakes(settings.outward_urls)):
        log.warning(notice)


def tune_collector() -> None:
    """Exclude start-up objects from garbage collection, and collect less often: requests' objects are freed by
    reference counting."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)


async def serve(settings: Settings, listener: socket.socket | None, started: Callable[[], None]) -> int:
    """Start, wait for a signal, stop. A second signal cancels requests in progress."""
    proxy = ClaudeCodeProxy(settings)
    ending = asyncio.Event()

    def note_signal() -> None:
        if ending.is_set():
            proxy.stop_now()
        ending.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, note_signal)
    await proxy.start(listener)
    tune_collector()
    started()
    ended = asyncio.ensure_future(proxy.wait())
    asked = asyncio.ensure_future(ending.wait())
    await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    ended.cancel()
    await proxy.stop()
    return 0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's factory if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
