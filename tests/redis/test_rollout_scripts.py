"""A rollout at the server: which node gets which message, whatever happens in between."""

from __future__ import annotations

import json
from hashlib import sha1
from typing import TYPE_CHECKING, Any

import pytest

from pooltasks import keys
from pooltasks.broker.names import Names
from pooltasks.broker.tracks import AHEAD
from pooltasks.broker.wire import pack
from pooltasks.metrics.rollout_store import RolloutStore

if TYPE_CHECKING:
    from node_session import Node

BEFORE, NEW = "1", "2"


def message(name: str, flow: str | None = None) -> bytes:
    """Return a message as kombu writes it, or as pooltasks does of an operation with a key."""
    payload = {"body": "e30=", "headers": {"id": name}, "properties": {"correlation_id": name}}
    return json.dumps(payload if flow is None else {"flow": f"jobs.run/{flow}", **payload}).encode()


def names_of(messages: Any) -> list[str]:
    return [json.loads(text)["headers"]["id"] for _, text in messages]


def is_canarys(value: str, share: int) -> bool:
    """The rule of sort.lua, written again."""
    digest = sha1(f"{NEW}:{value}".encode())  # noqa: S324  no secret
    return int(digest.hexdigest()[:8], 16) % 10_000 < share * 100


def split(ids: list[str], share: int) -> tuple[list[str], list[str]]:
    """Return which operations are the new version's, and which are that of the one before."""
    new = [each for each in ids if is_canarys(each, share)]
    return new, [each for each in ids if each not in new]


@pytest.fixture
def store(client, queue):
    return RolloutStore(client, queue.removeprefix("pool."))


@pytest.fixture
def names(queue):
    return Names(queue)


def publish(client, queue, ids, flow=None):
    for each in ids:
        client.lpush(queue, message(each, flow))


def set_share(store: RolloutStore, share: int) -> None:
    rollout = store.read()
    assert rollout is not None
    assert store.step(rollout, share, "a test says so")


def hear(node: Node) -> None:
    """Have a node take what was published before now: that a rollout began or ended."""
    answers: list[object] = []
    node.session.send(node.session.intake, pack(("PING",)), answers.append)
    node.turn_until(lambda: answers, "an answer")


def take_all(node: Node, room: int = 20) -> list[str]:
    """Reserve until the node gets nothing more; acknowledge what it has."""
    got: list[str] = []
    hear(node)
    for _ in range(100):
        before = node.refused_messages
        some = node.reserve(room)
        got += names_of(some)
        for reservation, _text in some:
            node.reservations.acknowledge(reservation)
        if not some and node.refused_messages == before:
            node.settle()
            return got
    raise AssertionError("there is always more")


IDS = [f"operation-{number}" for number in range(200)]


def test_each_version_gets_its_own_operations_and_all_of_them(start, client, queue, store):
    old = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    set_share(store, 25)
    publish(client, queue, IDS)
    its, others = split(IDS, 25)
    assert 20 < len(its) < 80
    assert take_all(old) == others  # in their order
    assert take_all(new) == its
    assert client.llen(queue) == 0


def test_a_new_version_gets_nothing_until_it_has_a_share(start, client, queue, store):
    old = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    publish(client, queue, IDS)
    assert take_all(new) == []
    assert take_all(old) == IDS


def test_what_has_a_share_keeps_it_in_every_larger_one(start, client, queue, store):
    start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    seen: set[str] = set()
    for share in (5, 10, 25, 50, 75, 100):
        set_share(store, share)
        publish(client, queue, IDS)
        now = set()
        while not now or client.llen(queue):
            now |= set(take_all(new, room=200))
        assert seen <= now == set(split(IDS, share)[0])
        seen = now
        client.delete(f"pooltasks:{{{queue}}}:stable:0")
    assert seen == set(IDS)


def test_operations_with_the_same_key_go_to_the_same_version(start, client, queue, store):
    old = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    set_share(store, 50)
    tenants = [f"tenant-{number}" for number in range(20)]
    for tenant in tenants:
        publish(client, queue, [f"{tenant}/{number}" for number in range(5)], flow=tenant)
    got = {id_.partition("/")[0] for id_ in take_all(new)}
    rest = {id_.partition("/")[0] for id_ in take_all(old)}
    assert got == {tenant for tenant in tenants if is_canarys(tenant, 50)}
    assert rest == set(tenants) - got


def test_a_node_that_waits_when_a_rollout_begins_runs_nothing_of_the_other_version(
    start, client, queue, store
):
    old, new = start(version=BEFORE), start(version=NEW)
    new.session.intake._on_push = lambda _: None  # what it is told got lost
    new.ask(5, wait=True)  # it serves the pool as any node does
    assert store.start(BEFORE, NEW)
    publish(client, queue, ["one"])
    new.turn_until(lambda: new.refused_messages, "the refusal")
    assert new.received == []
    assert take_all(new) == []
    assert take_all(old) == ["one"]


def test_a_node_that_waits_hears_of_a_rollout_at_once(start, store):
    node = start(version=BEFORE)
    node.ask(5, wait=True)
    assert store.start(BEFORE, NEW)
    node.turn_until(lambda: node.session.track, "the track")
    assert store.end(store.read(), "done", "a test says so")
    node.turn_until(lambda: node.session.is_retired, "the end")


def test_a_message_that_wakes_a_node_of_the_other_version_wakes_one_of_its_own(
    start, client, queue, store
):
    old = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    set_share(store, 50)
    assert take_all(old) == take_all(new) == []
    its, _ = split(IDS, 50)
    old.ask(5, wait=True)
    new.ask(5, wait=True)
    publish(client, queue, its[:1])
    old.turn_until(lambda: new.received, "the message", new)
    assert names_of(new.received) == its[:1]
    assert old.received == []


def test_what_a_dead_node_had_runs_at_its_own_version(start, client, queue, store, names):
    old, watcher = start(version=BEFORE), start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    set_share(store, 50)
    publish(client, queue, IDS[:20])
    its, others = split(IDS[:20], 50)
    assert take_all(old) == others
    assert names_of(new.reserve(100)) == its
    one_of = (old, watcher)  # two of three watch
    watcher.turn_until(lambda: any(node.has_looked_at(3) for node in one_of), "a look", old, new)
    new.die()
    lists = (queue, names.canary[0])  # whoever watches sorts them, too
    watcher.turn_until(lambda: sum(map(client.llen, lists)) == len(its), "the recovery", old)
    again = start(version=NEW)
    assert take_all(old) == []
    assert sorted(take_all(again)) == sorted(its)


def test_after_an_abort_the_version_before_runs_everything(start, client, queue, store):
    old = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    set_share(store, 50)
    publish(client, queue, IDS)
    its, others = split(IDS, 50)
    running = new.reserve(3)
    assert names_of(running) == its[:3]
    hear(old)
    done = names_of(old.reserve(3))
    assert done == others[:3]
    rollout = store.read()
    assert store.end(rollout, "aborted", "a test says so")
    new.reservations.give_back(running)
    new.settle()
    assert take_all(new) == []
    assert client.llen(queue) == len(IDS) - 3
    assert sorted(take_all(old) + done) == sorted(its + others)
    assert new.session.is_retired
    # It may come back, even as another node: the server remembers.
    assert take_all(start(version=NEW)) == []


def test_an_abort_that_was_cut_off_goes_on_where_it_was(start, client, queue, store, monkeypatch):
    old = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    set_share(store, 50)
    ids = [f"operation-{number}" for number in range(5000)]
    its, _ = split(ids, 50)
    track = keys.track(queue, "canary", 0)
    client.lpush(track, *map(message, its))
    monkeypatch.setattr(store, "gather", lambda: None)  # who has ended it dies here
    assert store.end(store.read(), "aborted", "a test says so")
    assert not store.start(BEFORE, "3")  # not before all is where it belongs
    assert not store.read().is_gathered
    assert take_all(new) == []
    monkeypatch.undo()
    store.gather()
    assert store.read().is_gathered
    assert client.llen(track) == 0
    assert take_all(old, room=500) == its  # in their order
    assert 0 < client.ttl(keys.rollout(queue)) <= 7 * 86_400


def test_a_version_that_has_everything_takes_over(start, client, queue, store):
    old = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    set_share(store, 100)
    publish(client, queue, IDS[:10])
    assert store.end(store.read(), "done", "a test says so")
    assert take_all(old) == []
    assert take_all(new) == IDS[:10]
    assert new.session.track is None  # nothing differs any more from a pool without a rollout
    later = start(version="3")
    publish(client, queue, ["one"])
    assert take_all(later) == ["one"]  # a plain rolling restart


def test_a_version_that_was_rolled_back_stays_out_of_use_after_the_next_rollout(
    start, client, queue, store
):
    old = start(version=BEFORE)
    assert store.start(BEFORE, "bad")
    bad = start(version="bad")
    assert store.end(store.read(), "aborted", "a test says so")
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    assert store.end(store.read(), "done", "a test says so")
    publish(client, queue, ["one"])
    assert take_all(bad) == take_all(old) == []
    assert take_all(new) == ["one"]
    assert store.read().retired == ("bad", BEFORE)
    # It comes back by a rollout of its own.
    assert store.start(NEW, BEFORE)
    assert store.end(store.read(), "done", "a test says so")
    publish(client, queue, ["two"])
    assert take_all(bad) == take_all(new) == []
    assert take_all(old) == ["two"]
    assert store.read().retired == ("bad", NEW)


def test_a_rollout_that_is_forgotten_keeps_no_version_out(start, client, queue, store):
    old = start()  # without a version
    assert store.start("", NEW)
    assert not store.forget()
    new = start(version=NEW)
    assert store.end(store.read(), "done", "a test says so")
    publish(client, queue, ["one"])
    assert take_all(old) == []
    assert store.read().retired == ("",)
    assert store.forget()
    assert take_all(old) == ["one"]
    assert take_all(new) == []
    assert store.read() is None


def test_a_third_version_takes_nothing_during_a_rollout(start, client, queue, store):
    old = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    publish(client, queue, ["one"])
    assert take_all(start(version="3")) == []
    assert take_all(old) == ["one"]


def test_the_canary_is_given_its_own_while_the_others_have_no_room(
    start, client, queue, store, names
):
    start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    new = start(version=NEW)
    set_share(store, 25)
    publish(client, queue, IDS)
    its, others = split(IDS, 25)
    assert take_all(new, room=1) == its  # it has looked itself
    publish(client, queue, IDS)
    new.ask(500, wait=True)
    # A node that watches sorts ahead for it.
    client.eval(AHEAD.text, 32, *names.of_rollout, names.room)
    new.turn_until(lambda: new.received, "its operations")
    assert set(names_of(new.received)) <= set(its)
    with client.pipeline() as together:  # a node that watches moves some between two questions
        for name in (queue, names.stable[0], names.canary[0]):
            together.llen(name)
        waiting = sum(together.execute())
    assert waiting == 2 * len(others) + len(its) - len(new.received)
    assert int(client.hget(names.room, "aside")) > 0
    # With the end of the rollout nothing is there any more, whatever a node does that is late.
    assert store.end(store.read(), "aborted", "a test says so")
    client.eval(AHEAD.text, 32, *names.of_rollout, names.room)
    assert client.hget(names.room, "aside") is None


def test_one_that_waits_is_woken_by_what_was_sorted_for_it(start, client, store, names):
    old = start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    set_share(store, 5)
    assert take_all(old) == []
    _, others = split(IDS, 5)
    client.lpush(names.stable[0], *map(message, others[:3]))
    old.ask(10, wait=True)
    client.eval(AHEAD.text, 32, *names.of_rollout, names.room)
    old.turn_until(lambda: old.received, "its operations")
    assert names_of(old.received) == others[:3]


def test_places_of_priority_stay_apart(start, client, queue, store, names):
    old = start(version=BEFORE, places=(0, 6))
    assert store.start(BEFORE, NEW)
    new = start(version=NEW, places=(0, 6))
    set_share(store, 50)
    its, others = split(IDS[:40], 50)
    for id_ in IDS[:40]:
        client.lpush(names.lists[6], message(id_))
    urgent = [f"urgent-{number}" for number in range(20)]
    publish(client, queue, urgent)
    first, second = split(urgent, 50)
    got, rest = take_all(new), take_all(old)
    assert got[: len(first)] == first
    assert rest[: len(second)] == second
    # One of those that are less urgent may have been moved to wake a node.
    assert sorted(got[len(first) :]) == sorted(its)
    assert sorted(rest[len(second) :]) == sorted(others)


def test_two_control_nodes_do_not_step_twice(start, store):
    start(version=BEFORE)
    assert store.start(BEFORE, NEW)
    assert not store.start(BEFORE, NEW)
    one, other = store.read(), store.read()
    assert store.step(one, 5, "first")
    assert not store.step(other, 10, "second")
    assert not store.end(other, "aborted", "second")
    assert store.read().share == 5


@pytest.mark.parametrize("limited", [False, True])
def test_without_a_rollout_nodes_ask_as_ever(start, client, queue, limited):
    node = start(version=BEFORE, limited=limited)
    assert node.session.track is None
    publish(client, queue, ["one"])
    assert take_all(node) == ["one"]
    left = {key.decode() for key in client.keys(f"pooltasks:{{{queue}}}:*")}
    assert not any("rollout" in key or "canary" in key or "stable" in key for key in left)


def test_limits_hold_during_a_rollout(start, client, queue, store, names):
    client.hset(names.limits, "code jobs.run", "1 - -")
    old = start(version=BEFORE, limited=True, operations=("jobs.run",))
    assert store.start(BEFORE, NEW)
    new = start(version=NEW, limited=True, operations=("jobs.run",))
    set_share(store, 50)
    tenant = next(f"t-{number}" for number in range(99) if is_canarys(f"t-{number}", 50))
    publish(client, queue, ["one", "two"], flow=tenant)
    assert old.reserve() == []
    first = new.reserve(5)
    assert names_of(first) == ["one"]
    assert new.reserve(5) == []
    node = new.reservations
    node.controlled[first[0][0]] = None
    node.acknowledge(first[0][0])
    new.settle()
    assert names_of(new.reserve(5)) == ["two"]
