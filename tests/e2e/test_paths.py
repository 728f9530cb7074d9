"""What is answered without a provider, what is never forwarded, and the path prefix."""

import anthropic
import httpx
import pytest

from tests.support.installation import Installation, Proxy
from tests.support.messages import ASK, HEADERS, HI, MODEL, ask, client_of, way

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("method", "path"), [("HEAD", "/"), ("GET", "/"), ("HEAD", "/api/hello"), ("GET", "/api/hello")]
)
def test_somebody_is_there(http: httpx.Client, installation: Installation, method: str, path: str) -> None:
    """What clients ask to see whether anybody is there is answered at once, without a credential or a provider."""
    answer = http.request(method, path)
    assert answer.status_code == 200
    assert bool(answer.content) == (method == "GET")
    assert installation.anthropic.requests == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/event_logging/batch"),
        ("GET", "/api/oauth/usage"),
        ("GET", "/api/anything"),
        ("POST", "/other"),
        ("POST", "/v1/../api/x"),
        ("GET", "/v2/messages"),
    ],
)
def test_other_paths_are_never_forwarded(
    http: httpx.Client, installation: Installation, method: str, path: str
) -> None:
    """Telemetry and all that is not under /v1 is a 404 here."""
    answer = http.request(method, path, headers=HEADERS)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
    assert [*installation.anthropic.requests, *installation.zai.requests] == []


def test_paths_under_v1_are_forwarded(http: httpx.Client, installation: Installation) -> None:
    """Whatever else Anthropic offers under /v1 reaches it, with its query."""
    http.get("/v1/organizations/x/things?a=1&b=%2F", headers=HEADERS)
    http.delete("/v1/skills/skill_0123456789", headers=HEADERS)
    seen = [(request.method, request.path, request.query) for request in installation.anthropic.requests]
    assert seen == [("GET", "/v1/organizations/x/things", "a=1&b=%2F"), ("DELETE", "/v1/skills/skill_0123456789", "")]


def test_escapes_in_a_path_are_kept(http: httpx.Client, installation: Installation) -> None:
    """An escaped slash stays escaped. A model that no route lists is asked for by its own path."""
    http.get("/v1/models/a%2Fb", headers=HEADERS)
    seen = [request.path for request in installation.anthropic.requests]
    assert seen == ["/v1/models", "/v1/models/a%2Fb"]


def test_the_base_url_may_have_a_prefix(installation: Installation) -> None:
    """Under PROXY_BASE_PATH all works as without, results of batches included."""
    proxy = installation.start_proxy({"PROXY_BASE_PATH": "/anthropic/"})
    url = f"{proxy.url}/anthropic"
    with client_of(url) as client:
        assert way(client.post("/v1/messages?beta=true", json=ASK, headers=HEADERS)) == (200, "anthropic", "1")
        assert client.head("/api/hello").status_code == 200
        assert client.post("/api/event_logging/batch", json={}).status_code == 404
    assert (installation.anthropic.requests[0].path, installation.anthropic.requests[0].query) == (
        "/v1/messages",
        "beta=true",
    )
    with anthropic.Anthropic(base_url=url, api_key="placeholder", max_retries=0) as sdk:
        assert sdk.messages.create(model=MODEL, max_tokens=64, messages=HI).content
        batch = sdk.messages.batches.create(requests=[{"custom_id": "a", "params": ASK}])  # type: ignore[typeddict-item]
        assert (sdk.messages.batches.retrieve(batch.id).results_url or "").startswith(url)
        assert len(list(sdk.messages.batches.results(batch.id))) == 1


def test_health_shows_no_secret_and_asks_nobody(http: httpx.Client, installation: Installation) -> None:
    """/health names the routes and their states; /livez and /readyz answer."""
    report = http.get("/health").json()
    assert report["providers"]["best"] == "anthropic"
    assert {"anthropic", "subscription", "zai"} <= set(report["providers"])
    assert "marked" not in str(report)
    assert [http.get(path).status_code for path in ("/livez", "/readyz")] == [200, 200]
    assert installation.anthropic.requests == []


def test_many_requests_on_one_connection(proxy: Proxy, installation: Installation) -> None:
    """A connection serves one request after another, good and bad, HEAD and GET."""
    with client_of(proxy.url, connections=1) as client:
        for _ in range(5):
            assert client.head("/").status_code == 200
            assert ask(client).status_code == 200
            assert client.get("/nowhere").status_code == 404
    assert len(installation.anthropic.requests) == 5
