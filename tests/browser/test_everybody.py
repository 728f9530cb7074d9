"""The dashboard for everybody: by keyboard, for screen readers, on phones, in both colours."""

from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.looking import PAGES, card, fail_over, region, settle
from tests.fakes import reply
from tests.support.installation import Installation
from tests.support.messages import STREAM, ask

pytestmark = pytest.mark.e2e

PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
RULES: dict[str, Any] = {
    "light": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "dark": {"type": "rule", "values": ["color-contrast"]},
}
"""What axe looks at; in the dark all but colours is the same."""
LOOKED_AT = ("#/", "#/usage", "#/events?outcome=failed", "#/keys", "#/system")
FOCUS = """() => {
  const one = document.activeElement;
  const style = getComputedStyle(one);
  const box = one.getBoundingClientRect();
  return {
    words: one.getAttribute("aria-label") ?? one.innerText?.trim() ?? "",
    seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.bottom > 0,
  };
}"""


def serious_faults(page: Page, scheme: str) -> list[str]:
    """What axe finds that keeps somebody from using the page."""
    options = {"runOnly": RULES[scheme], "resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]}: {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(visit: Open, http: httpx.Client, installation: Installation, scheme: str) -> None:
    """On every page, in dialogs, and at the door; names, roles, order, contrast."""
    request_id = fail_over(installation, http)
    page = visit(token="", color_scheme=scheme)
    assert serious_faults(page, scheme) == []
    page = visit(color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")
    for place in (*LOOKED_AT, f"#/requests/{request_id}"):
        page.evaluate("place => { location.hash = place }", place)
        settle(page)
        if place == "#/system":
            page.get_by_label("Find a setting").fill("port")  # one row tells as much as hundreds
        assert serious_faults(page, scheme) == [], place
    page.evaluate("location.hash = '#/'")
    card(page, "Z.AI").get_by_role("button", name="Disable").click()
    assert serious_faults(page, scheme) == []


def test_the_colours_can_be_chosen(visit: Open) -> None:
    """Against the system's, and for the next visit too."""
    page = visit(color_scheme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_label("Theme").select_option("dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    settle(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_a_phone_scrolls_in_one_direction(visit: Open, http: httpx.Client, installation: Installation) -> None:
    """No page is wider than the screen, in any of its states."""
    request_id = fail_over(installation, http)
    page = visit(**PHONE)
    for place in (*PAGES, f"#/requests/{request_id}"):
        page.evaluate("place => { location.hash = place }", place)
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, place
    page.evaluate("location.hash = '#/'")
    card(page, "Z.AI").get_by_role("button", name="Limit").tap()
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360


def test_a_phone_shows_what_it_cost(visit: Open, http: httpx.Client) -> None:
    """Of each route, of the week and in the usage table, without scrolling to the side."""
    ask(http)
    page = visit(**(PHONE | {"viewport": {"width": 390, "height": 844}}))
    expect(card(page, "Anthropic").get_by_text("Cost")).to_be_in_viewport()
    page.evaluate("location.hash = '#/usage'")
    settle(page)
    total = region(page, "Totals by route").get_by_role("row").last
    cell = total.locator("td").last
    cell.scroll_into_view_if_needed()
    expect(cell).to_contain_text("$")
    box = cell.bounding_box()
    assert box is not None
    assert (box["x"] >= 0, box["x"] + box["width"] <= 390) == (True, True), box


def test_a_chart_of_one_point_spans_hours(visit: Open, http: httpx.Client, installation: Installation) -> None:
    """Minutes on an axis would say nothing."""
    installation.anthropic.script(reply.message())
    ask(http, STREAM)
    page = visit("#/usage")
    settle(page)
    spans = page.locator(".chart").evaluate_all("all => all.map(({plot}) => plot.scales.x.max - plot.scales.x.min)")
    assert len(spans) == 2
    assert min(spans) >= 12 * 3_600, spans


def test_everything_is_reached_by_keyboard(visit: Open) -> None:
    """The content can be skipped to; the order is that of the page; where the focus is can be seen."""
    page = visit()
    settle(page)
    page.reload()  # what was clicked last is where the keyboard would go on from
    settle(page)
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        focus = page.evaluate(FOCUS)
        assert focus["seen"], focus
        reached.append(focus["words"])
        if focus["words"] == "Limit: Z.AI":
            break
    assert reached[0] == "Skip to the content"
    wanted = ["Overview", "Usage", "Events", "Keys", "System", "Log out", "Disable: Anthropic", "Limit: Anthropic"]
    wanted += ["Disable: Z.AI", "Limit: Z.AI"]
    assert [words for words in reached if words in wanted] == wanted


def test_a_dialog_holds_the_focus_and_gives_it_back(visit: Open) -> None:
    """By keyboard alone: open, go round, leave by Escape; nothing was changed."""
    page = visit()
    settle(page)
    button = card(page, "Z.AI").get_by_role("button", name="Disable")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Disable Z.AI?")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    for _ in range(6):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "document.activeElement.closest('dialog') !== null || document.activeElement === document.body"
        )
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()
    expect(card(page, "Z.AI")).not_to_contain_text("disabled")


def test_the_skip_link_leads_to_the_content(visit: Open) -> None:
    page = visit("#/events")
    settle(page)
    page.reload()  # what was clicked last is where the keyboard would go on from
    settle(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page.get_by_role("heading", name="Events", level=1)).to_be_attached()
