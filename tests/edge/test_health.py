"""`/health` as the original's users know it: its fields, true this time, and nothing secret."""

from tests.fakes import FakeProvider
from tests.support.proxies import ANTHROPIC_KEY, ASK, Server

FIELDS = {"status", "service", "version", "uptime", "timestamp", "endpoints", "config", "providers", "problems"}


async def test_health_has_the_originals_fields(server: Server, anthropic: FakeProvider) -> None:
    """Scripts that read it find every field of the original, and each endpoint that it names is there."""
    served = await server.start(anthropic=anthropic, variables={"CIRCUIT_BREAKER_ENABLED": "true"})
    answer = await served.http.get("/health?verbose=1")
    report = answer.json()
    assert set(report) == FIELDS
    assert (report["status"], report["service"]) == ("healthy", "Claude Code Proxy")
    assert report["config"] == {
        "primary": "Anthropic API",
        "fallback1": "disabled",
        "fallback2": "disabled",
        "fallback3": "disabled",
        "port": served.proxy.settings.port,
        "models": len(served.proxy.settings.policy.model_map),
        "tracking": False,
    }
    assert report["providers"]["best"] == "anthropic"
    assert report["providers"]["anthropic"] == {"state": "healthy", "available": True}
    assert report["providers"]["zai"]["available"] is False
    assert ANTHROPIC_KEY not in answer.text
    for name, path in report["endpoints"].items():
        asked = await served.http.post(path, json=ASK) if name == "proxy" else await served.http.get(path)
        assert asked.status_code in (200, 401), name


async def test_health_names_the_chain(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """Each route that may serve is named in its place."""
    served = await server.start(anthropic=anthropic, zai=zai, variables={"CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-x"})
    chain = (await served.http.get("/health")).json()["config"]
    names = ("Anthropic API", "Claude subscription", "Z.AI", "disabled")
    assert tuple(chain[name] for name in ("primary", "fallback1", "fallback2", "fallback3")) == names
