"""`ccproxy demo`: `up` in a temporary folder, with fake providers and generated traffic.

None of the user's settings apply: no key, no `.env`, no address. So nothing can leave this machine. Not here: the
providers' responses (`demo_provider`) and the requests (`demo_traffic`).
"""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from service.embedded import folder
from service.embedded.program import Program, answers_livez
from service.embedded.screen import Screen, proxy_url
from service.embedded.up import ProcessSet, process_set, run
from service.telemetry.safe_console import Text

if TYPE_CHECKING:
    from service.settings import Settings

KEPT = ("CCPROXY_POSTGRES_BIN", "CCPROXY_REDIS_BIN", "LOG_LEVEL", "LOG_FORMAT")
"""Variables that also apply to the demo."""
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
CLIENTS = ("alice", "bob", "ci")
ANTHROPIC_TOKENS = 80_000
"""Used up within a minute of the demo's traffic, so that the change of route can be watched."""
HOST = "127.0.0.1"


def run_demo(port: int | None = None) -> int:
    """Run until stopped and return the exit status. Its folder is deleted afterwards."""
    with temporary_home() as home:
        proxy_port = port or folder.choose_port(home.parent / "proxy-port")
        provider_port = folder.choose_port(home.parent / "provider-port")
        replace_environ(demo_environ(home, proxy_port, provider_port))
        os.chdir(home.parent)  # away from the user's `.env`
        from service.settings import load

        return run(load(), build=lambda settings: demo_household(settings, provider_port), screen=DemoScreen())


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Create a folder for all files, deleted at the end."""
    place = Path(tempfile.mkdtemp(prefix="ccproxy-demo-"))
    if os.geteuid() == 0:
        place.chmod(0o711)  # root's servers run as another user, who has to traverse it
    try:
        yield place / "home"
    finally:
        os.chdir("/")
        shutil.rmtree(place, ignore_errors=True)


def demo_environ(home: Path, proxy_port: int, provider_port: int) -> dict[str, str]:
    """Return the demo's settings as variables."""
    providers = f"http://{HOST}:{provider_port}"
    return {
        "CCPROXY_HOME": str(home),
        "PROXY_HOST": HOST,
        "PROXY_PORT": str(proxy_port),
        "PROXY_API_KEYS": ",".join(f"{name}:{secrets.token_hex(16)}" for name in CLIENTS),
        "ADMIN_TOKEN": secrets.token_hex(12),
        "ANTHROPIC_API_KEY": "demo-anthropic",
        "ANTHROPIC_BASE_URL": f"{providers}/anthropic",
        "ANTHROPIC_WEEKLY_LIMIT": str(ANTHROPIC_TOKENS),
        "CLAUDE_CODE_OAUTH_TOKEN": "demo-subscription",
        "CLAUDE_SUBSCRIPTION_BASE_URL": f"{providers}/subscription",
        "SUBSCRIPTION_WEEKLY_LIMIT": str(10 * ANTHROPIC_TOKENS),
        "ZAI_API_KEY": "demo-zai",
        "ZAI_BASE_URL": f"{providers}/zai",
        "CIRCUIT_BREAKER_COOLDOWN_MS": "8000",
        "LOG_LEVEL": "warn",
    }


def replace_environ(environ: Mapping[str, str]) -> None:
    """Replace all variables that the user has set for the proxy with these."""
    from service.settings import VARIABLES

    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    for name in (*(variable.name for variable in VARIABLES), *PROXIES, "CCPROXY_CONFIG"):
        os.environ.pop(name, None)
    os.environ.update({**environ, **kept})


def demo_household(settings: "Settings", provider_port: int) -> ProcessSet:
    """Return the processes of `up`, with fake providers and traffic."""
    house = process_set(settings)
    providers = Program(
        "providers",
        module_command("demo_provider", str(provider_port)),
        title="fake providers",
        is_ready=lambda _: answers_livez(HOST, provider_port),
    )
    traffic = Program(
        "traffic", module_command("demo_traffic", proxy_url(settings)), title="generated traffic", needs=("proxy",)
    )
    return house._replace(children=(providers, *house.children, traffic))


def module_command(name: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of the demo; see `own_command`."""
    return [sys.executable, "-P", "-m", f"service.embedded.{name}", *arguments]


class DemoScreen(Screen):
    """`up`'s screen, marked as a demo."""

    def banner(self, settings: "Settings", logs: Path) -> None:
        """Print where to look."""
        url, home = proxy_url(settings), logs.parent
        self.note("")
        self._say(
            Text.assemble((" DEMO ", "black on yellow"), "  fake providers, generated traffic: no key is used, nothing")
        )
        self._say(Text("        leaves this machine, and all data is deleted at the end"))
        self.note("")
        self._say(Text.assemble("  dashboard  ", (f"{url}/dashboard", "bold green")))
        self._say(Text(f"  token      {settings.admin_token.reveal()}"))
        commands = (f"export CCPROXY_HOME={home}", "ccproxy status --watch", "ccproxy routes disable zai")
        for line in ("", "In another terminal:", "", *(f"  {command}" for command in commands), ""):
            self._say(Text(line, style="bold"))
        self._say(Text("Events are shown below. Ctrl-C stops everything.", style="dim"))
        self.note("")
