"""What an operator does with the dashboard, from the door to a dead letter."""

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Route, expect

from service.console.api_types import LiveAttempt
from service.ledger import wire
from tests.browser.conftest import Complaints, Open
from tests.browser.looking import ADMIN, PAGES, REQUEST_ID, VIEWER, card, fail_over, link_to, log_in, region, settle
from tests.fakes import reply
from tests.support.installation import Installation, Proxy
from tests.support.installation_cases import BROKEN
from tests.support.messages import MODEL, ask, client_of

pytestmark = pytest.mark.e2e

SHOWN_MS = 2_000
TRIES = 3
"""A busy machine may be late once."""


@pytest.fixture
def both_enabled(http: httpx.Client) -> Iterator[None]:
    """A test that fails half-way must not leave a route disabled."""
    yield
    http.post("/admin/api/routes/anthropic/enable", headers={"authorization": f"Bearer {ADMIN}"}).raise_for_status()


def test_nobody_enters_without_a_token(visit: Open, complaints: Complaints) -> None:
    """A wrong one is told so, with the mend; the right one enters, stays after loading anew, and leaves for good."""
    complaints.expected = ("401",)
    page = visit(token="")
    page.get_by_label("Dashboard token").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("ccproxy admin token")
    log_in(page, VIEWER)
    page.reload()
    expect(page.get_by_role("heading", name="Routes")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Dashboard token")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Dashboard token")).to_be_visible()


def test_who_is_logged_out_elsewhere_is_asked_again(visit: Open, complaints: Complaints) -> None:
    """A session that is over is no error to read, but a door to go through."""
    complaints.expected = ("401",)
    page = visit()
    settle(page)
    page.context.clear_cookies()
    expect(page.get_by_label("Dashboard token")).to_be_visible()
    log_in(page, VIEWER)
    settle(page)


def test_every_page_loads_without_a_complaint(visit: Open, http: httpx.Client, installation: Installation) -> None:
    """No error, no warning, nothing from elsewhere, nothing that could not be asked for."""
    fail_over(installation, http)
    page = visit()
    for place in PAGES:
        page.evaluate("place => { location.hash = place }", place)
        settle(page)
        expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator(".feed")).to_have_text("Live")


def test_a_failover_is_shown_within_two_seconds(visit: Open, http: httpx.Client, installation: Installation) -> None:
    """What failed, why, and who took over."""
    page = visit()
    settle(page)
    for tried in range(TRIES):
        request_id = fail_over(installation, http)
        try:
            expect(link_to(page, request_id)).to_be_visible(timeout=SHOWN_MS)
            break
        except AssertionError:
            if tried + 1 == TRIES:
                raise
    line = region(page, "Recent events").get_by_role("listitem").filter(has=link_to(page, request_id))
    expect(line).to_contain_text("Failover: Anthropic → Z.AI")
    expect(line).to_contain_text("overloaded 529")


@pytest.mark.usefixtures("both_enabled")
def test_a_disabled_route_gets_no_request(visit: Open, http: httpx.Client, installation: Installation) -> None:
    """Asked first, with the reason shown; the very next request goes elsewhere, until the route is enabled."""
    page = visit()
    anthropic = card(page, "Anthropic")
    expect(anthropic).to_contain_text("serving")
    anthropic.get_by_role("button", name="Disable").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("too dear <b>today</b>")
    dialog.get_by_role("button", name="Disable").click()
    expect(dialog).to_have_count(0)
    expect(anthropic).to_contain_text("disabled")
    expect(anthropic).to_contain_text("too dear <b>today</b>", ignore_case=True)
    expect(card(page, "Z.AI")).to_contain_text("serving")
    assert ask(http).headers["x-ccproxy-route"] == "zai"
    assert installation.anthropic.requests == []
    anthropic.get_by_role("button", name="Enable").click()
    dialog.get_by_role("button", name="Enable").click()
    expect(anthropic).to_contain_text("serving")
    assert ask(http).headers["x-ccproxy-route"] == "anthropic"


def test_a_route_that_is_off_names_its_mend(visit: Open) -> None:
    """As it has to be typed."""
    expect(card(visit(), "Claude subscription")).to_contain_text("set CLAUDE_SUBSCRIPTION_ENABLED=true")


def test_errors_that_no_rule_knows_are_shown_with_what_others_said(
    visit: Open, shared_installation: Installation, installation: Installation, complaints: Complaints
) -> None:
    """How many, in which words by their digest alone, who met them, and what second opinions made of them."""
    accounts = [(name, "anthropic", f"sk-ant-api03-{name}-0123456789") for name in ("opaque", "clear")]
    variables = {"ADMIN_TOKEN": ADMIN, **shared_installation.own_routes(*accounts)}
    proxy = shared_installation.start_proxy(variables)
    installation.anthropic.keys = {key for *_, key in accounts}
    farewell = reply.error(400, "invalid_request_error", "Farewell.").when(credential=accounts[0][2])
    installation.anthropic.script(farewell, farewell)
    with client_of(proxy.url) as http:
        assert [ask(http).headers["x-ccproxy-route"] for _ in range(2)] == ["clear", "clear"]
    complaints.homes += (proxy.url,)
    page = visit(url=proxy.url)
    opaque = card(page, "opaque")
    expect(opaque).to_contain_text("Errors that no rule knows: 2")
    expect(opaque).to_contain_text("status 400, messages")
    expect(opaque).to_contain_text("1 request of 1 client")
    expect(opaque).to_contain_text("Second opinions: 2 answered by another account")
    expect(opaque).not_to_contain_text("Farewell")
    expect(card(page, "clear")).not_to_contain_text("Errors that no rule knows")


def test_a_limit_is_changed_and_shown(visit: Open) -> None:
    """The quota's bar appears, and goes with the limit."""
    page = visit()
    zai = card(page, "Z.AI")
    for given, shown in (("5M", "of 5M tokens this week"), ("5_000", "of 5k tokens this week"), ("0", "no limit")):
        zai.get_by_role("button", name="Limit").click()
        page.get_by_label("Tokens per week").fill(given)
        page.get_by_role("button", name="Set the limit").click()
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(zai).to_contain_text(shown)
        note = zai.get_by_text("Limit set by an operator; in the settings: none")
        expect(note).to_have_count(0 if given == "0" else 1)


def test_events_are_filtered_and_followed(visit: Open, http: httpx.Client, installation: Installation) -> None:
    """By route and outcome; the filter stands in the address; new events that fit come by themselves, others do not."""
    first = fail_over(installation, http)
    page = visit("#/events")
    rows = page.locator(".events").get_by_role("listitem")
    expect(rows.filter(has_text="Z.AI").first).to_be_visible()
    page.get_by_label("Route").select_option("anthropic")
    page.get_by_label("Outcome").select_option("failed")
    expect(page).to_have_url(re.compile("route=anthropic&outcome=failed"))
    expect(rows.filter(has_text="Z.AI")).to_have_count(0)
    expect(rows.filter(has_text="overloaded 529").first).to_be_visible()
    expect(rows.filter(has_text="asked for")).to_have_count(0)
    page.get_by_label("Request").fill(first)
    page.keyboard.press("Enter")
    expect(rows).to_have_count(1)
    page.get_by_label("Request").fill("")
    page.keyboard.press("Enter")
    expect(page).not_to_have_url(re.compile("request="))
    second = fail_over(installation, http)
    expect(rows.filter(has=link_to(page, second))).to_have_count(1)
    expect(rows.filter(has_text="Z.AI")).to_have_count(0)
    rows.filter(has=link_to(page, second)).locator("summary").click()
    link_to(page, second).click()
    expect(page.get_by_role("heading", name=f"Request {second}")).to_be_visible()


def test_a_request_has_its_attempts_on_a_line_of_time(
    visit: Open, http: httpx.Client, installation: Installation
) -> None:
    """Each with its outcome and why; the second begins where the first has ended."""
    request_id = fail_over(installation, http)
    page = visit(f"#/requests/{request_id}")
    attempts = region(page, "Attempts").locator(".timeline > li")
    expect(attempts).to_have_count(2)
    expect(attempts.nth(0)).to_contain_text("Overloaded, status 529")
    expect(attempts.nth(0)).to_contain_text("failed over to Z.AI")
    expect(attempts.nth(1)).to_contain_text("answered")
    expect(region(page, f"Request {request_id}")).to_contain_text(MODEL)
    ends = attempts.nth(0).locator(".bar span").last.evaluate("one => one.getBoundingClientRect().right")
    begins = attempts.nth(1).locator(".bar span").first.evaluate("one => one.getBoundingClientRect().left")
    assert begins > ends - 5


def test_a_request_that_nobody_knows_says_so(visit: Open, complaints: Complaints) -> None:
    complaints.expected = ("404",)
    page = visit("#/requests/000000000000000000")
    expect(page.get_by_role("alert")).to_contain_text("The ledger has no request 000000000000000000")


def test_what_a_provider_says_is_never_markup(visit: Open, http: httpx.Client, installation: Installation) -> None:
    """Its words come from outside; they are shown as they are."""
    evil = "<img src=x onerror=document.title=document.title+1>"
    installation.anthropic.script(reply.error(529, "overloaded_error", evil))
    request_id = ask(http).headers[REQUEST_ID]
    page = visit(f"#/requests/{request_id}")
    expect(page.locator(".timeline")).to_contain_text(evil)
    assert page.locator("main img").count() == 0
    assert "1" not in page.title()


def test_what_a_provider_says_neither_reorders_nor_hides_text(
    visit: Open, http: httpx.Client, installation: Installation
) -> None:
    """Bidirectional overrides, tags and zero-width characters are shown as escapes, should the API ever give them."""
    installation.anthropic.script(reply.error(529, "overloaded_error", "see here"))
    request_id = ask(http).headers[REQUEST_ID]
    page = visit("#/")

    def with_strange_words(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(
            response=answer,
            body=answer.text().replace("see here", r"see \u202egnp.exe\u2066 a\u200bb \udb40\udc41\ufe0f Zo\u00eb"),
        )

    page.route(f"**/admin/api/requests/{request_id}*", with_strange_words)
    page.goto(f"{page.url.partition('#')[0]}#/requests/{request_id}")
    expect(page.locator(".timeline")).to_contain_text(r"see \u202egnp.exe\u2066 a\u200bb \U000e0041\ufe0f Zoë")
    hidden = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\U000e0041]")
    assert hidden.findall(page.content()) == []


def test_history_comes_from_the_workers(visit: Open, http: httpx.Client, installation: Installation) -> None:
    """Usage by route, model and key, and latency, as tables beside their charts."""
    fail_over(installation, http)
    page = visit("#/usage")
    sums = region(page, "Totals by route")
    expect(sums.get_by_role("row").filter(has_text="Z.AI")).to_be_visible()
    expect(region(page, "Latency by route").get_by_role("row").filter(has_text="Z.AI")).to_be_visible()
    page.get_by_role("group", name="Group by").get_by_role("button", name="Model").click()
    expect(region(page, "Totals by model").get_by_role("row").filter(has_text="glm-")).to_be_visible()
    page.get_by_role("button", name="7 days").click()
    expect(region(page, "Totals by model").get_by_role("row").filter(has_text=MODEL)).to_be_visible()
    expect(page.locator(".chart canvas")).to_have_count(2)


def test_a_key_is_issued_shown_once_and_revoked(visit: Open, http: httpx.Client) -> None:
    """It opens the door at once, and no longer when it is revoked."""
    page = visit("#/keys")
    page.get_by_role("button", name="Issue a key").click()
    page.get_by_label("Name").fill("ann")
    page.get_by_text("Limits", exact=True).click()
    page.get_by_label("Tokens per week").fill("1000000")
    page.get_by_role("button", name="Issue", exact=True).click()
    key = page.locator(".secret").inner_text()
    assert ask(http, headers={"x-api-key": key}).status_code == 200
    page.get_by_role("button", name="Done").click()
    expect(page.locator("dialog")).to_have_count(0)  # a closed one is hidden at once, and gone a moment later
    assert key not in page.content()
    row = region(page, "Client keys and this week's usage").get_by_role("row").filter(has_text="ann")
    expect(row).to_contain_text("of 1M tokens")
    row.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    assert ask(http, headers={"x-ccproxy-key": key}).status_code == 401


def test_a_dead_letter_is_shown_and_dropped(visit: Open, http: httpx.Client, installation: Installation) -> None:
    """What nobody can read is seen, and goes when an operator says so."""
    fail_over(installation, http)  # a stream that no proxy writes to has no reader
    installation.redis().xadd(wire.events_key("zai"), {wire.ENTRY_FIELD: b'[{"type": "from_the_future"}]'})
    page = visit("#/system")
    row = region(page, "Dead letters and quarantined events").get_by_role("row").filter(has_text="dead letter")
    expect(row).to_be_visible(timeout=40_000)
    row.get_by_role("checkbox").check()
    page.get_by_role("button", name="Drop 1").click()
    page.get_by_role("dialog").get_by_role("button", name="Drop").click()
    expect(page.get_by_text("No dead letters and no quarantined events")).to_be_visible(timeout=15_000)


def test_a_viewer_may_look_and_change_nothing(visit: Open) -> None:
    page = visit(token=VIEWER)
    expect(card(page, "Anthropic")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Disable|Reset|Limit"))).to_have_count(0)
    page.goto(page.url.partition("#")[0] + "#/keys")
    settle(page)
    expect(page.get_by_role("button", name="Issue a key")).to_have_count(0)


def test_without_the_feed_the_page_asks(
    visit: Open, http: httpx.Client, installation: Installation, complaints: Complaints
) -> None:
    """It says so, shows a failover all the same, and follows the feed again when it is back."""
    complaints.expected = ("Failed to load resource", "net::ERR")
    page = visit(token="")
    page.route("**/admin/api/live", lambda route: route.abort())
    log_in(page, VIEWER)
    expect(page.locator(".feed")).to_have_text("Every 2 s")
    expect(link_to(page, fail_over(installation, http))).to_be_visible()
    page.unroute("**/admin/api/live")
    expect(page.locator(".feed")).to_have_text("Live", timeout=45_000)


def test_what_is_wrong_with_an_installation_is_shown(visit: Open, complaints: Complaints) -> None:
    """All that the table of installations says of the dashboard's data: problems of processes, and states of routes."""
    complaints.expected = ("Failed to load resource", "net::ERR")
    problems = sorted({case.seen.word for case in BROKEN if case.seen.word and " " not in case.seen.word})
    states = {"anthropic": "degraded", "zai": "no_credential"}
    assert {case.seen.word.split()[1] for case in BROKEN if " " in case.seen.word} == {*states.values()}
    notices = [
        {"level": "problem", "code": code, "subject": "w", "message": f"{number} is wrong with {code}"}
        for code in problems
        for number in (1, 2)
    ]

    def overview(route: Route) -> None:
        data = route.fetch().json()
        for one in data["routes"]:
            one |= {"state": states.get(one["route"], one["state"]), "reason": f"why of {one['route']}"}
        route.fulfill(json=data | {"level": "problem", "notices": notices})

    page = visit(token="")
    page.route("**/admin/api/live", lambda route: route.abort())
    page.route("**/admin/api/overview", overview)
    page.route("**/admin/api/fleet", lambda route: route.fulfill(json=route.fetch().json() | {"redis_up": False}))
    log_in(page, VIEWER)
    expect(page.locator(".headline")).to_have_text("Something is wrong")
    expect(page.locator(".notices li")).to_have_text([f"{one['message']}." for one in notices])
    for title, words in (("Anthropic", ("degraded", "Why of anthropic")), ("Z.AI", ("no credential", "Why of zai"))):
        for shown in words:
            expect(card(page, title)).to_contain_text(shown)
    page.evaluate("location.hash = '#/system'")
    expect(region(page, "Fleet")).to_contain_text("can't be used")
    expect(region(page, "Fleet")).to_contain_text("can't do their work: see Overview")
    page.unroute_all(behavior="ignoreErrors")


def test_as_many_are_in_progress_as_are_listed(visit: Open) -> None:
    """Both are read each second, at different moments."""
    fields = LiveAttempt.__struct_fields__
    rows = [{**dict.fromkeys(fields, "anthropic"), "attempt_id": name, "started_at_ms": 1} for name in ("a", "b")]
    page = visit(token="")
    page.route("**/admin/api/attempts", lambda route: route.fulfill(json=rows))
    log_in(page, VIEWER)
    expect(region(page, "In progress").locator("tbody tr")).to_have_count(2)
    expect(region(page, "In progress")).to_contain_text("2 attempts")
    expect(page.locator(".stats > div", has_text="In progress").locator("dd")).to_have_text("2attempts")
    page.unroute_all(behavior="ignoreErrors")


def test_a_proxy_that_is_away_is_told_of(
    visit: Open, shared_installation: Installation, complaints: Complaints
) -> None:
    """With the mend; what was known stays."""
    complaints.expected = ("Failed to load resource", "net::ERR")
    other = shared_installation.start_proxy({"ADMIN_TOKEN": ADMIN})
    complaints.homes += (other.url,)
    page = visit(url=other.url)
    settle(page)
    expect(page.locator(".feed")).to_have_text("Live")
    other.kill()
    expect(page.locator(".feed")).to_contain_text("Disconnected")
    expect(page.locator(".feed")).to_have_attribute("title", re.compile("ccproxy up"))
    expect(card(page, "Anthropic")).to_be_visible()


def test_a_session_is_good_at_every_replica(visit: Open, proxy: Proxy, shared_installation: Installation) -> None:
    """Sessions are kept nowhere: any proxy with the same tokens knows them."""
    page = visit()
    settle(page)
    other = shared_installation.start_proxy({"ADMIN_TOKEN": ADMIN, "VIEWER_TOKEN": VIEWER})
    try:
        cookies = page.context.cookies(proxy.url)
        found = httpx.get(f"{other.url}/admin/api/overview", cookies={cookies[0]["name"]: cookies[0]["value"]})
        assert found.status_code == 200
    finally:
        other.stop()
