"""Parsers of single values: from the text of a variable to what a field holds.

Each raises ValueError with what is wrong and how to fix it; the caller adds the name of the variable or the place in
the file. Not here: numbers (`quantities`), and which variable has which
parser (the declarations in `shapes` and its neighbours).
"""

import ipaddress
import re
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import msgspec

from service.settings.address import Noticed, bracketed

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|)")
UNIT_MS = {"ms": 1, "s": 1_000, "": 1_000, "m": 60_000}
DAY_MS = 86_400_000
BASE_PATH = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")
"""Characters that are the same in a URL and decoded."""
HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?|[0-9a-f:.]{2,45}")
ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?|\[[0-9a-f:.]{2,45}\])(?::\d{1,5})?"
)
USUAL_PORTS = {"http": ":80", "https": ":443"}
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def duration_ms(text: str) -> int:
    """Milliseconds of a duration up to one day: `5s`, `0.5m`, `500ms`; a bare number is seconds."""
    found = DURATION.fullmatch(text.lower())
    time_ms = float(found[1]) * UNIT_MS[found[2]] if found else -1
    if not 0 <= time_ms <= DAY_MS:
        raise ValueError(f"{text!r} is not a duration of up to one day, such as 5s or 500ms")
    return round(time_ms)


def flag(text: str) -> bool:
    """True or false."""
    word = text.lower()
    if word not in TRUE + FALSE:
        raise ValueError(f"{word!r} is neither true nor false")
    return word in TRUE


def choice(text: str, choices: tuple[str, ...]) -> str:
    """One of a few words, in any case."""
    word = text.lower()
    if word not in choices:
        raise ValueError(f"{word!r} is not one of {', '.join(choices)}")
    return word


def http_url(text: str) -> str:
    """An http or https URL, without a trailing slash; it must not have credentials, a query or a fragment.

    An error repeats nothing of it: users put keys into the wrong variable.
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise ValueError("not a URL; use one such as https://api.anthropic.com") from None
    if "@" in text or parts.query or parts.fragment:
        raise ValueError("must be an address alone, without credentials, query or fragment")
    if parts.scheme not in ("http", "https") or not host or not HOST_NAME.fullmatch(host):
        raise ValueError("not an http or https URL; use one such as https://api.anthropic.com")
    return text.rstrip("/")


def without_paths(text: str, *paths: str) -> Noticed:
    """An http or https URL; a path that is added to it for each request, and was given as well, is left out."""
    url = http_url(text)
    for path in paths:
        if url.lower().endswith(path):
            return Noticed(
                url[: -len(path)].rstrip("/"), (f"{path} at its end was left out: the proxy adds it to each request",)
            )
    return Noticed(url, ())


def provider_url(text: str) -> Noticed:
    """The base URL of a provider."""
    return without_paths(text, "/v1/messages", "/v1")


def traces_url(text: str) -> Noticed:
    """The endpoint of OTLP over HTTP."""
    return without_paths(text, "/v1/traces")


def listen_host(text: str) -> str:
    """An address to listen on: a name or an IP address, without scheme and port."""
    host = text.removeprefix("[").removesuffix("]").lower()
    if not HOST_NAME.fullmatch(host) or (":" in host and not is_ip_address(host)):
        raise ValueError("not an address to listen on; use one without scheme and port, such as 0.0.0.0 or ::1")
    return host


def is_ip_address(text: str) -> bool:
    """True for an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def redacted_url(url: str) -> str:
    """A URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{bracketed(parts.hostname or '')}:{port_of(url)}{parts.path}"


def port_of(url: str) -> int:
    """The port of a URL, or the default port of its scheme."""
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def base_path(text: str) -> str:
    """A path prefix with a leading slash and without a trailing one."""
    stripped = text.strip("/")
    if stripped and not BASE_PATH.fullmatch(stripped):
        raise ValueError(
            f"{text!r} has characters other than letters, digits, `-`, `_`, `~`, inner dots and single slashes; use a "
            "prefix such as /anthropic"
        )
    if stripped.partition("/")[0].lower() == "v1":
        raise ValueError(
            "/v1 is the path of the Messages API, which load balancers open to clients; use another prefix"
        )
    return f"/{stripped}" if stripped else ""


def listed(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks, comma-separated."""
    try:
        return tuple(ipaddress.ip_network(part, strict=False) for part in listed(text))
    except ValueError as error:
        raise ValueError(f"{error}; use addresses or networks such as 10.0.0.0/8") from None


def host_names(text: str) -> tuple[str, ...]:
    """Host names and addresses without scheme and port, comma-separated."""
    names = tuple(part.lower().strip("[]").removesuffix(".") for part in listed(text))
    for name in names:
        if not HOST_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a host name; use names without scheme and port, such as proxy.example")
    return names


def origins(text: str) -> tuple[str, ...]:
    """Origins of web pages, comma-separated, in the form that browsers send."""
    return tuple(map(origin_of, listed(text)))


def origin_of(text: str) -> str:
    """An origin in the form that browsers send: the default port of a scheme is left out."""
    origin = text.lower().removesuffix("/")
    if not ORIGIN.fullmatch(origin):
        raise ValueError(
            f"{text!r} is not an origin; use scheme and host, such as https://app.example (`*` and `null` would "
            "allow any web page)"
        )
    return origin.removesuffix(USUAL_PORTS.get(origin.partition(":")[0], ""))


def status_codes(text: str) -> tuple[int, ...]:
    """HTTP statuses, comma-separated."""
    codes = listed(text.strip("[] "))
    if not all(code.isdecimal() and 400 <= int(code) <= 599 for code in codes):
        raise ValueError(f"{text!r} is not a list of HTTP statuses from 400 to 599")
    return tuple(map(int, codes))


def model_map(text: str) -> dict[str, str]:
    """A model map from a JSON object or from `from=to` pairs."""
    if text.startswith("{"):
        try:
            return msgspec.json.decode(text, type=dict[str, str])
        except msgspec.DecodeError as error:
            raise ValueError(f"not a JSON object of strings ({error})") from None
    pairs = [(name.strip(), target.strip()) for name, _, target in (pair.partition("=") for pair in listed(text))]
    if not all(name and target for name, target in pairs):
        raise ValueError("use a JSON object, or pairs such as claude-opus=claude-opus-4-8")
    return dict(pairs)


def expanded(text: str) -> Path:
    """A path with the user's home in place of `~`; as it is where the user has none, as in some containers."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def home_folder(text: str) -> Path:
    """A folder as an absolute path."""
    path = expanded(text)
    if path.parts[:1] == ("~",):
        raise ValueError("this user has no home folder; set it to an absolute path")
    return path.absolute()
