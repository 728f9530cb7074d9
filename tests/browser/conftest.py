"""A whole installation, and Debian's Chromium before it.

Everything here is of the package's scope: Playwright keeps an event loop running on this thread for as long as it
lives, and the asynchronous tests of other packages could not start theirs.
"""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, Request, sync_playwright

from tests.browser.looking import ADMIN, VIEWER, log_in
from tests.support.installation import Installation, Proxy
from tests.support.messages import client_of

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--host-resolver-rules=MAP evil.example 127.0.0.1",
    "--disable-features=LocalNetworkAccessChecks",
)  # fmt: skip
"""Chromium asks before a public page reaches the loopback; other browsers do not, so that nothing may rest on it."""
WAIT_MS = 15_000
DESKTOP = {"width": 1280, "height": 900}

Open = Callable[..., Page]


@pytest.fixture(scope="package")
def shared_installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The installation of these tests."""
    with Installation(tmp_path_factory.mktemp("installation")) as made:
        yield made


@pytest.fixture(scope="package")
def proxy(shared_installation: Installation) -> Proxy:
    """Its proxy, whose tokens the tests know."""
    return shared_installation.start_proxy({"ADMIN_TOKEN": ADMIN, "VIEWER_TOKEN": VIEWER})


@pytest.fixture
def installation(shared_installation: Installation) -> Installation:
    """The installation with fakes that have forgotten the last test."""
    return shared_installation.fresh()


@pytest.fixture
def http(proxy: Proxy) -> Iterator[httpx.Client]:
    """A client of the proxy."""
    with client_of(proxy.url) as client:
        yield client


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as made:
        yield made


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    found = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("chromium is not installed; on Debian and Ubuntu: apt-get install chromium")
    made = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
    yield made
    made.close()


class Complaints(list[str]):
    """What a browser complained of, or asked of others than the proxy, but for what a test brings about itself."""

    def __init__(self, home: str) -> None:
        super().__init__()
        self.homes: tuple[str, ...] = (home,)
        self.expected: tuple[str, ...] = ()

    def listen(self, page: Page) -> None:
        """Hear of everything."""
        page.on("console", lambda message: self.note(message.type, message.text))
        page.on("pageerror", lambda error: self.note("error", str(error)))
        page.on("request", self.look)

    def note(self, kind: str, words: str) -> None:
        """Take note of what is worse than information."""
        if kind in ("error", "warning") and not any(one in words for one in self.expected):
            self.append(f"{kind}: {words}")

    def look(self, request: Request) -> None:
        """Nothing is loaded from elsewhere."""
        if not request.url.startswith((*self.homes, "data:")):
            self.append(f"asked for {request.url}")


@pytest.fixture
def complaints(proxy: Proxy) -> Iterator[Complaints]:
    """What goes wrong in the browser fails the test, at its end."""
    made = Complaints(proxy.url)
    yield made
    assert list(made) == []


@pytest.fixture
def visit(browser: Browser, proxy: Proxy, complaints: Complaints) -> Iterator[Open]:
    """Opens the dashboard: `visit("#/events", token=VIEWER, color_scheme="dark", ...)`; token "" stays at the door."""
    contexts: list[BrowserContext] = []

    def open_page(place: str = "#/", *, token: str = ADMIN, url: str = proxy.url, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        complaints.listen(page)
        page.goto(f"{url}/dashboard{place}")
        if token:
            log_in(page, token)
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            # The dashboard goes on asking: an answer that a handler is about to change would go with the page.
            page.unroute_all(behavior="wait")
        context.close()
