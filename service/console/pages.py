"""The dashboard's page and assets from `dashboard/`, read once at start-up and sent unchanged.

The page contains no data; it requests them from the admin API with the user's session. It loads nothing from other
hosts and runs only its own files, enforced by a content security policy. Not here: the data (`admin`).
"""

from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from litestar import Request, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Response
from msgspec import Struct

PAGE = "index.html"
DIGEST = "{digest}"
"""Placeholder in the page for the assets' digest."""
DIGEST_CHARS = 12
TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}
FOR_EVER = "public, max-age=31536000, immutable"
HEADERS = {"x-content-type-options": "nosniff", "cross-origin-resource-policy": "same-origin"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types"
)
PAGE_HEADERS = HEADERS | {
    "content-security-policy": POLICY,
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


class Asset(Struct, frozen=True):
    """A file and its media type."""

    body: bytes
    media_type: str


def read_assets(folder: Traversable, prefix: str = "") -> dict[str, Asset]:
    """Read all files of known types below a folder, by path."""
    found: dict[str, Asset] = {}
    for child in sorted(folder.iterdir(), key=lambda one: one.name):
        name = prefix + child.name
        if child.is_dir():
            found |= read_assets(child, f"{name}/")
        elif media_type := TYPES.get(name.rpartition(".")[2]):
            found[name] = Asset(child.read_bytes(), media_type)
    return found


def digest_of(assets: dict[str, Asset]) -> str:
    """Return a digest of all assets."""
    total = sha256()
    for name, asset in sorted(assets.items()):
        total.update(f"{name} {len(asset.body)}\n".encode() + asset.body)
    return total.hexdigest()[:DIGEST_CHARS]


ASSETS = read_assets(files("service.console") / "dashboard")
CURRENT = digest_of(ASSETS)
PAGE_BODY = ASSETS.pop(PAGE).body.replace(DIGEST.encode(), CURRENT.encode())
ETAG = f'"{CURRENT}"'


@get("/dashboard", include_in_schema=False, sync_to_thread=False)
def page(request: Request[Any, Any, Any]) -> Response[bytes]:
    """The dashboard. Asset URLs are relative, so that it works behind any prefix."""
    if request.scope["raw_path"].endswith(b"/"):
        return Response(b"", status_code=308, headers={"location": "../dashboard"})
    if request.headers.get("if-none-match") == ETAG:
        return Response(b"", status_code=304, headers=PAGE_HEADERS | {"etag": ETAG})
    return Response(PAGE_BODY, media_type=TYPES["html"], headers=PAGE_HEADERS | {"etag": ETAG})


@get("/dashboard/{digest:str}/{name:path}", include_in_schema=False, sync_to_thread=False)
def asset(digest: FromPath[str], name: FromPath[str]) -> Response[bytes]:
    """An asset. During an upgrade of a fleet, another replica's page may request it; it then gets this version."""
    found = ASSETS.get(name.removeprefix("/"))
    if found is None:
        raise NotFoundException
    caching = FOR_EVER if digest == CURRENT else "no-store"
    return Response(found.body, media_type=found.media_type, headers=HEADERS | {"cache-control": caching})


PAGES = (page, asset)
