"""Marked secrets in every setting that can hold one, and a search for them in everything that anybody is shown."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from service.console.redacted_settings import redacted_settings_view
from service.settings import VARIABLES, load
from tests.fakes import FakeProvider, reply
from tests.support.proxies import Server, server_of

MARK = "MARKED-SECRET"
ADDRESSES = {
    "DATABASE_URL": [
        (f"host=h password={MARK}", "h:5432"),
        (f"host=h password='a {MARK}' dbname=d", "h:5432/d"),
        (f"postgresql://u:{MARK}@h/d", "h:5432/d"),
        (f"postgresql://u:a@{MARK}@h/d", "h:5432/d"),
        (f"postgresql://h/d?password={MARK}", "h:5432/d"),
    ],
    "REDIS_URL": [
        (f"redis://:a@{MARK}@h", "h:6379"),
        (f"redis://h:1/2?password={MARK}", "h:1"),
        (f"unix://:{MARK}@/run/r.sock", "/run/r.sock"),
        (f"redis+sentinel://:{MARK}@h/main?sentinel_password={MARK}", "h:26379 (sentinel main)"),
    ],
}
SECRETS = {
    "ANTHROPIC_API_KEY": f"sk-ant-api03-{MARK}-anthropic-0123",
    "ANTHROPIC_ADMIN_KEY": f"sk-ant-admin01-{MARK}-admin-0123",
    "ZAI_API_KEY": f"zai-0123456789-{MARK}-zai-0123",
    "CLAUDE_CODE_OAUTH_TOKEN": f"sk-ant-oat01-{MARK}-oauth-0123",
    "PROXY_API_KEYS": f"ann:client-key-{MARK}-ann-0123",
    "ADMIN_TOKEN": f"admin-{MARK}-0123456789",
    "VIEWER_TOKEN": f"viewer-{MARK}-0123456789",
    "METRICS_TOKEN": f"metrics-{MARK}-0123456789",
    "CLAUDE_OAUTH_SHARE_KEY": f"share-{MARK}-0123456789-0123456789",
    "DATABASE_URL": f"postgresql://user:{MARK}@db.example/x?sslpassword={MARK}",
    "REDIS_URL": f"redis://user:{MARK}@redis.example:6379/0",
    "RQ_REDIS_URL": f"redis://:{MARK}@rq.example:6379/0",
    "DB_PASSWORD": f"{MARK}-db",
}
OWN = f"sk-ant-own-{MARK}-of-the-client"
PROMPT = f"{MARK} in a prompt"
SHOWN = (
    "/health", "/livez", "/readyz", "/metrics", "/schema", "/schema/openapi.json", "/providers", "/config", "/usage",
    "/logs?limit=500", "/logs/ui",
    *(f"/admin/api/{name}" for name in ("session", "overview", "routes", "attempts", "fleet", "events", "keys",
                                        "settings", "usage", "latency", "dead-letters", "requests/x")),
)  # fmt: skip


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    async with server_of(tmp_path, monkeypatch) as made:
        yield made


def test_every_variable_that_sounds_secret_is_marked() -> None:
    """A new secret setting must be planted here as well."""
    wanted = {
        one.name
        for one in VARIABLES
        if any(word in one.name for word in ("KEY", "TOKEN", "PASSWORD", "SECRET"))
        and not one.name.endswith(("_THRESHOLD", "_URL", "_PATH", "_MS"))
    }
    assert wanted <= SECRETS.keys()


def test_settings_are_masked(tmp_path: Path) -> None:
    """What is shown of the settings has no mark, and says which of them are set."""
    settings = load(None, {"CCPROXY_HOME": str(tmp_path), **SECRETS})
    shown = redacted_settings_view(settings)
    assert MARK not in msgspec.json.encode(shown).decode()
    masked = {view.name for view in shown if view.value == "***"}
    assert {"admin_token", "viewer_token", "metrics_token", "routes.anthropic.api_key"} <= masked


@pytest.mark.parametrize(("variable", "name"), [("DATABASE_URL", "database_url"), ("REDIS_URL", "redis_url")])
def test_of_an_address_the_place_is_shown(tmp_path: Path, variable: str, name: str) -> None:
    """In every form of an address with a password."""
    for address, shown in ADDRESSES[variable]:
        settings = load(None, {"CCPROXY_HOME": str(tmp_path), variable: address})
        [view] = [view for view in redacted_settings_view(settings) if view.name == name]
        assert (view.value, view.secret) == (shown, False)
        assert MARK not in repr(settings)


def test_a_setting_is_shown_with_its_meaning(tmp_path: Path) -> None:
    """The one of its declaration."""
    views = {view.name: view for view in redacted_settings_view(load(None, {"CCPROXY_HOME": str(tmp_path)}))}
    meanings = {variable.meaning for variable in VARIABLES}
    assert views["timeouts.connect_ms"].meaning == "longest wait for a connection to a provider"
    assert {view.meaning for view in views.values()} - {""} <= meanings


def test_a_setting_is_shown_with_the_name_that_one_types(tmp_path: Path) -> None:
    """The variable's, of the usual routes as well; what the TOML file alone sets has its place."""
    home = {"CCPROXY_HOME": str(tmp_path)}
    views = {view.name: view.variable for view in redacted_settings_view(load(None, home))}
    assert views["timeouts.connect_ms"] == "API_CONNECT_TIMEOUT_MS"
    assert views["policy.quota.weights.cache_read"] == "QUOTA_WEIGHTS"
    assert views["routes.zai.weekly_tokens"] == "ZAI_WEEKLY_LIMIT"
    assert views["routes.subscription.api_key"] == "CLAUDE_CODE_OAUTH_TOKEN"
    assert set(views.values()) - {""} <= {variable.name for variable in VARIABLES}
    (tmp_path / "c.toml").write_text('[[routes]]\nid = "zai"\nprovider = "zai"\n', encoding="utf-8")
    views = {view.name: view.variable for view in redacted_settings_view(load(tmp_path / "c.toml", home))}
    assert views["routes.zai.weekly_tokens"] == ""


async def test_no_secret_is_shown_anywhere(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Through good and bad requests: no answer, log line, metric or event has one, nor a prompt."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("ccproxy").setLevel(logging.DEBUG)
    planted = SECRETS | {"REDIS_URL": f"redis://user:{MARK}@127.0.0.1:1/0?client_name=x"}
    with FakeProvider("anthropic", keys={SECRETS["ANTHROPIC_API_KEY"]}) as fake:
        variables = {**planted, "ANTHROPIC_BASE_URL": fake.base_url, "CLAUDE_SUBSCRIPTION_BASE_URL": fake.base_url,
                     "ZAI_BASE_URL": fake.base_url, "API_MAX_RETRIES": "0"}  # fmt: skip
        served = await server.start(variables=variables)
        key = SECRETS["PROXY_API_KEYS"].partition(":")[2]
        body = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": PROMPT}]}
        own = {"authorization": f"Bearer {OWN}"}
        answers = [
            await served.ask(body, headers={"x-api-key": key}),
            await served.ask(body, headers={"x-api-key": f"{MARK}-wrong"}),
            await served.ask(body, headers=own),
            await served.ask(body),
        ]
        fake.script(reply.error(401), reply.error(401), reply.error(401))
        answers.append(await served.ask(body, headers={"x-ccproxy-key": key, "x-api-key": OWN}))
        issued = await served.http.post(
            "/admin/api/keys", json={"name": "ben"}, headers={"authorization": f"Bearer {SECRETS['ADMIN_TOKEN']}"}
        )
        for token in (SECRETS["ADMIN_TOKEN"], f"{MARK}-wrong-token", ""):
            for path in SHOWN:
                served.parts.brake._failures.clear()
                headers = {"authorization": f"Bearer {token}"} if token else {}
                answers.append(await served.http.get(path, headers=headers))
        assert answers[0].status_code == 200
        for answer in answers:
            told = answer.text + str(answer.headers)
            assert MARK not in told, (answer.request.url, told[max(0, told.find(MARK) - 200) :][:400])
        made = issued.json()["key"]
        everything = "\n".join(answer.text for answer in answers) + caplog.text
        everything += "".join(msgspec.json.encode(event).decode() for _, event in served.events)
        everything += str([vars(record) for record in caplog.records if record.name.startswith("ccproxy")])
        assert MARK not in everything
        assert made not in everything
        assert "Anthropic" in caplog.text, "the log was listened to"
