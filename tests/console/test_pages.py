"""The dashboard as it is served: whole, unchanged, from here alone."""

import re
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import get_args

import pytest

from service.console.pages import ASSETS, CURRENT, PAGE_BODY, read_assets
from service.ledger.events import Event
from tests.support.proxies import Server, Serving, server_of

VENDORED = {
    "vendor/uPlot.LICENSE.txt": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "vendor/uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "vendor/uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""uPlot 1.6.32, as its authors made it."""
OWN = {name: asset.body.decode() for name, asset in ASSETS.items() if name not in VENDORED}
ADDRESS = re.compile(r"https?://(?!www\.w3\.org/2000/svg)[\w.-]+")


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    async with server_of(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
async def served(server: Server) -> Serving:
    return await server.start()


def test_what_is_not_ours_is_unchanged() -> None:
    found = {name: sha256(asset.body).hexdigest() for name, asset in ASSETS.items() if name.startswith("vendor/")}
    assert found == VENDORED


def test_every_import_and_address_of_the_page_is_there() -> None:
    """A name that leads nowhere would only be noticed in a browser."""
    for name, text in OWN.items():
        for imported in re.findall(r'^(?:import|} from).*?"\./([^"]+)";$', text, re.MULTILINE):
            assert imported in ASSETS, (name, imported)
    named = re.findall(rf'"dashboard/{CURRENT}/([^"]+)"', PAGE_BODY.decode())
    assert len(named) > 4
    assert set(named) <= set(ASSETS)


@pytest.mark.parametrize("name", OWN)
def test_nothing_comes_from_elsewhere(name: str) -> None:
    """Neither an address of another host, nor what makes markup of text."""
    assert ADDRESS.findall(OWN[name]) == []
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", OWN[name])


def test_the_page_has_no_script_of_its_own() -> None:
    page = PAGE_BODY.decode()
    assert ADDRESS.findall(page) == []
    assert re.findall(r"<script(?![^>]* src=)|\son\w+=|<style|\sstyle=", page) == []


async def test_the_page_asks_for_no_token_and_allows_its_own_files_alone(served: Serving) -> None:
    answer = await served.http.get("/dashboard")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ") if " " in part)
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    again = await served.http.get("/dashboard", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    slash = await served.http.get("/dashboard/")
    assert (slash.status_code, slash.headers["location"]) == (308, "../dashboard")


async def test_assets_are_kept_for_ever_under_the_name_of_their_content(served: Serving) -> None:
    """Under another version's name they are sent, and not kept; a name that leads nowhere is a 404."""
    for name, asset in ASSETS.items():
        answer = await served.http.get(f"/dashboard/{CURRENT}/{name}")
        assert (answer.status_code, answer.content) == (200, asset.body)
        assert answer.headers["content-type"].removesuffix("; charset=utf-8") == asset.media_type
        assert "immutable" in answer.headers["cache-control"]
    older = await served.http.get("/dashboard/0123456789ab/main.js")
    assert (older.status_code, older.headers["cache-control"]) == (200, "no-store")
    for lost in ("nothing.js", "../pages.py", "%2e%2e/pages.py", "vendor"):
        assert (await served.http.get(f"/dashboard/{CURRENT}/{lost}")).status_code == 404, lost


def test_every_event_can_be_filtered_for() -> None:
    """The page's list is the ledger's."""
    tags = {str(kind.__struct_config__.tag) for kind in get_args(Event)}
    listed = re.search(r"const TYPES = \[(.*?)\];", OWN["events.js"], re.DOTALL)
    assert listed
    assert set(re.findall(r'"(\w+)"', listed[1])) == tags


def test_only_known_types_are_sent(tmp_path: Path) -> None:
    """What an editor leaves in the folder is no asset."""
    (tmp_path / "a.js").write_text("1", "utf-8")
    (tmp_path / "a.js~").write_text("2", "utf-8")
    assert list(read_assets(tmp_path)) == ["a.js"]
