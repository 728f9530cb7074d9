"""What the simulation has found, each as the few steps that it takes."""

from collections.abc import Iterator

import pytest

from service.ledger import ids
from service.ledger.events import BatchItemUsed, RouteDisabled, TokenCounts
from service.ledger.wire import CONTROL
from tests.simulation.replica import Replica
from tests.simulation.world import ROUTES, World, world_of

ROUTE = ROUTES[0]
SOON_S = 3.0
"""Longer than any proxy takes to look at Redis."""


@pytest.fixture
def world() -> Iterator[World]:
    """A fleet of two proxies and two workers, on a day without faults."""
    with world_of(1) as made:
        for _ in range(2):
            made.start_replica()
            made.start_worker()
        made.pass_time(SOON_S)
        yield made


def item(replica: Replica) -> BatchItemUsed:
    """The one item of a batch, told by this replica."""
    event_id = ids.derived_id(ids.uuid7(1_788_999_000_000, 0), "1")
    at_ms = replica.clock.now_ms()
    return BatchItemUsed(event_id=event_id, at_ms=at_ms, batch_id="b", custom_id="1", tokens=TokenCounts(input=10))


def test_an_item_told_twice_is_let_go_of_by_both(world: World) -> None:
    """The second replica hears that its event is settled, though no row came of it, whichever worker folds what."""
    for number, replica in enumerate(world.replicas):
        replica.run(replica._append(ROUTE, item(replica)))
        world.pass_time(SOON_S)
        fold(world, number)
    assert [len(replica.outbox.queues[ROUTE].sent) for replica in world.replicas] == [0, 0]
    for replica in world.replicas:
        replica.run(replica.ask())
    world.pass_time(SOON_S)
    fold(world, 0)
    world.rest()


def disable(world: World, replica: Replica) -> None:
    """An operator takes a route out of service, by way of this replica."""
    command = RouteDisabled(event_id=replica.clock.new_id(), at_ms=replica.clock.now_ms(), route=ROUTE)
    replica.run(replica._append(CONTROL, command))
    world.pass_time(SOON_S)


def fold(world: World, number: int) -> None:
    """A worker folds the route's stream, and the proxies hear of it."""
    world.workers[number].begin(ROUTE, {})
    world.pass_time(SOON_S)
    world.check()


def test_what_was_appended_before_the_first_look_is_appended_again(world: World) -> None:
    """A proxy that has not yet seen which Redis it speaks to doesn't take the next one for the same."""
    replica = world.replicas[0]
    replica.watcher._run_id = ""
    replica.run(replica.ask())
    world.pass_time(0.02)
    world.redis_empty()
    world.rest()
    assert world.oracle.acknowledged.keys() <= world.database.ids.keys()


def test_a_command_that_is_lost_is_lost_for_every_proxy(world: World) -> None:
    """With its maker and its Redis gone, and no worker to fold it, nobody obeys it any more."""
    maker, other = world.replicas
    disable(world, maker)
    assert other.watcher.view.control.disabled == {ROUTE: ""}
    world.bury(maker, "was killed")
    world.redis_empty()
    world.pass_time(SOON_S)
    assert other.watcher.view.control.disabled == {}
    world.rest()


def test_a_command_outlives_its_redis_while_its_maker_lives(world: World) -> None:
    """Who made it appends it again, and everybody obeys."""
    maker, other = world.replicas
    command = RouteDisabled(event_id=maker.clock.new_id(), at_ms=maker.clock.now_ms(), route=ROUTE)
    maker.run(maker._append(CONTROL, command))
    world.pass_time(SOON_S)
    world.redis_empty()
    world.pass_time(SOON_S)
    assert other.watcher.view.control.disabled == {ROUTE: ""}
    world.rest()


def test_a_lost_number_keeps_no_file(world: World) -> None:
    """A spool goes when what is in it was heard, though a number between was on a Redis that was lost."""
    replica = world.replicas[0]
    for away in (True, False, True):
        world.server.up = not away
        world.pass_time(SOON_S)
        disable(world, replica)
    world.bury(replica, "was killed")
    world.redis_empty()
    world.rest()
    assert world.oracle.ledger(CONTROL).heard[replica.name].gaps == [(2, 2)]
