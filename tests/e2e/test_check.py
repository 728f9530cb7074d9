"""What the commands say beforehand, beside what a running installation does: `check` and `explain`."""

import json

from service.commands.check_redis import scratch_commands
from tests.support.installation import Installation, Proxy
from tests.support.messages import client_of
from tests.support.processes import run
from tests.support.waiting import eventually
from workers.check import queue_commands

CONNECTION = {
    "auth",
    "hello",
    "quit",
    "client|info",
    "client|setinfo",
    "client|id",
    "config|get",
    "subscribe",
    "unsubscribe",
}
"""What a connection's own library sends, and does without where it is refused."""
OF_TESTS = {"flushall", "config|resetstat", "config|set", "acl|whoami"}


def name_of(command: tuple[str | int, ...]) -> str:
    """A command as INFO commandstats calls it."""
    first = str(command[0]).lower()
    return f"{first}|{command[1]}".lower() if first in ("script", "client") else first


def test_check_tries_every_command_that_is_used(installation: Installation, proxy: Proxy) -> None:
    """By proxies, workers, their queue, and commands: none is missing in the lists of the check."""
    body = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    with installation.redis() as redis, client_of(proxy.url) as client:
        redis.config_resetstat()
        assert client.post("/v1/messages", json=body).status_code == 200
        variables = installation.addresses | installation.upstreams
        for command in (["status"], ["keys", "list"], ["routes", "reset", "zai"]):
            status, said = run(*command, home=installation.folder / "check", variables=variables)
            assert status == 0, said
        used = {name.removeprefix("cmdstat_") for name in redis.info("commandstats")}
    tried = {name_of(command) for command in (*scratch_commands("a"), *queue_commands("b"))}
    assert used - CONNECTION - OF_TESTS - tried == set()


def test_a_running_installation_is_green(installation: Installation) -> None:
    """All of it, as one process asks."""
    status, said = run(
        "check", "--json", home=installation.folder / "check", variables=installation.addresses | installation.upstreams
    )
    assert status == 0, said
    found = {finding["what"]: finding["ok"] for finding in json.loads(said.splitlines()[-1])}
    assert {name: found[name] for name in ("anthropic", "zai", "redis", "postgres", "queue")} == dict.fromkeys(
        ("anthropic", "zai", "redis", "postgres", "queue"), True
    )


def test_explain_says_where_a_request_goes(installation: Installation, proxy: Proxy) -> None:
    """The route that it names is the one that serves, whatever an operator has turned off."""
    variables = installation.addresses | installation.upstreams
    body = {"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    home = installation.folder / "check"
    with client_of(proxy.url) as client:
        for command, expected in (("disable", "zai"), ("enable", "anthropic")):
            assert run("routes", command, "anthropic", home=home, variables=variables)[0] == 0
            status, said = run("explain", "--json", "--model", body["model"], home=home, variables=variables)  # type: ignore[arg-type]
            assert (status, json.loads(said.splitlines()[-1])["next_route"]) == (0, expected)
            eventually(lambda: client.post("/v1/messages", json=body).headers["x-ccproxy-route"] == expected)  # noqa: B023
