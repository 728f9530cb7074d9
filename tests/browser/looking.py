"""What the tests do with the page and what they look for, in words."""

from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect

from tests.fakes import reply
from tests.support.installation import Installation
from tests.support.messages import ask

ADMIN, VIEWER = "admin-token-marked-0123456789", "viewer-token-marked-0123456789"
REQUEST_ID = "x-ccproxy-request-id"
PAGES = ("#/", "#/usage", "#/events", "#/keys", "#/system")


def log_in(page: Page, token: str) -> None:
    """Through the door."""
    page.get_by_label("Dashboard token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()


def settle(page: Page) -> None:
    """Until what the page asked for is there."""
    expect(page.locator("main")).to_be_visible()
    expect(page.locator(".boot")).to_have_count(0)


def region(page: Page, name: str) -> Locator:
    """A part of the page by its heading."""
    return page.get_by_role("region", name=name, exact=True)


def card(page: Page, title: str) -> Locator:
    """A route's card."""
    return page.get_by_role("article", name=title, exact=True)


def fail_over(installation: Installation, client: httpx.Client, **error: Any) -> str:
    """A request that Anthropic fails and Z.AI answers; its id."""
    installation.anthropic.script(reply.error(529, **error))
    answer = ask(client)
    assert (answer.status_code, answer.headers["x-ccproxy-route"]) == (200, "zai"), answer.text
    return answer.headers[REQUEST_ID]


def link_to(page: Page, request_id: str) -> Locator:
    """Links to a request's page."""
    return page.locator(f'a[href="#/requests/{request_id}"]')
