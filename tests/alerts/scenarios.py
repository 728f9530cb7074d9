"""What is made to go wrong in an installation while it is scraped, one function each; its docstring goes into the file.

The mark `wrong` is when it begins, `mended` when it is over. Every scenario begins with a healthy minute. Not here: the
alerts that have to go off (`test_recordings`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.ledger.wire import events_key
from tests.alerts.lab import Clients
from tests.fakes import reply
from tests.support.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.alerts.lab import Lab
    from tests.fakes import Reply

HEALTHY_S = 60
OUTAGE_S = 165


def healthy(lab: Lab) -> None:
    """The default installation from its start on, with a key that nobody uses; in the end nobody asks any more."""
    lab.start(PROXY_API_KEYS="ann:key-of-ann-0123456789,idle:key-of-idle-0123456789")
    lab.scrape(30)
    with Clients(urls(lab), headers={"x-api-key": "key-of-ann-0123456789"}):
        lab.scrape(300)
    lab.mark("idle")
    lab.scrape(150)


def fleet(lab: Lab) -> None:
    """Two proxies with two routes, restarted in turn under traffic."""
    lab.start(2, zai=True)
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        for proxy in tuple(lab.proxies):
            lab.restart(proxy)
            lab.scrape(60)
        lab.scrape(120)


def outage_refused(lab: Lab) -> None:
    """Both providers refuse connections, to two proxies."""
    lab.start(2, zai=True)
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        with lab.anthropic.refusing(), lab.zai.refusing():
            lab.scrape(OUTAGE_S)
        lab.mark("mended")
        lab.scrape(90)


def outage_overloaded(lab: Lab) -> None:
    """The only provider of a default installation is overloaded."""
    answers(lab, reply.error(529))


def outage_credential(lab: Lab) -> None:
    """The only key of a default installation is refused."""
    answers(lab, reply.error(401))


def outage_throttled(lab: Lab) -> None:
    """The only provider of a default installation answers 429 with a wait of five minutes."""
    answers(lab, reply.error(429, retry_after_s=300))


def outage_alone(lab: Lab) -> None:
    """The only provider refuses connections, to one developer who asks every ten seconds."""
    lab.start()
    lab.ready()
    with Clients(urls(lab), 1, pause_s=10):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        with lab.anthropic.refusing():
            lab.scrape(OUTAGE_S)
        lab.mark("mended")
        lab.scrape(90)


def outage_hang(lab: Lab) -> None:
    """Both providers accept requests and say nothing, to two proxies."""
    lab.start(2, zai=True)
    lab.ready()
    with Clients(urls(lab), 8):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.anthropic.default = lab.zai.default = reply.hang()
        lab.scrape(OUTAGE_S)
        lab.mark("mended")
        lab.anthropic.default = lab.zai.default = reply.message()
        lab.scrape(60)


def some_fail(lab: Lab) -> None:
    """The only provider answers every tenth request with 500."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.anthropic.script(*([reply.message()] * 9 + [reply.error(500)]) * 100)
        lab.scrape(240)


def route_away(lab: Lab) -> None:
    """One of two providers refuses connections."""
    lab.start(zai=True)
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        with lab.anthropic.refusing():
            lab.scrape(300)


def credential_refused(lab: Lab) -> None:
    """One of two keys is refused."""
    lab.start(zai=True)
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.anthropic.default = reply.error(401)
        lab.scrape(150)


def credential_missing(lab: Lab) -> None:
    """A subscription is switched on, and has no token; Anthropic's key serves."""
    lab.start(CLAUDE_SUBSCRIPTION_ENABLED="true")
    with Clients(urls(lab)):
        lab.mark("wrong")
        lab.scrape(120)


def events_lost(lab: Lab) -> None:
    """Redis evicts a stream that no worker has folded."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.kill_worker()
        lab.scrape(15)
        with lab.installation.redis() as redis:
            redis.delete(events_key("anthropic"))
        lab.scrape(30)
        lab.installation.start_worker()
        lab.scrape(60)


def client_credential_refused(lab: Lab) -> None:
    """A client's own credential is refused, by a proxy that has one of its own."""
    lab.start(CLIENT_CREDENTIALS="prefer")
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        with Clients(urls(lab), 2, headers={"x-api-key": "sk-ant-api03-revoked-marked-cccccccccccc"}):
            lab.scrape(150)


def quota_spent(lab: Lab) -> None:
    """The weekly limit of the only route is used up."""
    lab.start(ANTHROPIC_WEEKLY_LIMIT="10000")
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.scrape(210)


def quota_near(lab: Lab) -> None:
    """The weekly limit of one of two routes is nearly used up, so that the other one takes the requests."""
    lab.start(zai=True, ANTHROPIC_WEEKLY_LIMIT="16000")
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.scrape(300)


def workers_gone(lab: Lab) -> None:
    """The only worker dies; a new one is started."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.kill_worker()
        lab.scrape(300)
        lab.mark("mended")
        lab.installation.start_worker()
        lab.scrape(60)


def workers_never(lab: Lab) -> None:
    """No worker was ever started."""
    lab.kill_worker()
    lab.start()
    with Clients(urls(lab)):
        lab.mark("wrong")
        lab.scrape(120)


def postgres_gone(lab: Lab) -> None:
    """Postgres stops."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.installation.postgres.stop()
        lab.scrape(180)
        lab.mark("mended")
        lab.installation.postgres.start()
        lab.scrape(60)


def redis_gone(lab: Lab) -> None:
    """Redis stops, and is back after three minutes."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.installation.valkey.stop()
        lab.scrape(180)
        lab.mark("mended")
        lab.installation.valkey.start()
        lab.scrape(90)


def redis_full(lab: Lab) -> None:
    """Redis has no room, and refuses what is written."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        with lab.installation.redis() as redis:
            redis.config_set("maxmemory", "1")
            lab.scrape(165)
            lab.mark("mended")
            redis.config_set("maxmemory", "0")
        lab.scrape(90)


def redis_evicts(lab: Lab) -> None:
    """Redis is set to drop keys when it is full, which it is not yet."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        with lab.installation.redis() as redis:
            redis.config_set("maxmemory", "1gb")
            redis.config_set("maxmemory-policy", "allkeys-lru")
            lab.scrape(255)
            lab.mark("mended")
            redis.config_set("maxmemory-policy", "noeviction")
        lab.scrape(120)


def proxy_gone(lab: Lab) -> None:
    """One of two proxies dies, then the other one."""
    lab.start(2)
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.proxies[0].kill()
        lab.scrape(120)
        lab.mark("all wrong")
        lab.proxies[1].kill()
        lab.scrape(60)


def unpriced(lab: Lab) -> None:
    """A model that has no price is used once."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        with Clients(urls(lab), 1, pause_s=600, model="claude-unheard-of"):
            lab.scrape(60)


def key_spent(lab: Lab) -> None:
    """A client's key reaches its weekly limit of tokens; another key has none."""
    issued = run(
        "keys", "issue", "ann", "--weekly-tokens", "3000", home=lab.installation.folder / "keys",
        variables=lab.installation.addresses,
    )[1]  # fmt: skip
    key = next(word for word in issued.split() if word.startswith("ccp"))
    lab.start(PROXY_API_KEYS="ledger,ben:key-of-ben-0123456789")
    lab.ready()
    with Clients(urls(lab), headers={"x-api-key": "key-of-ben-0123456789"}):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        with Clients(urls(lab), 4, headers={"x-api-key": key}):
            lab.scrape(240)


def settings_differ(lab: Lab) -> None:
    """A proxy is started with another limit than its neighbour's."""
    lab.start()
    lab.start(ANTHROPIC_WEEKLY_LIMIT="6000000")
    lab.ready()
    lab.mark("wrong")
    with Clients(urls(lab)):
        lab.scrape(90)


def slow_first_token(lab: Lab) -> None:
    """The provider's streams begin after 35 seconds."""
    lab.start()
    lab.ready()
    lab.mark("wrong")
    lab.anthropic.default = reply.slow(35_000)
    with Clients(urls(lab), 8):
        lab.scrape(240)


def dead_letter(lab: Lab) -> None:
    """Something that is no event lies on a stream."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        with lab.installation.redis() as redis:
            redis.xadd(events_key("anthropic"), {"e": b"no event"})
        lab.scrape(90)


# -- what they have in common


def urls(lab: Lab) -> list[str]:
    """Where the proxies are."""
    return [proxy.url for proxy in lab.proxies]


def answers(lab: Lab, wrong: Reply) -> None:
    """The only provider answers wrongly for a while."""
    lab.start()
    lab.ready()
    with Clients(urls(lab)):
        lab.scrape(HEALTHY_S)
        lab.mark("wrong")
        lab.anthropic.default = wrong
        lab.scrape(OUTAGE_S)
        lab.mark("mended")
        lab.anthropic.default = reply.message()
        lab.scrape(90)


SCENARIOS: dict[str, Callable[[Lab], None]] = {
    scenario.__name__: scenario
    for scenario in (
        healthy, fleet, outage_refused, outage_overloaded, outage_credential, outage_throttled, outage_alone,
        outage_hang, some_fail, route_away, credential_refused, credential_missing, client_credential_refused,
        quota_near, quota_spent, workers_gone, workers_never, postgres_gone, redis_gone, redis_full, redis_evicts,
        events_lost, proxy_gone, unpriced, key_spent, settings_differ, slow_first_token, dead_letter,
    )
}  # fmt: skip
