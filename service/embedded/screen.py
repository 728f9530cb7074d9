"""Terminal output of `up`: a line for each step, the banner, and a line when a child ends or is ready again.

Coloured on a terminal, plain in a pipe (and with NO_COLOR). Not here: the proxy's own log, which is written to the
terminal directly. A closed terminal is not an error here, so that `up` can still stop its children.
"""

import io
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from service.egress import no_proxy_for_clients
from service.embedded.program import reachable_address
from service.telemetry.safe_console import SafeConsole, Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from service.embedded.supervisor import Child
    from service.settings import Route, Settings

TAIL_LINES = 12
TAIL_BYTES = 8 * 1024


class Screen:
    """Writes to stdout, and errors to stderr."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without a check mark shows a question mark
        self._out = SafeConsole(soft_wrap=True)
        self._err = SafeConsole(soft_wrap=True, stderr=True)

    def ready(self, child: "Child", took_ms: int, *, again: bool) -> None:
        """Show that a step is done, or that a child is ready again."""
        back = "restarted: " if again else ""
        self._say(Text.assemble("  ", ("✓", "green"), f" {back}{child.title} ", (f"({took_ms / 1000:.1f} s)", "dim")))

    def show_external(self, name: str, where: str) -> None:
        """Show a server that the settings name, and that `up` does not start."""
        self._say(Text.assemble("  ", ("✓", "green"), f" {name} at {where} (from the settings)"))

    def ended(self, child: "Child", how: str, wait_ms: int) -> None:
        """Show that a child ended and will be restarted."""
        self._say(Text.assemble("  ", ("!", "yellow"), f" {child.name} {how}; restarting in {wait_ms / 1000:.1f} s"))

    def given_up(self, child: "Child", how: str, starts: int) -> None:
        """Show that a child can't be started."""
        self.fail(f"{child.name} {how}. It failed to start {starts} times within a minute; stopping.")
        if child.log is not None:
            for line in _tail(child.log):
                self._say(Text(line.expandtabs(), style="dim"), error=True)
            self._say(Text(f"Log: {child.log}"), error=True)

    def fail(self, message: str) -> None:
        """Show an error and its fix."""
        first, *more = message.splitlines() or [""]
        self._say(Text.assemble(("✗ ", "bold red"), first), error=True)
        for line in more:
            self._say(Text(line.expandtabs()), error=True)

    def note(self, message: str) -> None:
        """Show a line."""
        self._say(Text(message))

    def banner(self, settings: "Settings", logs: Path) -> None:
        """Show the address, routes and folders, and how to configure Claude Code."""
        self._say(Text())
        self._say(Text.assemble("Claude Code Proxy is running on ", (proxy_url(settings), "bold green")))
        self._say(Text())
        for number, route in enumerate(settings.routes, 1):
            self._say(_route_line(number, route))
        if all(route.off for route in settings.routes):
            self._say(Text(_without_routes(settings)))
        self._say(Text())
        self._say(Text(f"  dashboard  {proxy_url(settings)}/dashboard   (token: `{_command()} admin token`)"))
        self._say(Text(f"  data       {settings.home}"))
        self._say(Text(f"  logs       {logs}"))
        self._say(Text())
        self._say(Text("Point Claude Code at it:"))
        self._say(Text())
        self._say(Text(f"  export ANTHROPIC_BASE_URL={proxy_url(settings)}", style="bold"))
        if direct := no_proxy_for_clients(proxy_url(settings), os.environ):
            self._say(Text.assemble((f"  export NO_PROXY={direct}", "bold"), "   (a proxy is set in this shell)"))
        if settings.asks_for_keys:
            self._say(Text.assemble(("  export ANTHROPIC_AUTH_TOKEN=...", "bold"), f"   {_whence_a_key(settings)}"))
        self._say(Text("  claude", style="bold"))
        self._say(Text())
        self._say(Text("Ctrl-C stops everything.", style="dim"))

    def _say(self, text: "RenderableType", *, error: bool = False) -> None:
        with suppress(OSError, ValueError):
            (self._err if error else self._out).print(text)


def proxy_url(settings: "Settings") -> str:
    """Return the base URL for clients on this machine."""
    host = reachable_address(settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}{settings.base_path}"


def _route_line(number: int, route: "Route") -> "RenderableType":
    start = f"  {number}. {route.title:<24} "
    if route.off:
        return Text.assemble(start, ("off", "yellow"), f"  {route.off}")
    return Text.assemble(start, ("on", "green"), f"   {route.base_url}")


def _without_routes(settings: "Settings") -> str:
    if settings.client_credentials == "never":
        return "  No route has a credential, and CLIENT_CREDENTIALS=never: every request will be refused."
    return "  No route has a credential: each client's own is passed through to Anthropic only."


def _whence_a_key(settings: "Settings") -> str:
    if settings.ledger_keys:
        return f"(a client key: `{_command()} keys issue NAME`)"
    return "(a key from PROXY_API_KEYS)"


def _command() -> str:
    """Return the command as the user would type it: in a checkout, `ccproxy` is not on the PATH."""
    return "ccproxy" if shutil.which("ccproxy") else sys.argv[0]


def _tail(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return lines[-TAIL_LINES:]
