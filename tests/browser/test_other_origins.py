"""A browser with the dashboard open, and pages of other origins in it: what they reach of the proxy.

`tests/attacks/test_origins.py` has the same byte for byte.
"""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import WAIT_MS
from tests.browser.looking import ADMIN, log_in
from tests.support.installation import Installation, Proxy
from tests.support.messages import NO_TLS, STREAM

pytestmark = pytest.mark.e2e

PAGE = b"<!doctype html><meta charset=utf-8><title>page</title><p>another site"
SIMPLE = """async ([proxy, body]) => {
  const url = proxy + "/v1/messages", simple = {method: "POST", mode: "no-cors", body};
  const found = [];
  const note = (name, promise) => promise.then(() => found.push(name), () => {});
  await note("simple", fetch(url, simple));
  await note("credentials", fetch(url, {...simple, credentials: "include"}));
  navigator.sendBeacon(url, body);
  await new Promise((resolve) => {
    const image = new Image();
    image.onerror = image.onload = resolve; image.src = proxy + "/v1/models";
  });
  await note("script", new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.onload = resolve; script.onerror = reject; script.src = proxy + "/v1/models";
    document.head.append(script);
  }));
  await note("read", fetch(proxy + "/v1/models"));
  await note("preflight", fetch(url, {method: "POST", body, headers: {"content-type": "application/json"}}));
  await note("health", fetch(proxy + "/health"));
  await note("socket", new Promise((resolve, reject) => {
    const socket = new WebSocket(proxy.replace("http", "ws") + "/v1/messages");
    socket.onopen = resolve; socket.onerror = reject;
  }));
  return found;
}"""
FORM = """([proxy, body]) => {
  const form = document.createElement("form"), field = document.createElement("input");
  form.method = "post"; form.enctype = "text/plain"; form.action = proxy + "/v1/messages";
  field.name = body.slice(0, -1) + ', "x": "'; field.value = '"}';
  form.append(field); document.body.append(form); form.submit();
}"""
REBOUND = """async (body) => {
  const asked = [["/v1/messages", {method: "POST", body}], ["/v1/models"], ["/health"], ["/metrics"], ["/dashboard"]];
  const headers = {"x-forwarded-host": "localhost"};
  return Promise.all(asked.map(async ([path, init]) => (await fetch(path, {...init, headers})).status));
}"""
FRAME = """(url) => {
  const frame = document.createElement("iframe");
  frame.src = url;
  document.body.append(frame);
}"""
STREAMED = """async ([proxy, body]) => {
  const headers = {"content-type": "application/json", "x-api-key": "placeholder", "anthropic-version": "2023-06-01",
    "anthropic-dangerous-direct-browser-access": "true", "x-stainless-lang": "js"};
  const answer = await fetch(proxy + "/v1/messages?beta=true", {method: "POST", headers, body});
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", chunk;
  while (!(chunk = await reader.read()).done) text += chunk.value;
  const lost = await fetch(proxy + "/v1/nothing/at/all", {headers});
  return [answer.status, answer.headers.get("request-id"), text, lost.status, (await lost.json()).type];
}"""
SCRIPT = """(async () => {
  document.title = "ran";
  const session = await (await fetch("/admin/api/session")).json();
  const headers = {"content-type": "application/json", "x-ccproxy-csrf": session.csrf};
  const made = await fetch("/admin/api/keys", {method: "POST", headers, body: '{"name": "stolen"}'});
  document.title = "issued " + made.status;
})()"""
THEFT = f"<!doctype html><title>page</title><script>{SCRIPT}</script>"


class Site(ThreadingHTTPServer):
    """A web site on another port: one page, whatever is asked for."""

    def __init__(self, page: bytes = PAGE) -> None:
        super().__init__(("127.0.0.1", 0), SitePage)
        self.page = page
        self.url = f"http://localhost:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class SitePage(BaseHTTPRequestHandler):
    """The page."""

    server: Site

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(self.server.page)))
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, *_: Any) -> None:
        """Nothing to tell."""


@pytest.fixture(scope="module")
def sites() -> Iterator[tuple[Site, ...]]:
    """Two other web sites, and one that answers in the place of a provider."""
    made = Site(), Site(), Site(THEFT.encode())
    yield made
    for site in made:
        site.shutdown()
        site.server_close()


@pytest.fixture(scope="module")
def friendly(shared_installation: Installation, sites: tuple[Site, ...]) -> Iterator[Proxy]:
    """A proxy that allows the second site."""
    made = shared_installation.start_proxy({"ALLOWED_ORIGINS": sites[1].url})
    yield made
    made.stop()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(reduced_motion="reduce")
    made.set_default_timeout(WAIT_MS)
    yield made
    made.close()


@pytest.fixture
def logged_in(context: BrowserContext, proxy: Proxy) -> Page:
    """The dashboard in another tab, with an admin's session."""
    page = context.new_page()
    page.goto(f"{proxy.url}/dashboard")
    log_in(page, ADMIN)
    return page


@pytest.fixture
def body(installation: Installation) -> str:
    """What a page would send; the installation has forgotten the last test."""
    assert installation.anthropic.requests == []
    return httpx.Request("POST", "http://x", json=STREAM).content.decode()


def names_of_keys(proxy: Proxy) -> set[str]:
    """The names of all live client keys."""
    answer = httpx.get(f"{proxy.url}/admin/api/keys", headers={"authorization": f"Bearer {ADMIN}"}, verify=NO_TLS)
    return {key["name"] for key in answer.json()}


@pytest.mark.usefixtures("logged_in")
@pytest.mark.parametrize("own", ["127.0.0.1", "localhost"], ids=["cross-site", "same-site"])
def test_a_page_of_another_site_spends_nothing(
    context: BrowserContext, proxy: Proxy, installation: Installation, sites: tuple[Site, ...], body: str, own: str
) -> None:
    """Neither by simple requests nor by forms, images, scripts, beacons or sockets; and it reads nothing."""
    target = proxy.url.replace("127.0.0.1", own)
    page = context.new_page()
    page.goto(sites[0].url)
    assert page.evaluate(SIMPLE, [target, body]) in (["simple", "credentials"], [])
    with page.expect_navigation():
        page.evaluate(FORM, [target, body])
    expect(page.locator("body")).to_contain_text("ALLOWED_ORIGINS")
    assert [*installation.anthropic.requests, *installation.zai.requests] == []


def test_a_rebound_name_reads_nothing(
    context: BrowserContext, proxy: Proxy, installation: Installation, body: str
) -> None:
    """A page that was loaded from elsewhere under a name that now leads here: the same origin, for the browser."""
    page = context.new_page()
    url = proxy.url.replace("127.0.0.1", "evil.example")
    page.route(f"{url}/attack", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
    page.goto(f"{url}/attack")
    assert page.evaluate(REBOUND, body) == [403] * 5
    assert installation.anthropic.requests == []


def test_html_below_v1_does_not_run_beside_the_dashboard(
    context: BrowserContext, shared_installation: Installation, sites: tuple[Site, ...]
) -> None:
    """What a provider or a file contains has an admin's session within reach, and no script to use it."""
    proxy = shared_installation.start_proxy({"ANTHROPIC_BASE_URL": sites[2].url, "ADMIN_TOKEN": ADMIN})
    page = context.new_page()
    page.goto(f"{proxy.url}/dashboard")
    log_in(page, ADMIN)
    shown = page.goto(f"{proxy.url}/v1/files/file_011CNha8iCJcU1wXNR6q4V8w/content")
    assert shown
    assert (shown.status, shown.headers["content-type"]) == (200, "text/html")
    page.wait_for_load_state("networkidle")
    assert page.title() == "page"
    assert names_of_keys(proxy) == set()
    page.evaluate(f"() => {{ {SCRIPT} }}")  # nor is it the dashboard's origin, had it any
    page.wait_for_load_state("networkidle")
    assert names_of_keys(proxy) == set()
    proxy.stop()


@pytest.mark.usefixtures("logged_in")
def test_nothing_can_be_framed(context: BrowserContext, proxy: Proxy, sites: tuple[Site, ...]) -> None:
    for path in ("/dashboard", "/logs/ui", "/schema", "/v1/models", "/health"):
        page = context.new_page()
        page.goto(sites[0].url)
        with page.expect_event("framenavigated", lambda frame: frame.parent_frame is not None):
            page.evaluate(
                FRAME,
                proxy.url.replace("127.0.0.1", "localhost") + path,
            )
        assert page.frames[1].url == "chrome-error://chromewebdata/"


def test_a_link_from_elsewhere_opens_the_dashboard(
    context: BrowserContext, proxy: Proxy, sites: tuple[Site, ...]
) -> None:
    page = context.new_page()
    page.goto(sites[0].url)
    page.evaluate("url => { location.href = url }", f"{proxy.url}/dashboard")
    log_in(page, ADMIN)


def test_an_allowed_origin_streams(
    context: BrowserContext, friendly: Proxy, installation: Installation, sites: tuple[Site, ...], body: str
) -> None:
    """With the headers that the SDK sends, and those that it reads; errors are readable too."""
    page = context.new_page()
    page.goto(sites[1].url)
    status, request_id, text, lost, kind = page.evaluate(STREAMED, [friendly.url, body])
    assert (status, lost, kind) == (200, 404, "error")
    assert request_id
    assert "message_stop" in text
    assert len(installation.anthropic.requests) >= 1
    page.goto(sites[0].url)
    with pytest.raises(Exception, match="Failed to fetch"):
        page.evaluate(STREAMED, [friendly.url, body])


def test_the_log_page_works_under_its_policy(context: BrowserContext, proxy: Proxy) -> None:
    """Its one script and style are named by their hashes."""
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{proxy.url}/logs/ui")
    page.get_by_label("Token").fill(ADMIN)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("status")).to_have_text("Live")
    expect(page.get_by_label("Log lines").locator("div").first).to_be_visible()
    assert [text for text in complaints if "401" not in text] == []
