"""The browser as an attacker: rebound names, pages of other origins, and active content below /v1.

`tests/browser/test_other_origins.py` has the same with a real browser.
"""

from collections.abc import AsyncIterator

import pytest

from service.edge.origins import OriginGuard
from service.errors import SettingsError
from service.settings import from_variables
from tests.attacks.raw import ByteProvider, RawResponse, answer, byte_provider, raw_client, request
from tests.support.proxies import ASK, Server, Serving

EVIL = "https://evil.example"
APP = "https://app.example"
KEY = "key-of-ann-0123456789"
PATHS = ("/", "/health", "/readyz", "/livez", "/metrics", "/dashboard", "/admin/api/routes", "/logs/ui", "/schema",
         "/providers", "/usage", "/v1/models", "/v1/messages", "/nothing")  # fmt: skip
POLICY = "content-security-policy"
REBOUND = (
    "evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example",
    "192.0.2.1", "[2001:db8::1]:80", "0.0.0.0:80", "localhost:x", "localhost, evil.example", "x" * 1_000,
)  # fmt: skip
SERVED = (
    "localhost", "LOCALHOST:1", "localhost.", "a.localhost:4181", "127.0.0.1:65535", "127.1.2.3", "[::1]:4181",
    "[::ffff:127.0.0.1]", "proxy.example:8443",
)  # fmt: skip
FOREIGN: tuple[dict[str, str], ...] = (
    {"origin": EVIL},
    {"origin": EVIL, "sec_fetch_site": "same-origin"},
    {"origin": "null", "sec_fetch_site": "cross-site"},
    {"origin": "http://127.0.0.1:3000", "sec_fetch_site": "same-site"},
    {"origin": "http://localhost", "sec_fetch_site": "cross-site"},
    {"origin": "app://127.0.0.1"},
    {"origin": "http://127.0.0.1", "sec_fetch_site": "cross-site"},
    {"origin": "garbage"},
    {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"},
    {"sec_fetch_site": "same-site"},
    {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
    {"origin": EVIL, "upgrade": "websocket", "connection": "upgrade"},
    {"origin": f"{APP}.evil.example"},
    {"origin": f"{APP}:8443"},
)


@pytest.fixture
async def provider() -> AsyncIterator[ByteProvider]:
    async with byte_provider() as made:
        yield made


async def ask(served: Serving, target: str = "/v1/messages", method: str = "POST", **headers: str) -> RawResponse:
    """One request on a connection of its own; `headers` with `_` for `-`, "" leaves one out."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with raw_client(served.url) as client:
        body = ASK if method == "POST" else b""
        return await client.ask(request(body, target, method, named), method.encode())


def assert_refused(response: RawResponse, setting: bytes) -> None:
    """A 403 in Anthropic's shape that names the setting, tells no script anything, and is not to be tried again."""
    assert (response.status, response.json["error"]["type"]) == (403, "permission_error")
    assert setting in response.body
    assert response.value(b"x-should-retry") == b"false"
    assert response.value(b"access-control-allow-origin") == b""


# -- words


@pytest.mark.parametrize("origin", ["null", "file://"])
async def test_the_words_tell_no_page_to_do_what_is_refused(
    server: Server, provider: ByteProvider, origin: str
) -> None:
    """Any page can have this origin, so that no setting takes it: a page that should pass has to be served."""
    with pytest.raises(SettingsError, match="is not an origin"):
        from_variables({"ALLOWED_ORIGINS": origin})
    served = await server.start(anthropic=provider.base_url)
    refused = await ask(served, origin=origin)
    assert_refused(refused, b"serve the page from an address, and add that to ALLOWED_ORIGINS")


# -- names


async def test_a_rebound_name_is_refused_on_every_path(server: Server, provider: ByteProvider) -> None:
    served = await server.start(anthropic=provider.base_url)
    for host in REBOUND:
        same = {"host": host, "origin": f"http://{host}", "sec_fetch_site": "same-origin"}
        assert_refused(await ask(served, **same), b"ALLOWED_HOSTS")
        assert_refused(await ask(served, "/health", "GET", host=host), b"ALLOWED_HOSTS")
    for path in PATHS:
        for method in ("GET", "POST", "OPTIONS"):
            assert_refused(await ask(served, path, method, host="evil.example"), b"ALLOWED_HOSTS")
    assert provider.seen == []
    assert served.events == []


async def test_names_of_the_loopback_and_allowed_ones_are_served(server: Server, provider: ByteProvider) -> None:
    served = await server.start(anthropic=provider.base_url, variables={"ALLOWED_HOSTS": "Proxy.example"})
    for host in SERVED:
        for _ in range(2):  # the second time from the cache
            assert (await ask(served, host=host)).status == 200, host
            assert (await ask(served, "/livez", "GET", host=host)).status == 200, host


async def test_no_host_at_all(server: Server, provider: ByteProvider) -> None:
    """HTTP/1.0 knows no Host; in HTTP/1.1 there must be one."""
    served = await server.start(anthropic=provider.base_url)
    for target in ("/v1/messages", "/health"):
        missing = await ask(served, target, "GET", host="")
        assert (missing.status, missing.json["error"]["type"]) == (400, "invalid_request_error")
    old = request(ASK, headers={"host": ""}).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    async with raw_client(served.url) as client:
        assert (await client.ask(old)).status == 200


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ("", "any.example", 200),
        ("proxy.example", "proxy.example", 200),
        ("proxy.example", "localhost:4181", 200),
        ("proxy.example", "10.1.2.3:4181", 200),
        ("proxy.example", "evil.example", 403),
    ],
)
async def test_another_listener(server: Server, provider: ByteProvider, allowed: str, host: str, status: int) -> None:
    """It asks for keys, and answers to any name until ALLOWED_HOSTS says which; balancers ask by address."""
    variables = {"PROXY_HOST": "0.0.0.0", "DRAIN_DELAY": "0", "PROXY_API_KEYS": f"ann:{KEY}"}  # noqa: S104
    served = await server.start(anthropic=provider.base_url, variables=variables | {"ALLOWED_HOSTS": allowed})
    assert (await ask(served, host=host, x_api_key=KEY)).status == status


def test_a_listener_answers_to_its_own_name() -> None:
    """What `up` and operators ask for when PROXY_HOST is a name; ALLOWED_HOSTS need not repeat it."""
    variables = {"PROXY_HOST": "Proxy.lan", "PROXY_API_KEYS": f"ann:{KEY}", "ALLOWED_HOSTS": "proxy.example"}
    guard = OriginGuard(from_variables(variables | {"CCPROXY_HOME": "/nowhere"}), lambda: "", lambda _: None)
    hosts = (b"proxy.lan:4181", b"proxy.example", b"evil.example")
    assert [guard._serves_host(host) for host in hosts] == [True, True, False]


async def test_metrics_are_open_to_this_machine_by_its_own_names_alone(server: Server) -> None:
    """On any listener: a rebound name leads a page to the loopback as well."""
    variables = {"PROXY_HOST": "0.0.0.0", "DRAIN_DELAY": "0", "PROXY_API_KEYS": f"ann:{KEY}"}  # noqa: S104
    served = await server.start(variables=variables)
    for host, status in (("evil.example", 401), ("192.0.2.1", 401), ("localhost:4181", 200), ("127.0.0.1", 200)):
        assert (await ask(served, "/metrics", "GET", host=host)).status == status, host


async def test_a_page_cannot_tell_a_name_in_a_trusted_proxys_place(server: Server, provider: ByteProvider) -> None:
    """A page can send X-Forwarded-Host, from the very address of a trusted proxy; the name that it used counts too."""
    variables = {"TRUSTED_PROXIES": "127.0.0.0/8", "ALLOWED_HOSTS": "proxy.example"}
    served = await server.start(anthropic=provider.base_url, variables=variables)
    for path in PATHS:
        said = {"host": "evil.example", "x_forwarded_host": "proxy.example"}
        assert_refused(await ask(served, path, "GET", **said), b"ALLOWED_HOSTS")
        said = {"host": "localhost", "x_forwarded_host": "evil.example"}
        assert_refused(await ask(served, path, "GET", **said), b"ALLOWED_HOSTS")
    own = {"x_forwarded_host": "proxy.example", "origin": "https://proxy.example", "sec_fetch_site": "same-origin"}
    assert (await ask(served, "/admin/api/session", **own)).status == 400
    assert provider.seen == []


# -- origins


async def test_a_page_of_another_origin_reaches_nothing(server: Server, provider: ByteProvider) -> None:
    """Whatever it asks for, as a simple request or with a preflight."""
    served = await server.start(anthropic=provider.base_url, variables={"ALLOWED_ORIGINS": APP})
    for sent in FOREIGN:
        for path, method in (("/v1/messages", "POST"), ("/v1/messages", "OPTIONS"), ("/v1/models", "GET")):
            assert_refused(await ask(served, path, method, content_type="text/plain", **sent), b"ALLOWED_ORIGINS")
    for path in PATHS:
        for method in ("GET", "POST", "OPTIONS"):
            assert_refused(await ask(served, path, method, origin=EVIL), b"ALLOWED_ORIGINS")
    assert provider.seen == []
    assert served.events == []


async def test_a_link_opens_pages_of_the_console_alone(server: Server, provider: ByteProvider) -> None:
    """In a tab, by GET; never in a frame, never below /v1."""
    served = await server.start(anthropic=provider.base_url, variables={"PROXY_BASE_PATH": "/claude"})
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    for path in ("/dashboard", "/claude/dashboard", "/logs/ui", "/schema", "/"):
        assert (await ask(served, path, "GET", **link)).status == 200
        assert_refused(await ask(served, path, "GET", **link | {"sec_fetch_dest": "iframe"}), b"ALLOWED_ORIGINS")
        assert_refused(await ask(served, path, "POST", **link), b"ALLOWED_ORIGINS")
    for path in ("/v1/models", "/claude/v1/models", "/admin/api/routes", "/health", "/metrics"):
        assert_refused(await ask(served, path, "GET", **link), b"ALLOWED_ORIGINS")
    assert provider.seen == []


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"anthropic_dangerous_direct_browser_access": "true"},
        {"sec_fetch_mode": "cors"},
        {"origin": "http://127.0.0.1", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none", "sec_fetch_mode": "navigate"},
    ],
)
async def test_clients_and_own_pages_pass_untouched(
    server: Server, provider: ByteProvider, sent: dict[str, str]
) -> None:
    """Claude Code and SDKs send neither header (Node's fetch sends its mode), and get no CORS headers."""
    served = await server.start(anthropic=provider.base_url)
    response = await ask(served, **sent)
    assert response.status == 200
    assert not [name for name, _ in response.headers if name.startswith(b"access-control")]


async def test_an_allowed_origin_reads_the_messages_api(server: Server, provider: ByteProvider) -> None:
    """Answers and errors of /v1 with their headers; the console it may not read."""
    served = await server.start(anthropic=provider.base_url, variables={"ALLOWED_ORIGINS": f"{APP},null.example://x"})
    page = {"origin": APP, "sec_fetch_site": "cross-site", "sec_fetch_mode": "cors"}
    provider.script = lambda seen: answer(status=404 if b"batches" in seen.target else 200, request_id="req_1")
    for target, status in (("/v1/messages", 200), ("/v1/messages/batches/msgbatch_0", 404)):
        response = await ask(served, target, **page)
        assert response.status == status
        assert response.value(b"access-control-allow-origin") == APP.encode()
        exposed = {name.strip() for name in response.value(b"access-control-expose-headers").split(b",")}
        assert {b"request-id", b"x-ccproxy-request-id", b"content-type"} <= exposed
        assert response.value(b"vary") == b"origin"
        assert response.value(b"access-control-allow-credentials") == b""
    console = await ask(served, "/admin/api/routes", "GET", **page)
    assert (console.status, console.value(b"access-control-allow-origin")) == (401, b"")


async def test_preflights_are_answered_here(server: Server, provider: ByteProvider) -> None:
    """For allowed origins alone, without a key, and none goes up."""
    variables = {"ALLOWED_ORIGINS": APP, "PROXY_API_KEYS": f"ann:{KEY}"}
    served = await server.start(anthropic=provider.base_url, variables=variables)
    names = "x-api-key,authorization,anthropic-version,x-stainless-os,anthropic-dangerous-direct-browser-access"
    asked = {
        "access_control_request_method": "POST",
        "access_control_request_headers": names,
        "access_control_request_private_network": "true",
    }
    response = await ask(served, method="OPTIONS", origin=APP, sec_fetch_site="cross-site", **asked)
    assert (response.status, response.value(b"access-control-allow-origin")) == (204, APP.encode())
    assert response.value(b"access-control-allow-headers") == names.encode()
    assert b"POST" in response.value(b"access-control-allow-methods")
    assert response.value(b"access-control-allow-private-network") == b"true"
    assert response.value(b"vary") == b"origin"
    plain = await ask(served, method="OPTIONS")
    assert (plain.status, plain.value(b"access-control-allow-origin")) == (204, b"")
    assert b"POST" in plain.value(b"allow")
    console = await ask(served, "/admin/api/session", "OPTIONS", origin=APP, **asked)
    assert console.value(b"access-control-allow-origin") == b""
    assert provider.seen == []


# -- what answers contain


@pytest.mark.parametrize("content_type", ["text/html", "image/svg+xml", "text/javascript", "application/xml"])
@pytest.mark.parametrize("status", [200, 404])
async def test_what_a_provider_answers_never_runs_here(
    server: Server, provider: ByteProvider, content_type: str, status: int
) -> None:
    """Sandboxed without scripts, not framed, not sniffed; a policy of the provider's does not replace ours."""
    provider.script = lambda _: answer(
        b"<script>alert(1)</script>", status, content_type, content_security_policy="default-src *"
    )
    served = await server.start(anthropic=provider.base_url)
    for target in ("/v1/files/file_01abc/content", "/v1/models"):
        response = await ask(served, target, "GET")
        policies = [value for name, value in response.headers if name == POLICY.encode()]
        assert policies == [b"sandbox; default-src 'none'; frame-ancestors 'none'"]
        assert response.value(b"x-content-type-options") == b"nosniff"


async def test_every_answer_of_our_own_is_guarded(server: Server, provider: ByteProvider) -> None:
    """Pages, JSON and errors alike: not framed, not sniffed, and no inline script runs."""
    served = await server.start(anthropic=provider.base_url)
    for path in (*PATHS, "/schema/openapi.json", "/dashboard/", "/dashboard/x/y"):
        for method in ("GET", "DELETE"):
            response = await ask(served, path, method)
            policies = [value for name, value in response.headers if name == POLICY.encode()]
            assert len(policies) == 1, (path, method)
            assert b"frame-ancestors 'none'" in policies[0]
            assert b"default-src 'none'" in policies[0]
            script = policies[0].partition(b"script-src")[2].partition(b";")[0]
            assert b"unsafe" not in script
            assert response.value(b"x-content-type-options") == b"nosniff"
            assert response.value(b"cross-origin-resource-policy") == b"same-origin" or path == "/v1/messages"
