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
import logging
import os
import signal
import socket
from collections.abc import Callable

import uvicorn
from msgspec import Struct

from service.app import create_app
from service.errors import ProxyError, SettingsError
from service.log import set_up, show_in_program
from service.settings import LogLevel, Settings, from_variables

log = logging.getLogger("ccproxy.proxy")

DRAIN_S = 10
"""How long answers in flight may take to end when the proxy is told to stop."""
START_S = 15.0
"""Longer than any start takes; then something is wrong."""
BACKLOG = 2048
KEEP_ALIVE_S = 75
"""Longer than clients keep a connection idle between two turns of a tool round trip."""


class ProviderConfig(Struct, frozen=True, kw_only=True):
    """A provider's key and address; None takes the usual address."""

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
    """What a program sets. Nothing is read from the environment; a route without a credential is off.

    `redis_url` None: no ledger beyond this process, its counts end with it. `home` is where the spool lies.
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
    redis_url: str | None = None
    home: str | None = None

    def environment(self) -> dict[str, str]:
        """The same as variables, so that both ways are checked by the same rules."""
        subscription = self.claude_subscription
        found = {
            "PROXY_PORT": str(self.port),
            "PROXY_HOST": self.host,
            "PROXY_API_KEYS": ",".join(self.api_keys),
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
    """A proxy in this process and on this event loop. It serves once `start` has returned, until `stop` has.

    Raises SettingsError for a config that can't be used, and ProxyError when the address is taken.
    """

    def __init__(self, config: ProxyConfig | Settings | None = None) -> None:
        if not isinstance(config, Settings):
            config = from_variables((config or ProxyConfig()).environment())
            show_in_program(config.log_level, config.log_format)
        self.settings = config
        self._server: QuietServer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it serves: what ANTHROPIC_BASE_URL is set to."""
        return f"http://{self.settings.host}:{self.settings.port}{self.settings.base_path}"

    async def start(self) -> None:
        """Listen, and return once requests are answered."""
        listener = listen(self.settings)
        self._server = QuietServer(server_config(self.settings))
        self._task = asyncio.create_task(self._server.serve([listener]), name="proxy")
        async with asyncio.timeout(START_S):
            while not self._server.started:
                if self._task.done():
                    await self._task
                    raise ProxyError("the proxy ended while it was starting; its log has the reason")
                await asyncio.sleep(0.01)
        log.info("proxy.started", extra={"url": self.url})

    async def stop(self) -> None:
        """Let answers in flight end, within 10 s; write down what is still to be written down."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await self._task
        self._server, self._task = None, None
        log.info("proxy.stopped")

    async def wait(self) -> None:
        """Wait until the proxy ends by itself."""
        if self._task:
            await asyncio.shield(self._task)


class QuietServer(uvicorn.Server):
    """Leaves signals to the program that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as in the base class
        """Nothing to capture."""
        yield


def server_config(settings: Settings) -> uvicorn.Config:
    """How uvicorn serves: no log of its own, no headers that say what it is."""
    return uvicorn.Config(
        create_app(settings),
        access_log=False,
        backlog=BACKLOG,
        date_header=False,
        http="httptools",
        lifespan="on",
        log_config=None,
        loop="none",
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=DRAIN_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        ws="none",
    )


def listen(settings: Settings) -> socket.socket:
    """The listening socket. Raises ProxyError when the address is taken.

    Made with IPPROTO_TCP, because asyncio switches Nagle's delay off on no other; it costs 40 ms an answer.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ProxyError(
            f"{settings.host}:{settings.port} can't be listened on ({error.strerror}); "
            "is a proxy running there already? Else set PROXY_PORT to another port"
        ) from None
    listener.set_inheritable(False)
    return listener


def serve_forever(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM. Returns the exit status."""
    set_up(settings.log_level, settings.log_format)
    for notice in settings.notices:
        log.warning(notice)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return runner.run(serve(settings))
        except SettingsError as error:
            log.error(error.message)  # noqa: TRY400 - the message says it all
            return 1
        except ProxyError as error:
            log.error(error.message)  # noqa: TRY400 - likewise
            return 1


async def serve(settings: Settings) -> int:
    """Start, wait for the end, stop."""
    proxy = ClaudeCodeProxy(settings)
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.set)
    await proxy.start()
    ended = asyncio.ensure_future(proxy.wait())
    asked = asyncio.ensure_future(ending.wait())
    await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    ended.cancel()
    await proxy.stop()
    return 0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
