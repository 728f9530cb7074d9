"""`ccproxy explain` and the next route of `ccproxy status`, of a real Valkey that holds what routing decides with."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from redis import Redis

from service.cli import main
from service.commands.explain import doubt_of
from service.embedded.valkey import Valkey
from service.fleet.control_stream import Operator
from service.fleet.status import FleetView
from service.ledger import wire
from service.ledger.state import RouteLedger, Wait
from service.routing.explanation import LAST_RESORT, ExplainedRoute
from service.routing.route_status import RouteStatus, fields_of
from service.routing.view import View

LATER_MS = 3_600_000


class Fleet:
    """Commands on a Valkey, with two routes that have keys."""

    def __init__(self, url: str, redis: Redis, home: Path) -> None:
        self.redis = redis
        self.environ = {
            "REDIS_URL": url, "CCPROXY_HOME": str(home), "NO_COLOR": "1", "ANTHROPIC_API_KEY": "k", "ZAI_API_KEY": "k",
        }  # fmt: skip

    def run(self, *arguments: str) -> Result:
        """A command."""
        return CliRunner().invoke(main, arguments, env=self.environ)

    def explain(self, *options: str) -> dict[str, Any]:
        """What is explained, as JSON."""
        result = self.run("explain", "--json", *options)
        assert result.exit_code == 0, result.output
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def wait_on(self, route: str, scope: str = "throttle") -> None:
        """A route cools down."""
        now_ms = Operator(self.redis).now_ms()
        ledger = RouteLedger(waits={scope: Wait(at_ms=now_ms, until_ms=now_ms + LATER_MS, kind="throttle")})
        made = wire.Snapshot(
            version=wire.SNAPSHOT_VERSION, stream=route, epoch=1, position=1, stream_id="1-1", as_of_ms=now_ms,
            ledger=msgspec.Raw(wire.encode_ledger(ledger)),
        )  # fmt: skip
        self.redis.set(wire.snapshot_key(route), wire.encode_snapshot(made))
        self.redis.sadd(wire.STREAMS_KEY, route)


@pytest.fixture
def fleet(valkey: Valkey, redis: Redis, tmp_path: Path) -> Fleet:
    return Fleet(valkey.url, redis, tmp_path)


def places(found: dict[str, Any]) -> dict[str, int]:
    """The places of the routes."""
    return {each["route"]: each["place"] for each in found["routes"]}


def test_what_the_proxies_see_is_not_contradicted(fleet: Fleet) -> None:
    """Their circuits open and stay open by their settings, which a shell may not have."""
    route = RouteStatus(route="anthropic", title="Anthropic", state="circuit_open", reason="7 failures in a row")
    zai = RouteStatus(route="zai", title="Z.AI", state="healthy")
    for reading in (route, zai):
        fields: Any = fields_of(reading)
        fleet.redis.hset(wire.route_key(reading.route), mapping=fields)
    fleet.redis.hset(wire.replica_key("r1"), mapping={"at_ms": "1", "routes": "anthropic,zai"})
    assert json.loads(fleet.run("status", "--json").stdout)["next_route"] == "zai"
    explained = fleet.run("explain").stdout
    assert "To the proxies, anthropic is circuit open (7 failures in a row): their settings are others" in explained
    fields = fields_of(msgspec.structs.replace(zai, state="circuit_open"))
    fleet.redis.hset(wire.route_key("zai"), mapping=fields)
    assert "no route is available; anthropic is tried all the same" in fleet.run("status").stdout


def test_check_says_what_the_proxies_know_of_a_credential(fleet: Fleet) -> None:
    """Its own look finds a token that can be refreshed; that the log-in has ended shows when a proxy tries."""
    words = "its login has ended; log in with Claude Code again (claude /login)"
    fields: Any = fields_of(RouteStatus(route="zai", title="Z.AI", state="no_credential", reason=words))
    fleet.redis.hset(wire.route_key("zai"), mapping=fields)
    for is_live in (False, True):
        if is_live:
            fleet.redis.hset(wire.replica_key("r1"), mapping={"at_ms": "1", "routes": "anthropic,zai"})
        result = fleet.run("check", "--json")
        said = [one for one in json.loads(result.stdout) if one["what"] == "zai" and words in one["words"]]
        assert [one["ok"] for one in said] == ([False] if is_live else [])


def test_an_outage_that_only_this_shell_sees_is_doubted() -> None:
    """Its settings open circuits that the proxies' keep closed."""
    down = ExplainedRoute("zai", "Z.AI", 1, "", "", LAST_RESORT)
    for circuit, doubt in ((False, "To the proxies, zai is healthy: their settings are others"), (True, "")):
        reading = RouteStatus(route="zai", title="Z.AI", state="circuit_open" if circuit else "healthy")
        assert doubt_of((down,), FleetView(0, View(), (), (reading,))).startswith(doubt)
        assert circuit is not bool(doubt_of((down,), FleetView(0, View(), (), (reading,))))


def test_the_order_is_that_of_the_settings(fleet: Fleet) -> None:
    """With the models under which each would be asked, and why one is not."""
    found = fleet.explain("--model", "claude-sonnet-4-6")
    assert found["next_route"] == "anthropic"
    assert places(found) == {"anthropic": 1, "zai": 2, "subscription": 0}
    assert [each["model"] for each in found["routes"]] == ["claude-sonnet-4-6", "glm-5.2", ""]
    assert "CLAUDE_SUBSCRIPTION_ENABLED" in found["routes"][2]["reason"]
    assert fleet.explain("--model", "glm-5.2")["next_route"] == "zai"


@pytest.mark.parametrize("name", ["anthropic", "zai"])
def test_a_provider_may_be_assumed_to_be_down(fleet: Fleet, name: str) -> None:
    """The answer to what would happen then: the other one serves; nothing is changed by asking."""
    found = fleet.explain("--without", name)
    assert found["next_route"] == {"anthropic": "zai", "zai": "anthropic"}[name]
    assert places(found)[name] == 0
    assert fleet.explain()["next_route"] == "anthropic"
    nobody = fleet.explain("--without", "anthropic", "--without", "zai")
    assert nobody["next_route"] == ""
    assert "No route can answer now." in fleet.run("explain", "--without", "anthropic", "--without", "zai").output


def test_a_provider_takes_its_subscription_along(fleet: Fleet) -> None:
    """Two routes of one provider are down together."""
    fleet.environ |= {"CLAUDE_SUBSCRIPTION_ENABLED": "true", "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-x"}
    assert places(fleet.explain()) == {"anthropic": 1, "subscription": 2, "zai": 3}
    assert places(fleet.explain("--without", "anthropic")) == {"zai": 1, "anthropic": 0, "subscription": 0}


def test_what_holds_a_route_back_is_told(fleet: Fleet) -> None:
    """With its end; `status` has the same next route."""
    fleet.wait_on("anthropic")
    found = fleet.explain()
    [held] = [each for each in found["routes"] if each["route"] == "anthropic"]
    assert (held["place"], held["skip_reason"]) == (0, "waiting")
    assert held["until_ms"] > found["at_ms"]
    assert found["next_route"] == "zai"
    assert "anthropic: not tried: " in fleet.run("explain").output
    assert json.loads(fleet.run("status", "--json").stdout)["next_route"] == "zai"
    assert "next      zai" in fleet.run("status").output
    fleet.run("routes", "disable", "zai", "--reason", "too dear")
    assert "zai: not tried: disabled: too dear" in fleet.run("explain").output
    assert "next      no route can answer now" in fleet.run("status").output


def test_a_client_key_is_explained(fleet: Fleet) -> None:
    """Its routes, its models, its limits; of the settings' keys only that they have none."""
    fleet.run("keys", "issue", "ada", "--routes", "zai", "--models", "claude-*")
    assert places(fleet.explain("--key", "ada")) == {"zai": 1}
    assert fleet.explain("--key", "ada", "--model", "glm-5.2")["refusal"] == "the key ada may not use glm-5.2"
    fleet.run("keys", "limit", "ada", "--weekly-tokens", "0")
    spent = fleet.explain("--key", "ada")
    assert (spent["refusal"], spent["next_route"]) == ("the key ada is spent", "")
    assert "No route: the key ada is spent." in fleet.run("explain", "--key", "ada").output
    fleet.environ["PROXY_API_KEYS"] = "bob:a-long-enough-key"
    assert fleet.explain("--key", "bob")["next_route"] == "anthropic"
    assert "no key 'eve'" in fleet.run("explain", "--key", "eve").output


def test_a_name_that_nobody_has_is_refused(fleet: Fleet) -> None:
    """With those that are."""
    result = fleet.run("explain", "--without", "bedrock")
    assert result.exit_code == 1
    assert "available: anthropic, subscription, zai" in result.output


def test_without_redis_the_mend_is_named(fleet: Fleet) -> None:
    """And no password."""
    fleet.environ["REDIS_URL"] = "redis://:hunter2@127.0.0.1:1"
    result = fleet.run("explain")
    assert result.exit_code == 1
    assert "start it, or correct REDIS_URL" in result.output
    assert "hunter2" not in result.output


def test_routes_that_a_proxy_has_are_explained_in_a_shell_without_keys(fleet: Fleet) -> None:
    """A live proxy's statuses say which routes are on."""
    status = json.loads(fleet.run("status", "--json").stdout)
    for reading in status["routes"]:
        fields = {
            name: json.dumps(value) if isinstance(value, list | dict) else str(value) for name, value in reading.items()
        }
        fleet.redis.hset(wire.route_key(reading["route"]), mapping=dict(fields))
    fleet.redis.hset(wire.replica_key("r1"), mapping={"pid": "1", "routes": "anthropic,subscription,zai"})
    del fleet.environ["ANTHROPIC_API_KEY"], fleet.environ["ZAI_API_KEY"]
    assert places(fleet.explain()) == {"anthropic": 1, "zai": 2, "subscription": 0}
    assert json.loads(fleet.run("status", "--json").stdout)["next_route"] == "anthropic"
