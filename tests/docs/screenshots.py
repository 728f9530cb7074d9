"""Screenshots of the dashboard for the documentation: `make screenshots`.

Starts `ccproxy demo`, opens its dashboard in Chromium, waits until there is something to see, and writes
`docs/images/*.png`. Not a test; run it after the dashboard's appearance changed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
CCPROXY = Path(sys.executable).with_name("ccproxy")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
VIEWPORT: ViewportSize = {"width": 1280, "height": 900}
MARGIN = 20
MOST_BYTES = 200_000
START_MS, EVENT_MS = 60_000, 120_000
"""The demo's script takes 89 seconds; then it starts over."""
MORE_MS = 3_000
"""Until the requests of the failover have ended, and the page shows it."""
Scheme = Literal["light", "dark"]


@contextmanager
def running_demo() -> Iterator[tuple[str, str]]:
    """A demo, as the dashboard's address and token. Everything it started ends with it."""
    command = [str(CCPROXY), "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        said = ""
        try:
            while not (found := re.search(r"dashboard\s+(http\S+)\n\s+token\s+(\S+)", said)):
                line = demo.stdout.readline()
                assert line, f"`ccproxy demo` ended: {said}"
                said += line
            yield found[1], found[2]
        finally:
            demo.terminate()
            demo.communicate(timeout=60)


def open_dashboard(browser: Browser, url: str, token: str, scheme: Scheme) -> Page:
    """A logged-in page."""
    page = browser.new_context(viewport=VIEWPORT, color_scheme=scheme, reduced_motion="reduce").new_page()
    page.set_default_timeout(START_MS)
    page.goto(url)
    page.get_by_label("Dashboard token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
    return page


def show(page: Page, place: str) -> None:
    """Go to one of the dashboard's pages and wait until it has loaded."""
    page.evaluate("place => { location.hash = place }", place)
    expect(page.locator("main")).to_be_visible()
    expect(page.locator(".boot")).to_have_count(0)


def bottom_of_routes(page: Page) -> float:
    """Where the routes end, so that a picture of them cuts nothing in two."""
    boxes = [box for card in page.get_by_role("article").all() if (box := card.bounding_box())]
    return max(box["y"] + box["height"] for box in boxes) + MARGIN


def take(page: Page, name: str, height: float = VIEWPORT["height"]) -> None:
    """Write one screenshot."""
    file = IMAGES / f"{name}.png"
    page.screenshot(path=file, clip={"x": 0, "y": 0, "width": VIEWPORT["width"], "height": height})
    size = file.stat().st_size
    assert size <= MOST_BYTES, f"{file.name} has {size} bytes; the limit is {MOST_BYTES}"
    print(f"{file.relative_to(ROOT)}  {size / 1000:.0f} KB")  # noqa: T201 - a command's output


def main() -> None:
    """Write all of them."""
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        sys.exit("chromium is not installed; on Debian and Ubuntu: apt-get install chromium")
    with running_demo() as (url, token), sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        light, dark = (open_dashboard(browser, url, token, scheme) for scheme in ("light", "dark"))
        failover = light.get_by_role("listitem").filter(has_text="Claude subscription → Z.AI").first
        expect(failover).to_be_visible(timeout=EVENT_MS)
        request = failover.get_by_role("link").first.get_attribute("href")
        assert request
        light.wait_for_timeout(MORE_MS)
        take(light, "dashboard", bottom_of_routes(light))
        take(dark, "dashboard-dark", bottom_of_routes(dark))
        for name, place in (("usage", "#/usage"), ("request", request)):
            show(light, place)
            light.wait_for_timeout(MORE_MS)
            take(light, name)
        browser.close()


if __name__ == "__main__":
    main()
