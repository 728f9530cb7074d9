"""The key of fingerprints: one for all proxies with the same settings, whoever starts first, and over restarts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service.embedded.valkey import Valkey
from service.fleet import snapshots as rooms
from service.fleet.fingerprints import KEY_BYTES, FleetFingerprints
from service.ledger.wire import FINGERPRINT_KEY
from service.settings import Settings, load
from tests.fleet.snapshots.conftest import Post
from tests.support.waiting import wait_for_answer, wait_until

MakePost = Callable[..., Post]
SUBSCRIPTION = {"ANTHROPIC_API_KEY": "", "ZAI_API_KEY": "", "CLAUDE_SUBSCRIPTION_ENABLED": "true"}
BODY = b'{"model":"claude-opus-5-5"}'
CLOSED = ("messages", 400, "invalid_request_error", "Farewell.")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are short, so that no test waits for one."""
    monkeypatch.setattr(rooms, "TICK_S", 0.05)


def marks(post: Post) -> tuple[str, str]:
    """What a proxy makes of an error and of a request."""
    fingerprints = post.watcher.fingerprints.current
    return fingerprints.of_words(*CLOSED), fingerprints.of_body(BODY)


def settings_of(tmp_path: Path, **variables: str) -> Settings:
    """The settings of a proxy."""
    return load(None, {"CCPROXY_HOME": str(tmp_path), **variables})


async def begun(make_post: MakePost, replica: str) -> Post:
    """A proxy with a subscription alone, that has seen Redis."""
    post = make_post(replica, SUBSCRIPTION)
    await post.start()
    await wait_until(post.watcher.ready.is_set)
    return post


async def test_proxies_without_a_secret_agree_and_so_do_their_successors(make_post: MakePost) -> None:
    first = marks(await begun(make_post, "r1"))
    others = [marks(await begun(make_post, name)) for name in ("r2", "r3")]
    assert others == [first, first]
    assert marks(make_post("r4", SUBSCRIPTION)) != first, "before it has seen Redis it has a key of its own"
    assert marks(await begun(make_post, "r5")) == first


async def test_the_key_is_adopted_as_soon_as_redis_is_there(make_post: MakePost, valkey: Valkey) -> None:
    """Until then a proxy has its own; one that has agreed brings the key to a Redis that has lost it."""
    first = await begun(make_post, "r1")
    valkey.stop()
    late = make_post("r2", SUBSCRIPTION)
    await late.start()
    assert marks(late) != marks(first)
    valkey.start()
    await wait_until(lambda: marks(late) == marks(first))
    key = await first.hand.get(FINGERPRINT_KEY)
    await first.hand.delete(FINGERPRINT_KEY)
    assert await wait_for_answer(lambda: first.hand.get(FINGERPRINT_KEY)) == key
    assert marks(late) == marks(first)


async def test_a_value_that_is_no_key_harms_nothing(make_post: MakePost) -> None:
    """The own key stays, and the rounds go on."""
    redis = make_post("r0").redis
    await redis.set(FINGERPRINT_KEY, b"short")
    post = await begun(make_post, "r1")
    assert len(post.watcher.fingerprints.offer or b"") == KEY_BYTES
    await redis.delete(FINGERPRINT_KEY)
    await redis.lpush(FINGERPRINT_KEY, b"a list")
    await begun(make_post, "r2")


@pytest.mark.parametrize(
    "variables", [{"ANTHROPIC_API_KEY": "sk-ant-a"}, SUBSCRIPTION | {"CLAUDE_OAUTH_SHARE_KEY": "s" * 40}]
)
def test_a_configured_secret_is_the_key(tmp_path: Path, variables: dict[str, str]) -> None:
    """It is the same in every process, nothing is shared, and nothing that Redis holds replaces it."""
    one, other = (FleetFingerprints(settings_of(tmp_path, **variables)) for _ in range(2))
    assert one.offer is None
    one.adopt(b"x" * KEY_BYTES)
    assert one.current.of_body(BODY) == other.current.of_body(BODY)


async def test_proxies_with_a_secret_leave_no_key_in_redis(make_post: MakePost) -> None:
    post = make_post("r1")
    await post.start()
    await wait_until(post.watcher.ready.is_set)
    assert await post.redis.get(FINGERPRINT_KEY) is None
