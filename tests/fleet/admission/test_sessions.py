"""Where a session is, as several replicas on one real Valkey know it."""

import pytest
from redis.asyncio import Redis

from service.fleet.clock import Clock
from service.fleet.resource_index import ResourceHome, ResourceIndex
from service.ledger.wire import resource_key

TTL_S = 3_600


async def route(resources: ResourceIndex, since_ms: int = 0) -> str:
    home = await resources.moved_to("session:k:s", since_ms)
    return home.route if home else ""


async def test_a_session_that_another_replica_moved_has_moved(redis: Redis) -> None:
    """Its caches are where the last answer came from, whichever replica passed that on."""
    clock, one, other = Clock(), ResourceIndex(redis), ResourceIndex(redis)
    await one.move("session:k:s", ResourceHome("anthropic", clock.new_id()), TTL_S)
    assert await route(one) == await route(other) == "anthropic"
    await other.move("session:k:s", ResourceHome("zai", clock.new_id()), TTL_S)
    assert await route(one) == "zai"


async def test_a_session_that_stays_may_change(redis: Redis) -> None:
    """What else is known of its last answer is written when it changes; what is unchanged, only before it expires."""
    clock, one, other = Clock(), ResourceIndex(redis), ResourceIndex(redis)
    first = ResourceHome("anthropic", clock.new_id(), "account a-model")
    for home, kept in [
        (first, first),
        (ResourceHome("anthropic", clock.new_id(), "account a-model"), first),
        (changed := ResourceHome("anthropic", clock.new_id(), " another-model"), changed),
    ]:
        await one.move("session:k:s", home, TTL_S)
        assert await other.moved_to("session:k:s", 0) == kept


async def test_a_session_ends(redis: Redis) -> None:
    """With the key in Redis; where there is none, or it does not answer, when it was told too long ago."""
    clock, shared, alone = Clock(), ResourceIndex(redis), ResourceIndex(None)
    for resources in (shared, alone):
        await resources.move("session:k:s", ResourceHome("zai", clock.new_id()), TTL_S)
    later_ms = clock.now_ms() + 1
    assert (await route(alone), await route(alone, later_ms)) == ("zai", "")
    await redis.client_pause(600)
    assert (await route(shared), await route(shared, later_ms)) == ("zai", "")
    await redis.delete(resource_key("session:k:s"))
    assert await route(shared) == ""


async def test_every_replica_knows_whose_a_resource_is(redis: Redis) -> None:
    """Whoever was first is right; an owner's name may have blanks."""
    clock, one, other = Clock(), ResourceIndex(redis), ResourceIndex(redis)
    home = ResourceHome("anthropic", clock.new_id(), "Ann of Accounts")
    assert await one.bind("file_1", home) == home
    assert await other.home_of("file_1") == home
    assert await ResourceIndex(redis).bind("file_1", ResourceHome("zai", clock.new_id(), "ben")) == home
    assert await redis.ttl(resource_key("file_1")) > 300 * 86_400, "files stay until they are deleted"


@pytest.mark.parametrize(
    ("resource_id", "days"),
    [("file_1", 400), ("agent_1", 400), ("sesn_1", 400), ("memstore_1", 400), ("msgbatch_1", 40), ("container_1", 40)],
)
async def test_what_lasts_is_remembered_as_long_as_it_is_used(redis: Redis, resource_id: str, days: int) -> None:
    """Agents and the like stay until they are deleted; each look-up of another replica begins their time anew."""
    key = resource_key(resource_id)
    await ResourceIndex(redis).bind(resource_id, ResourceHome("anthropic", Clock().new_id(), "ann"))
    assert (days - 1) * 86_400 < await redis.ttl(key) <= days * 86_400
    await redis.expire(key, 60)
    assert await ResourceIndex(redis).home_of(resource_id)
    assert (days - 1) * 86_400 < await redis.ttl(key) <= days * 86_400


async def test_what_earlier_versions_wrote_has_no_owner(redis: Redis) -> None:
    """A value of the form "route event_id" is read still, and so is a new one without an owner."""
    clock = Clock()
    event_id = clock.new_id()
    await redis.set(resource_key("msgbatch_1"), f"anthropic {event_id}")
    assert await ResourceIndex(redis).home_of("msgbatch_1") == ResourceHome("anthropic", event_id, "")
    await ResourceIndex(redis).bind("msgbatch_2", ResourceHome("zai", event_id))
    assert await redis.get(resource_key("msgbatch_2")) == f"zai {event_id}".encode()
    assert await ResourceIndex(redis).home_of("x" * 200) is None


async def test_an_owner_that_is_added_later_is_noticed_where_it_is_needed(redis: Redis) -> None:
    """What an earlier version made has an owner as soon as Redis says so, also where it was asked for before."""
    clock, index = Clock(), ResourceIndex(redis)
    event_id = clock.new_id()
    await redis.set(resource_key("file_1"), f"anthropic {event_id}")
    assert await index.home_of("file_1", needs_owner=True) == ResourceHome("anthropic", event_id, "")
    await redis.set(resource_key("file_1"), f"anthropic {event_id} ann")
    assert await index.home_of("file_1") == ResourceHome("anthropic", event_id, "")
    assert await index.home_of("file_1", needs_owner=True) == ResourceHome("anthropic", event_id, "ann")
