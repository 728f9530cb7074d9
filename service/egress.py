"""How this process reaches the network: by which proxy, and trusting which certificates. One reading for all that goes
out: requests to providers, the token endpoint, reports, checks.

- The proxy of a URL is HTTPS_PROXY or HTTP_PROXY by its scheme, else ALL_PROXY (lower case goes first; macOS has system
  settings too), unless NO_PROXY excludes it. The loopback is always reached directly: a proxy would connect to its own,
  and receive the provider's key. SOCKS 5 is supported.
- Certificates are those of SSL_CERT_FILE and SSL_CERT_DIR, or else the packaged ones. Python 3.13 began to refuse
  certificates of authorities without the extensions that RFC 5280 asks for; companies have such, so it is not asked for
  here, on no version.

Not here: opening connections (`http1`).
"""

import os
import ssl
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi

from service.no_proxy import is_direct, is_loopback, names_host

USUAL_PORTS = {"http": 80, "https": 443}
PROXY_VARIABLES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
"""Where programs look for a proxy."""
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
C = TypeVar("C", bound=ssl.SSLContext)


class UnusableProxy(Exception):
    """A variable that is not the URL of a proxy; the message names it, and repeats no password."""


class UnusableCertificates(OSError):
    """Certificates that can't be loaded; the message names the variable."""


class Proxy(NamedTuple):
    """A proxy, and the variable that names it."""

    url: str
    variable: str


def proxy_for(url: str, proxies: Mapping[str, str] | None = None) -> Proxy | None:
    """Return the proxy for a URL, None to connect directly. `proxies`: as from `getproxies`. Raises UnusableProxy."""
    proxies = getproxies() if proxies is None else proxies
    parts = urlsplit(url)
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    named = proxies.get(scheme, "")
    host, port = parts.hostname or "", parts.port or USUAL_PORTS.get(parts.scheme, 0)
    if not named or is_loopback(host) or is_direct(host, port, proxies.get("no", "")) or proxy_bypass(host):
        return None
    return usable_proxy(named, variable_of(scheme))


def no_proxy_for_clients(url: str, environ: Mapping[str, str]) -> str:
    """Return the NO_PROXY with which clients of this shell reach a URL on this machine; "" if they do anyway."""
    direct = [environ[name] for name in ("NO_PROXY", "no_proxy") if environ.get(name)]
    host = urlsplit(url).hostname or ""
    is_caught = is_loopback(host) and any(environ.get(name) for name in PROXY_VARIABLES)
    return ",".join((*direct[:1], host)) if is_caught and not names_host(" ".join(direct), url) else ""


def egress_mistakes(urls: Iterable[str]) -> tuple[str, ...]:
    """Return what is wrong with the proxies by which these URLs would be reached, and with the certificates that would
    be trusted there, each mistake once."""
    found: dict[str, None] = {}
    for url in urls:
        try:
            proxy_for(url)
            if urlsplit(url).scheme == "https":
                tls_context()
        except (UnusableProxy, UnusableCertificates) as error:
            found[str(error)] = None
    return tuple(found)


def usable_proxy(text: str, variable: str) -> Proxy:
    """Return a proxy that the transport supports. Raises UnusableProxy."""
    text = text if "://" in text else f"http://{text}"
    scheme, _, rest = text.partition("://")
    scheme = "socks5" if scheme.lower() == "socks" else scheme.lower()
    if scheme not in PROXY_SCHEMES:
        supported = ", ".join(f"{scheme}://" for scheme in PROXY_SCHEMES)
        raise UnusableProxy(f"{variable} has a proxy of an unsupported kind; use one of {supported}")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        is_good = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_good = False
    if not is_good:
        raise UnusableProxy(f"{variable} is not the URL of a proxy, such as http://host:3128")
    return Proxy(f"{scheme}://{rest}", variable)


def variable_of(scheme: str) -> str:
    """Return the variable that names the proxy of a scheme, as the environment spells it."""
    name = f"{scheme}_proxy"
    return next((found for found in (name, name.upper()) if os.environ.get(found)), name.upper())


def tls_context() -> ssl.SSLContext:
    """Return a context for clients. Raises UnusableCertificates."""
    return with_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def with_certificates(context: C) -> C:
    """Let a context trust this process's certificates. Raises UnusableCertificates."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    try:
        context.load_verify_locations(file or (None if folder else certifi.where()), folder or None)
    except ssl.SSLError:
        raise UnusableCertificates(f"SSL_CERT_FILE: {file} has no certificate in PEM format; correct it") from None
    except OSError as error:
        raise UnusableCertificates(f"SSL_CERT_FILE: {file} can't be read ({error.strerror}); correct it") from None
    if folder and not file and not any(map(os.path.isdir, folder.split(os.pathsep))):
        raise UnusableCertificates(f"SSL_CERT_DIR: {folder} is no folder; correct it")
    return context
