"""What the whole fleet has a say in: probes, slots and reservations, decided by one real Valkey."""

import asyncio
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from service.fleet import admission
from service.fleet.admission import Grant
from service.ledger.state import Heard, Usage
from service.ledger.wire import answered_key, probe_key, reserved_key, slots_key, spent_key
from service.routing.failover import AdmissionDenied
from service.routing.quota import QuotaReading
from tests.fleet.admission.conftest import NewReplica, Replica
from tests.support.waiting import wait_for_answer

QUOTA = AdmissionDenied("quota", admission.REASONS["quota"])
SPENT = AdmissionDenied("spent", admission.REASONS["spent"])


async def test_what_needs_no_say_asks_nobody(new_replica: NewReplica, redis: Redis) -> None:
    """A closed circuit, no limit: nothing is written anywhere."""
    assert await new_replica("a").enter("1") == Grant()
    assert await redis.keys() == []


# -- probes


async def test_one_probe_at_a_time(new_replica: NewReplica) -> None:
    """In the whole fleet; the next may begin once content came, or the attempt is over."""
    a, b = new_replica("a"), new_replica("b")
    first = await a.enter("1", probe=True)
    assert isinstance(first, Grant)
    assert isinstance(await b.enter("2", probe=True), AdmissionDenied)
    assert isinstance(await a.enter("3", probe=True), AdmissionDenied)
    a.admission.note_content(first)
    await a.settled()
    second = await b.enter("4", probe=True)
    assert isinstance(second, Grant)
    b.admission.release(second)
    await b.settled()
    assert isinstance(await a.enter("5", probe=True), Grant)


async def test_sessions_go_along_behind_a_probe_that_has_content(new_replica: NewReplica, redis: Redis) -> None:
    """At all replicas and for a while, though others probe: not as probes, and no request without a session."""
    a, b = new_replica("a"), new_replica("b")
    first = await a.enter("1", probe=True)
    assert isinstance(first, Grant)
    assert isinstance(await b.enter("2", probe=True, in_session=True), AdmissionDenied)
    a.admission.note_content(first)
    await a.settled()
    assert isinstance(await b.enter("3", probe=True), Grant), "the lease is free"
    along = [await one.enter("4", probe=True, in_session=True) for one in (a, b)]
    assert [isinstance(one, Grant) and not one.probe for one in along] == [True, True]
    assert isinstance(await a.enter("5", probe=True), AdmissionDenied)
    assert 5_000 < await redis.pttl(answered_key("anthropic")) <= admission.ANSWERED_MS
    await redis.delete(answered_key("anthropic"))
    assert isinstance(await b.enter("6", probe=True, in_session=True), AdmissionDenied)


async def test_sessions_go_along_without_redis(new_replica: NewReplica) -> None:
    """This process has seen the content itself; a probe that ends without any lets nobody in."""
    away = new_replica("a")
    away.away = True
    failed = await away.enter("1", probe=True)
    assert isinstance(failed, Grant)
    away.admission.release(failed)
    first = await away.enter("2", probe=True)
    assert isinstance(first, Grant)
    assert isinstance(await away.enter("3", probe=True, in_session=True), AdmissionDenied)
    away.admission.note_content(first)
    second = await away.enter("4", probe=True)
    assert isinstance(second, Grant)
    assert isinstance(await away.enter("5", probe=True, in_session=True), Grant)


async def test_a_lease_runs_out(new_replica: NewReplica, redis: Redis) -> None:
    """A probe that died or hangs lets another one try."""
    await new_replica("a").enter("1", probe=True)
    assert 25_000 < await redis.pttl(probe_key("anthropic")) <= admission.PROBE_MS


async def test_a_lease_that_is_anothers_by_now_stays(new_replica: NewReplica, redis: Redis) -> None:
    """Who comes late with his verdict ends no other probe."""
    a, b = new_replica("a"), new_replica("b")
    late = await a.enter("1", probe=True)
    await redis.delete(probe_key("anthropic"))
    await b.enter("2", probe=True)
    assert isinstance(late, Grant)
    a.admission.release(late)
    await a.settled()
    assert await redis.get(probe_key("anthropic")) == b"2"


# -- slots


async def test_slots_are_the_fleets(new_replica: NewReplica) -> None:
    """Two for all; one that is given back is anybody's."""
    a, b = new_replica("a"), new_replica("b")
    held = await a.slot("1")
    assert isinstance(held, Grant)
    assert isinstance(await b.slot("2"), Grant)
    assert await b.slot("3") == AdmissionDenied("slots", admission.REASONS["slots"])
    a.admission.release(held)
    await a.settled()
    assert isinstance(await b.slot("4"), Grant)


async def test_slots_of_the_dead_run_out(new_replica: NewReplica, redis: Redis) -> None:
    """What nobody renews is free again."""
    a, b = new_replica("a"), new_replica("b")
    for number in range(2):
        await a.slot(f"{number}")
    await redis.zadd(slots_key("anthropic"), {"0": 1, "1": 1})  # half a minute later
    assert isinstance(await b.slot("2"), Grant)


async def test_what_lives_is_renewed(new_replica: NewReplica, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots and reservations of an attempt under way never run out; what is gone is not brought back."""
    monkeypatch.setattr(admission, "RENEW_S", 0.02)
    a = new_replica("a")
    await a.slot("1")
    await a.reserve("2")
    gone = await a.slot("3")
    assert isinstance(gone, Grant)
    await redis.zadd(slots_key("anthropic"), {"1": 5})
    await redis.zrem(slots_key("anthropic"), "3")
    await redis.hset(reserved_key("anthropic"), "2", "100 5 a 0 1")
    await a.admission.start()

    async def renewed() -> Any:
        score = await redis.zscore(slots_key("anthropic"), "1")
        held = await redis.hget(reserved_key("anthropic"), "2")
        return held if score and score > 5 and held != b"100 5 a 0 1" else None

    held = await wait_for_answer(renewed)
    assert held is not None
    tokens, until, owner, seq, _ = held.split()
    assert (tokens, owner, seq) == (b"100", b"a", b"0")
    assert int(until) > 10**12
    assert await redis.zscore(slots_key("anthropic"), "3") is None


async def test_client_keys_have_slots_too(new_replica: NewReplica) -> None:
    """Of their own, whatever routes their requests take."""
    a, b = new_replica("a"), new_replica("b")
    held = await a.admission.admit_key("alice", 1, "r1")
    assert isinstance(held, Grant)
    assert isinstance(await b.admission.admit_key("alice", 1, "r2"), AdmissionDenied)
    assert isinstance(await b.admission.admit_key("bob", 1, "r3"), Grant)
    a.admission.release(held)
    await a.settled()
    assert isinstance(await b.admission.admit_key("alice", 1, "r4"), Grant)


# -- reservations


async def test_no_more_is_admitted_than_the_limit_holds(new_replica: NewReplica) -> None:
    """Nine hundred of a thousand are used: one attempt of a hundred fits, whoever asks."""
    a, b = new_replica("a"), new_replica("b")
    assert isinstance(await a.reserve("1", used=900), Grant)
    assert await b.reserve("2", used=900) == QUOTA


async def test_what_was_reserved_and_not_used_is_free_again(new_replica: NewReplica) -> None:
    """The reservation becomes what was used, at once, for all."""
    a, b = new_replica("a"), new_replica("b")
    held = await a.reserve("1", used=800)
    assert isinstance(held, Grant)
    a.admission.release(held, tokens=30, seq=7)
    await a.settled()
    b.hears(a=6)
    assert isinstance(await b.reserve("2", used=800), Grant)  # 800 + 30 + 100
    assert await b.reserve("3", used=800) == QUOTA  # 800 + 30 + 100 + 100


async def test_nothing_is_counted_twice(new_replica: NewReplica) -> None:
    """What a view has heard of is in its figure already: its own events at once, others' with the snapshot."""
    a, b = new_replica("a"), new_replica("b")
    held = await a.reserve("1", used=800)
    assert isinstance(held, Grant)
    a.admission.release(held, tokens=100, seq=7)
    await a.settled()
    b.hears(a=6)
    assert await b.reserve("2", used=850) == QUOTA  # 850 + 100 + 100
    b.hears(a=7)
    assert isinstance(await b.reserve("3", used=900), Grant)
    assert await a.reserve("4", used=900) == QUOTA  # its own 100 are in the 900; b's are reserved


async def test_nothing_is_reserved_of_an_attempt_without_an_end(new_replica: NewReplica) -> None:
    """One that never went up gives everything back."""
    a = new_replica("a")
    held = await a.reserve("1", used=900)
    assert isinstance(held, Grant)
    a.admission.release(held)
    await a.settled()
    assert isinstance(await a.reserve("2", used=900), Grant)


async def test_what_a_client_used_that_left_at_the_end_stays_reserved(new_replica: NewReplica, redis: Redis) -> None:
    """Nobody waited for its event's number; others' views get it within seconds, and until then it counts here."""
    a, b = new_replica("a"), new_replica("b")
    held = await a.reserve("1", used=900)
    assert isinstance(held, Grant)
    a.admission.release(held, tokens=80, seq=0)
    await a.settled()
    assert await b.reserve("2", used=900) == QUOTA
    entry = await redis.hget(reserved_key("anthropic"), "1")
    assert entry is not None
    assert int(entry.split()[1]) <= a.clock.now_ms() + admission.GRANT_TTL_MS


async def test_reservations_of_the_dead_run_out(new_replica: NewReplica, redis: Redis) -> None:
    """A crash blocks the quota for half a minute at most."""
    a, b = new_replica("a"), new_replica("b")
    await a.reserve("1", used=900)
    assert await b.reserve("2", used=900) == QUOTA
    await redis.hset(reserved_key("anthropic"), "1", "100 5 a 0 1")
    assert isinstance(await b.reserve("3", used=900), Grant)


async def test_a_replica_that_has_fallen_silent_is_counted_once(new_replica: NewReplica) -> None:
    """It ended its attempts a quarter of an hour ago: they are in every view's figure, and reserved no more."""
    a, b = new_replica("a"), new_replica("b")
    held = await a.reserve("1", used=800)
    assert isinstance(held, Grant)
    a.admission.release(held, tokens=100, seq=7)
    await a.settled()
    b.ledger.heard = {"a": Heard(high=7, at_ms=b.clock.now_ms() - 900_000)}
    assert isinstance(await b.reserve("2", used=900), Grant)


async def test_a_clock_that_is_ahead_holds_nothing_longer(
    new_replica: NewReplica, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lives is renewed by Redis's clock: a host's own may be wrong by hours, and the dead go in time."""
    monkeypatch.setattr("service.fleet.admission.RENEW_S", 0.01)
    a = new_replica("a")
    a.clock._ahead_of_monotonic_ms += 3_600_000
    assert isinstance(await a.slot("1"), Grant)
    await redis.zadd(slots_key("anthropic"), {"1": 1.0})
    await a.admission.start()

    async def renewed() -> float:
        ends_ms = await redis.zscore(slots_key("anthropic"), "1") or 0
        return ends_ms if ends_ms > 1 else 0

    ends_ms = await wait_for_answer(renewed)
    seconds, _ = await redis.time()
    assert seconds < ends_ms / 1000 < seconds + 60


async def test_a_process_that_starts_near_the_limit_learns_from_the_ledger(new_replica: NewReplica) -> None:
    """A large body that is cached mostly: by its bytes alone no room would ever do, and nothing would be learned."""
    a = new_replica("a")
    quota = QuotaReading(state="warning", used_tokens=900, limit_tokens=1_000, week_start_ms=0, resets_at_ms=0)
    assert await a.enter("1", quota=quota) == SPENT
    cells = {"alice": Usage(attempts=80, failed=10, input=400), "bob": Usage(attempts=20, output=500)}
    a.ledger.usage = {1: {"m": cells, "other": {"alice": Usage(attempts=90, input=90_000)}}}
    held = await a.enter("2", quota=quota)
    assert isinstance(held, Grant)
    assert held.tokens == 100  # ten times the mean of ninety answers


async def is_free(redis: Redis) -> bool:
    """Whether nothing is reserved."""
    return not await redis.hlen(reserved_key("anthropic"))


async def test_less_than_one_reservation_with_nothing_under_way_is_spent(new_replica: NewReplica, redis: Redis) -> None:
    """Until the quota's own reset, noted for the whole fleet, until a request has room again."""
    a, b = new_replica("a"), new_replica("b")
    a.resets_at_ms = b.resets_at_ms = a.clock.now_ms() + 86_400_000
    held = await a.reserve("1", used=850)
    assert isinstance(held, Grant)
    assert await b.reserve("2", used=901) == QUOTA  # the first is under way
    assert await redis.get(spent_key("anthropic")) is None
    a.admission.release(held)
    await wait_for_answer(lambda: is_free(redis))
    assert await b.reserve("3", used=901) == msgspec.structs.replace(SPENT, until_ms=b.resets_at_ms)
    assert await redis.get(spent_key("anthropic")) == b"0 1000"
    assert 0 < await redis.pttl(spent_key("anthropic")) <= 86_400_000
    assert (a.spent, b.spent) == ({}, {"anthropic": "0 1000"})
    assert await b.reserve("4", used=901, open_attempts=1) == QUOTA
    assert isinstance(await b.reserve("5", used=900), Grant)
    assert await redis.get(spent_key("anthropic")) is None
    assert b.spent == {}


async def test_a_request_that_need_not_reserve_takes_the_note_back(new_replica: NewReplica, redis: Redis) -> None:
    """It is far from the limit: only a very large one had too little room."""
    a = new_replica("a")
    assert await a.reserve("1", used=950) == SPENT
    assert await a.reserve("2", used=0, state="ok") == Grant()
    assert a.spent == {}

    async def is_gone() -> bool:
        return await redis.get(spent_key("anthropic")) is None

    await wait_for_answer(is_gone)


@pytest.mark.parametrize(
    ("used", "open_attempts", "denied"),
    [(900, 0, QUOTA), (901, 0, SPENT), (901, 1, QUOTA)],
    ids=["room", "none", "open"],
)
async def test_away_what_is_spent_is_known_all_the_same(
    new_replica: NewReplica, used: int, open_attempts: int, denied: AdmissionDenied
) -> None:
    """As far as the own view goes."""
    a = new_replica("a")
    a.away = True
    assert await a.reserve("1", used=used, open_attempts=open_attempts) == denied


async def test_what_began_unreserved_counts_with_its_mean(new_replica: NewReplica) -> None:
    """Attempts that began when the limit was far away are under way all the same."""
    a = new_replica("a")
    assert await a.reserve("1", used=700, open_attempts=3) == QUOTA  # 700 + 3 * 100 + 100
    assert isinstance(await a.reserve("2", used=700, open_attempts=2), Grant)


async def test_old_entries_go_once_they_are_heard(new_replica: NewReplica, redis: Redis) -> None:
    """The hash does not grow; what a view may still lack stays."""
    a = new_replica("a")
    a.hears(b=9)
    now_ms = a.clock.now_ms()
    entries: dict[Any, Any] = {
        "old": f"1 {now_ms + 10**6} b 5 {now_ms - admission.RESERVATION_GRACE_MS}",
        "fresh": f"1 {now_ms + 10**6} b 6 {now_ms}",
        "unheard": f"1 {now_ms + 10**6} b 10 {now_ms - admission.RESERVATION_GRACE_MS}",
    }
    await redis.hset(reserved_key("anthropic"), mapping=entries)
    assert isinstance(await a.reserve("mine"), Grant)
    assert set(await redis.hkeys(reserved_key("anthropic"))) == {b"fresh", b"unheard", b"mine"}


async def test_far_from_the_limit_nothing_is_reserved(new_replica: NewReplica, redis: Redis) -> None:
    """Not even twice of what is under way could reach it."""
    a = new_replica("a")
    assert await a.reserve("1", used=100, state="ok", open_attempts=3) == Grant()
    assert await redis.keys() == []
    assert (await a.reserve("2", used=100, state="ok", open_attempts=4)) != Grant()


# -- Redis away


async def test_away_each_probes_for_itself_after_a_pause_of_its_own(new_replica: NewReplica) -> None:
    """One probe for each process, not all at one moment."""
    replicas = [new_replica(name) for name in "abcdef"]
    for replica in replicas:
        replica.away = True
    now_ms = replicas[0].clock.now_ms()
    at_once = [await replica.enter("1", probe=True, until_ms=now_ms) for replica in replicas]
    later = [await replica.enter("2", probe=True, until_ms=now_ms - admission.AWAY_JITTER_MS) for replica in replicas]
    assert sum(isinstance(answer, Grant) for answer in at_once) < len(replicas)
    assert all(isinstance(answer, Grant) for answer in later[1:])
    assert isinstance(await replicas[1].enter("3", probe=True, until_ms=0), AdmissionDenied)


async def test_away_a_probe_that_hangs_lets_another_one_try(new_replica: NewReplica) -> None:
    """As the lease in Redis would, after half a minute."""
    a = new_replica("a")
    a.away = True
    assert isinstance(await a.enter("1", probe=True), Grant)
    assert isinstance(await a.enter("2", probe=True), AdmissionDenied)
    a.clock._ahead_of_monotonic_ms += admission.PROBE_MS
    assert isinstance(await a.enter("3", probe=True), Grant)


async def test_away_each_takes_its_share_of_the_slots(new_replica: NewReplica) -> None:
    """The limit by the replicas last known; at least one."""
    a = new_replica("a")
    a.away, a.replicas = True, 2
    assert isinstance(await a.slot("1", slots=4), Grant)
    assert isinstance(await a.slot("2", slots=4), Grant)
    assert isinstance(await a.slot("3", slots=4), AdmissionDenied)
    a.replicas = 9
    lone = new_replica("b")
    lone.away, lone.replicas = True, 9
    assert isinstance(await lone.slot("4", slots=4), Grant)


async def test_away_a_quota_near_its_end_is_not_used(new_replica: NewReplica) -> None:
    """Nobody knows what the others reserve."""
    a = new_replica("a")
    a.away = True
    assert await a.reserve("1", used=900) == QUOTA
    assert await a.reserve("2", used=100, state="ok") == Grant()


async def test_a_redis_that_does_not_answer_is_away(new_replica: NewReplica, redis: Redis) -> None:
    """The request waits a moment, then goes on by the rules for Redis away; what Redis may hold is given back."""
    a = new_replica("a")
    await redis.client_pause(600)
    held = await a.slot("1")
    assert held == Grant("1", "anthropic", slot=True, shared=True)
    await redis.zadd(slots_key("anthropic"), {"1": 10**14})  # as if it had come to it after all
    a.admission.release(held)
    await a.settled()
    assert await redis.zcard(slots_key("anthropic")) == 0


async def test_a_client_that_goes_while_redis_is_asked_leaves_nothing(new_replica: NewReplica, redis: Redis) -> None:
    """What the script took for an attempt that never begins is free again at once, not when it runs out."""
    a = new_replica("a")
    real = a.admission._script
    taken = asyncio.Semaphore(0)

    async def late(**told: Any) -> object:
        assert real is not None
        await real(**told)
        taken.release()
        return await asyncio.Event().wait()

    a.admission._script = late  # type: ignore[assignment]
    asking = [asyncio.create_task(a.slot("1")), asyncio.create_task(a.enter("2", probe=True))]
    for _ in asking:
        await taken.acquire()
    assert await redis.zcard(slots_key("anthropic"))
    assert await redis.exists(probe_key("anthropic"))
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await a.settled()
    assert await redis.zcard(slots_key("anthropic")) == 0
    assert not await redis.exists(probe_key("anthropic"))


# -- without Redis


async def test_a_process_alone_decides_alone(alone: Replica) -> None:
    """Probe, slots and reservations are its own affair."""
    assert isinstance(await alone.enter("1", probe=True, until_ms=alone.clock.now_ms()), Grant)
    assert isinstance(await alone.enter("2", probe=True, until_ms=0), AdmissionDenied)
    assert isinstance(await alone.slot("3"), Grant)
    assert isinstance(await alone.slot("4"), Grant)
    assert isinstance(await alone.slot("5"), AdmissionDenied)
    assert isinstance(await alone.reserve("6", used=900), Grant)
    assert await alone.reserve("7", used=900) == QUOTA
