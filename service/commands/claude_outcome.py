"""Works out whether Claude Code would reach the proxy, from all that it reads. Pure but for reading the settings files.

Claude Code takes a variable from managed settings, then a project's unshared and shared settings, then the user's, then
the shell. Not here: writing (`claude_settings`), and output (`claude`).
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from service.commands.claude_settings import (
    AUTH_TOKEN,
    BACKENDS,
    BASE_URL,
    NO_PROXY,
    PLACEHOLDER,
    ClaudeHome,
    env_of,
    project_settings,
    read,
    user_settings,
)
from service.egress import PROXY_VARIABLES
from service.loopback import is_loopback
from service.no_proxy import names_host

SHELL = "the shell's environment"
OFF = "0"
TRUE = {"1", "true", "yes", "on"}
UNIX_SOCKET = "ANTHROPIC_UNIX_SOCKET"
NO_PROXIES = (NO_PROXY, "no_proxy")


class VariableSource(NamedTuple):
    """A place from which Claude Code takes variables."""

    place: str
    env: Mapping[str, str]


class Found(NamedTuple):
    """A variable that Claude Code sees, and the place that sets it."""

    value: str
    place: str


class Obstacle(msgspec.Struct, frozen=True):
    """Something that keeps Claude Code from the proxy: the variable, the place that sets it, and the mend."""

    variable: str
    place: str
    mend: str

    @property
    def text(self) -> str:
        """Return the obstacle as a line for the terminal."""
        return f"{self.place} sets {self.variable}: {self.mend}"


def managed_folder() -> Path:
    """Return the folder of the settings that an administrator manages."""
    return Path("/Library/Application Support/ClaudeCode" if sys.platform == "darwin" else "/etc/claude-code")


def settings_paths(home: ClaudeHome, project: Path, managed: Path) -> list[Path]:
    """Return the settings files that Claude Code reads; the first that sets a variable wins."""
    drop_ins = sorted((managed / "managed-settings.d").glob("*.json"), reverse=True)
    shared = project_settings(project).with_name("settings.json")
    found = [*drop_ins, managed / "managed-settings.json", project_settings(project), shared, user_settings(home)]
    return list(dict.fromkeys(found))  # in the home folder, the project's and the user's settings are one file


def sources(paths: Sequence[Path], environ: Mapping[str, str]) -> list[VariableSource]:
    """Return where Claude Code takes variables from, in its order. Raises ClaudeError."""
    files = [VariableSource(str(path), strings(env_of(read(path).settings))) for path in paths]
    return [*files, VariableSource(SHELL, environ)]


def strings(env: Mapping[str, object]) -> dict[str, str]:
    """Return variables as a process sees them."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in env.items()}


def with_source(found: Sequence[VariableSource], place: str, more: Mapping[str, str]) -> list[VariableSource]:
    """Return the sources as they are once one of them has these variables as well."""
    return [VariableSource(each.place, {**each.env, **more}) if each.place == place else each for each in found]


def look_up(found: Sequence[VariableSource], name: str) -> Found | None:
    """Return what Claude Code sees of a variable."""
    return next((Found(source.env[name], source.place) for source in found if name in source.env), None)


def mends(found: Sequence[VariableSource], url: str) -> dict[str, str]:
    """Return the variables that take what stands in the way out of it, if their place is one that wins."""
    backends = {name: OFF for name in BACKENDS if is_on(look_up(found, name))}
    bypass = {NO_PROXY: bypassed(found, url)} if proxy_in_the_way(found, url) else {}
    return backends | bypass


def is_on(found: Found | None) -> bool:
    """True if a switch is on."""
    return found is not None and found.value.strip().lower() in TRUE


def bypassed(found: Sequence[VariableSource], url: str) -> str:
    """Return the hosts that are contacted directly, with the proxy's own."""
    before = look_up(found, NO_PROXY) or look_up(found, "no_proxy")
    return ",".join(part for part in (before.value if before else "", urlsplit(url).hostname or "") if part)


def proxy_in_the_way(found: Sequence[VariableSource], url: str) -> Found | None:
    """Return the HTTP proxy that catches requests to a loopback address, and the variable's place.

    Programs differ on networks in NO_PROXY, so an entry has to name the host.
    """
    direct = " ".join(each.value for name in NO_PROXIES if (each := look_up(found, name)))
    if not is_loopback(urlsplit(url).hostname or "") or names_host(direct, url):
        return None
    asked = ((name, look_up(found, name)) for name in PROXY_VARIABLES)
    return next((Found(name, each.place) for name, each in asked if each and each.value), None)


def obstacles(found: Sequence[VariableSource], wanted: Mapping[str, str]) -> list[Obstacle]:
    """Return what keeps Claude Code from the proxy, or from the key that it should send."""
    return [
        *backend_obstacles(found),
        *socket_obstacles(found),
        *overridden(found, wanted),
        *proxy_obstacles(found, wanted[BASE_URL]),
    ]


def backend_obstacles(found: Sequence[VariableSource]) -> Iterator[Obstacle]:
    """Find switches of other backends, which rank above the base URL."""
    for name, title in BACKENDS.items():
        switch = look_up(found, name)
        if switch and is_on(switch):
            mend = f"Claude Code sends its requests to {title} instead; remove it there"
            yield Obstacle(name, switch.place, mend)


def socket_obstacles(found: Sequence[VariableSource]) -> Iterator[Obstacle]:
    """Find the Unix socket that Claude Code would connect to, whatever the base URL."""
    socket = look_up(found, UNIX_SOCKET)
    if socket and socket.value:
        yield Obstacle(UNIX_SOCKET, socket.place, "Claude Code sends its requests to that socket; remove it there")


def overridden(found: Sequence[VariableSource], wanted: Mapping[str, str]) -> Iterator[Obstacle]:
    """Find addresses and tokens other than the wanted ones."""
    for name in (BASE_URL, AUTH_TOKEN):
        seen = look_up(found, name)
        if seen and seen.value != wanted.get(name, seen.value) and wanted[name] != PLACEHOLDER:
            other = f" to {seen.value}, which" if name == BASE_URL else " to another token, which"
            yield Obstacle(f"{name}{other} overrides the proxy's", seen.place, "remove it there")


def proxy_obstacles(found: Sequence[VariableSource], url: str) -> Iterator[Obstacle]:
    """Find the HTTP proxy that catches requests to the loopback."""
    caught = proxy_in_the_way(found, url)
    if caught:
        host = urlsplit(url).hostname
        mend = f"that proxy would get the requests to {host}; add {host} to NO_PROXY where it is set"
        yield Obstacle(caught.value, caught.place, mend)
