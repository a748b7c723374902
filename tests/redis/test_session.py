"""A node's session: its identity, its lease, the deaths of others, its end."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
from pydantic import SecretStr
from redis.exceptions import BusyLoadingError

from pooltasks.broker.delayed import publish as delayed
from pooltasks.broker.server import Connector
from pooltasks.broker.watcher import LOOK_SECONDS
from pooltasks.broker.watching import LEASE_SECONDS
from pooltasks.broker.wire import pack


def publish(client, queue, *names):
    for name in names:
        client.lpush(queue, json.dumps({"body": "", "headers": {"id": name}, "properties": {}}))


def waiting(client, queue):
    """Return id and deliveries of what waits, the oldest first."""
    messages = [json.loads(each) for each in reversed(client.lrange(queue, 0, -1))]
    return [(each["headers"]["id"], each.get("deliveries")) for each in messages]


def age(client, node, seconds):
    client.zadd(node.names.leases, {node.session.identity: (time.time() - seconds) * 1000})


def test_what_a_dead_node_had_reserved_goes_back_in_its_order_and_counts(start, client, queue):
    watcher, dead = start(), start()
    publish(client, queue, "one", "two", "three")
    dead.reserve(3)
    watcher.turn_until(lambda: watcher.has_looked_at(2), "a look", dead)
    dead.die()
    begun = time.monotonic()
    watcher.turn_until(lambda: client.llen(queue), "the recovery")
    assert time.monotonic() - begun < 0.5
    assert waiting(client, queue) == [("one", 1), ("two", 1), ("three", 1)]
    assert client.hkeys(watcher.names.index) == [watcher.session.identity.encode()]


def test_thousands_go_back_in_steps_and_in_their_order(start, client, queue):
    watcher, dead = start(), start()
    publish(client, queue, *map(str, range(2000)))
    for _ in range(4):
        dead.reserve(500)
    watcher.turn_until(lambda: watcher.has_looked_at(2), "a look", dead)
    dead.die()
    watcher.turn_until(lambda: client.llen(queue) == 2000, "the recovery")
    # In steps: while they are put back, others are served.
    assert sorted(int(name) for name, _ in waiting(client, queue)) == list(range(2000))


def test_one_connection_that_is_cut_is_opened_again_and_nothing_else_happens(start, client, queue):
    watcher, node = start(), start()
    publish(client, queue, "one")
    node.reserve(1)
    watcher.turn_until(lambda: watcher.has_looked_at(2), "a look", node)
    identity = node.session.identity
    for link in (node.session.side, node.session.intake) * 5:
        client.client_kill_filter(
            _id=next(
                each["id"]
                for each in client.client_list()
                if each["addr"].endswith(f":{link.wire.connection._sock.getsockname()[1]}")
            )
        )
        epoch, before = node.session.epoch, (None, link.wire)
        node.turn_until(
            lambda link=link, before=before: link.wire not in before, "a new connection", watcher
        )
        assert node.session.epoch - epoch == (link is node.session.intake)
    until = time.monotonic() + 0.5
    node.turn_until(lambda: time.monotonic() > until, "half a second", watcher)
    assert node.session.identity == identity
    assert node.reservations.held
    assert waiting(client, queue) == []


def test_a_node_that_was_silent_for_too_long_begins_anew(start, client, queue):
    watcher, node = start(), start()
    publish(client, queue, "one")
    node.reserve(1)
    identity = node.session.identity
    age(client, node, 1)
    watcher.turn_until(lambda: client.llen(queue), "the recovery")
    node.turn_until(lambda: node.session.identity != identity, "another identity")
    assert node.taken_for_dead == 1
    assert not node.reservations.held
    node.turn_until(lambda: node.session.is_open, "its connections")
    assert [message for _, message in node.reserve(1)]


def test_a_message_that_wakes_a_node_which_is_dead_already_is_put_back(start, client, queue):
    watcher, frozen = start(), start()
    frozen.ask(wait=True)
    watcher.turn_until(lambda: watcher.has_looked_at(2), "a look", frozen)
    age(client, frozen, 1)
    old = frozen.session.identity
    watcher.turn_until(lambda: client.hget(watcher.names.index, old) == b"dead", "its death")
    # Its script is gone, so that the message lies where it woke the node.
    client.script_flush()
    publish(client, queue, "one")
    assert client.llen(watcher.names.incoming(old)) == 1
    frozen.die()
    watcher.turn_until(lambda: client.llen(queue), "the message is put back")
    assert waiting(client, queue) == [("one", None)]
    watcher.turn_until(lambda: not client.hexists(watcher.names.index, old), "it is forgotten")


def test_a_node_that_is_taken_for_dead_leaves_nothing_under_its_old_name(start, client):
    watcher, node = start(), start()
    old = node.session.identity
    watcher.turn_until(lambda: watcher.has_looked_at(2), "a look", node)
    age(client, node, 1)
    watcher.turn_until(lambda: client.hget(watcher.names.index, old) == b"dead", "its death")
    # It learns it from its intake, which comes back.
    node.session.intake.wire.close()
    node.turn_until(lambda: node.taken_for_dead, "it begins anew", watcher)
    watcher.turn_until(
        lambda: not client.hexists(watcher.names.index, old), "it is forgotten", node
    )
    names = watcher.names
    assert client.pubsub_numsub(names.alive_of(old), names.beat_of(old)) == [
        (names.alive_of(old).encode(), 0),
        (names.beat_of(old).encode(), 0),
    ]


def test_a_node_that_is_taken_for_dead_reserves_nothing_meanwhile(start, client, queue):
    watcher, node = start(), start()
    age(client, node, 1)
    identity = node.session.identity
    watcher.turn_until(lambda: client.hget(watcher.names.index, identity) == b"dead", "its death")
    publish(client, queue, "one")
    node.ask(1)
    node.session.read(node.session.intake)
    until = time.monotonic() + 0.2
    while time.monotonic() < until and node.session.intake.is_owed():
        node.session.read(node.session.intake)
    assert node.refused_messages == 1
    assert waiting(client, queue) == [("one", None)]


def test_what_is_reserved_is_found_after_a_week_without_any_node(start, client, queue):
    dead = start()
    publish(client, queue, "one")
    dead.reserve(1)
    dead.die()
    client.delete(dead.names.leases, dead.names.watchers)  # they expire after a day
    late = start()
    late.turn_until(lambda: client.llen(queue), "the recovery")
    assert waiting(client, queue) == [("one", 1)]


def test_who_stops_is_given_nothing_more_and_leaves_nothing_behind(start, client, queue):
    node = start()
    publish(client, queue, "one", "two")
    node.reserve(2)
    node.ask(5, wait=True)
    node.session.reserve_nothing(stops=True)
    node.settle()
    publish(client, queue, "three")
    time.sleep(0.05)  # the server answers a wait that nobody reads
    assert waiting(client, queue) == [("three", None)]
    assert node.session.leave(2.0) == 2
    # Put back at the head, as they came: a stop counts no delivery.
    assert waiting(client, queue) == [("one", 0), ("two", 0), ("three", None)]
    left = {key.decode() for key in client.keys(f"pooltasks:{{{queue}}}:*")}
    assert left == set()


def test_a_kill_while_a_node_stops_counts_no_delivery(start, client, queue):
    watcher, node = start(), start()
    publish(client, queue, "one")
    node.reserve(1)
    watcher.turn_until(lambda: watcher.has_looked_at(2), "a look", node)
    node.session.reserve_nothing(stops=True)
    node.settle()
    node.die()
    watcher.turn_until(lambda: client.llen(queue), "the recovery")
    assert waiting(client, queue) == [("one", 0)]


def test_a_drained_node_is_given_nothing_until_it_may_again(start, client, queue):
    node = start()
    node.session.reserve_nothing(stops=False)
    node.settle()
    publish(client, queue, "one")
    assert node.reserve() == []
    assert waiting(client, queue) == [("one", None)]
    node.session.join_again()
    node.settle()
    assert len(node.reserve()) == 1


def test_a_connection_over_which_the_server_refuses_is_closed(start, client):
    # Each attempt would leave another one, which makes the node seem connected.
    node = start()
    node.turn_until(lambda: node.session.is_open, "its connections")

    def refused():
        raise BusyLoadingError("the server reads its data")

    settings = SimpleNamespace(redis_url=SecretStr(node._url))
    node.session._open_wire = Connector(
        SimpleNamespace(pooltasks=SimpleNamespace(settings=settings))
    )
    node.scripts = refused
    for _ in range(3):
        with pytest.raises(BusyLoadingError):
            node.session.side.open()
    channel = node.names.alive_of(node.session.identity)
    until = time.monotonic() + 5
    while client.pubsub_numsub(channel)[0][1] != 1:  # the intake's
        assert time.monotonic() < until


def test_a_node_that_joins_is_looked_at_at_once(start):
    # It may die before the next look: the watcher would never know that it had lived.
    first = start()
    first.turn_until(lambda: first.session.watcher.watches, "its turn")
    first.session.watcher.look_at = float("inf")
    start()
    first.turn_until(lambda: first.has_looked_at(2), "a look")


def test_two_nodes_watch_however_many_there_are(start, client):
    nodes = [start() for _ in range(6)]
    nodes[0].turn_until(
        lambda: client.zcard(nodes[0].names.watchers) == 2, "two watchers", *nodes[1:]
    )
    until = time.monotonic() + 1.5
    nodes[0].turn_until(lambda: time.monotonic() > until, "a while", *nodes[1:])
    assert client.zcard(nodes[0].names.watchers) == 2
    assert sum(node.session.watcher.watches for node in nodes) == 2


def test_another_node_takes_over_the_watch(start, client, queue):
    first = start()
    first.turn_until(lambda: first.session.watcher.watches, "its turn")
    second, third = start(), start()
    publish(client, queue, "one")
    first.reserve(1)
    second.turn_until(
        lambda: second.session.watcher.watches or third.session.watcher.watches,
        "a second watcher",
        third,
        first,
    )
    first.die()
    begun = time.monotonic()
    second.turn_until(lambda: client.llen(queue), "the recovery", third)
    assert time.monotonic() - begun < LEASE_SECONDS


@pytest.mark.timing
def test_a_delayed_operation_is_put_into_the_queue_on_time(start, client, queue):
    node = start()
    node.turn_until(lambda: node.session.watcher.watches, "its turn")
    seconds, microseconds = client.time()
    due = seconds + microseconds / 1e6 + 0.3
    wire = node._connect()
    message = b'{"headers": {"id": "it"}}'
    delayed(node.names, "it", message, due=due, place=0, unique="u").execute(wire)
    wire.close()
    assert client.zcard(node.names.delayed) == 1
    node.turn_until(lambda: client.llen(queue), "its time")
    seconds, microseconds = client.time()
    assert 0.0 <= seconds + microseconds / 1e6 - due < 0.1
    assert client.hlen(node.names.delayed_messages) == 0


def test_messages_with_a_priority_are_not_stranded_in_a_pool_without(start, client, queue):
    node = start()
    client.lpush(f"{queue}\x06\x169", b'{"headers": {"id": "low"}}')
    node.turn_until(lambda: client.llen(queue), "the message")


def test_a_pool_with_priorities_is_served_in_their_order(start, client, queue):
    node = start(places=(0, 3, 9))
    for place, name in ((9, "low"), (3, "middle"), (0, "high")):
        key = f"{queue}\x06\x16{place}" if place else queue
        client.lpush(key, json.dumps({"headers": {"id": name}}))
    got = [json.loads(message)["headers"]["id"] for _, message in node.reserve()]
    assert got == ["high", "middle", "low"]
    node.session.leave(1.0)
    # Each goes back to the list it came from.
    assert [client.llen(f"{queue}\x06\x16{place}") for place in (3, 9)] == [1, 1]


def resting(start):
    """A node that does not watch, beside two that do."""
    nodes = [start(), start(), start()]

    def rest():
        return [
            node
            for node in nodes
            if not (node.session.watcher._looks or node.session.side.is_owed())
        ]

    nodes[0].turn_until(lambda: len(rest()) == 1, "two that watch", *nodes[1:])
    (node,) = rest()
    return node, [each for each in nodes if each is not node]


def test_a_lease_is_renewed_with_the_sample_in_one_write(start, client):
    node, others = resting(start)
    before = client.zscore(node.names.leases, node.session.identity)
    node.session.watcher._asked_at = 0.0
    written = []
    send, node.session.side.wire.send = node.session.side.wire.send, written.append
    answers = []
    with node.session.together():
        node.session.watcher.renew_along(time.monotonic())
        node.session.send(node.session.side, pack(("PING",)), answers.append)
    assert len(written) == 1
    send(written[0])
    node.turn_until(lambda: answers, "the answer", *others)
    assert client.zscore(node.names.leases, node.session.identity) > before


def test_a_node_that_does_not_watch_renews_without_a_script(start, client):
    node, _ = resting(start)
    before = client.zscore(node.names.leases, node.session.identity)
    node.session.watcher._watch_command = None  # it would be called
    node.session.watcher.look_at = 0.0
    node.turn_until(
        lambda: client.zscore(node.names.leases, node.session.identity) > before, "its renewal"
    )
    assert not node.session.watcher._looks


def test_a_node_that_does_not_watch_learns_that_it_was_taken_for_dead(start, client):
    node, _ = resting(start)
    identity = node.session.identity
    # As release.lua has it: in the same step as the lease goes.
    client.hset(node.names.index, identity, "dead")
    client.zrem(node.names.leases, identity)
    node.session.watcher.look_at = 0.0
    node.turn_until(lambda: node.session.identity != identity, "another identity")
    assert client.zscore(node.names.leases, identity) is None


def test_a_node_takes_its_turn_when_both_that_watch_are_gone(start):
    node, others = resting(start)
    for each in others:
        each.die()
    begun = time.monotonic()
    node.turn_until(lambda: node.session.watcher.watches, "its turn")
    assert time.monotonic() - begun < LEASE_SECONDS


def test_a_full_server_renews_leases(start, client):
    node, others = resting(start)
    before = client.zscore(node.names.leases, node.session.identity)
    limit = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", 1)
    try:
        node.session.watcher.look_at = 0.0
        node.turn_until(
            lambda: client.zscore(node.names.leases, node.session.identity) > before,
            "its renewal",
            *others,
        )
    finally:
        client.config_set("maxmemory", limit)


def test_a_connection_that_waits_is_heard_with_each_renewal(start):
    node = start()
    node.reserve(1)
    node.ask(1, wait=True)
    for _ in range(2):
        since = time.monotonic()
        node.session.watcher._beat_at = 0.0
        node.turn_until(lambda since=since: node.session.intake.heard_at > since, "a word")
    assert node.session.intake.is_owed()


def test_a_node_without_others_looks_seldom_until_another_joins(start):
    node = start()
    watcher = node.session.watcher
    node.turn_until(lambda: watcher.look_at > time.monotonic() + 0.3, "it looks twice a second")
    start()
    node.turn_until(lambda: watcher.look_at <= time.monotonic() + LOOK_SECONDS, "it looks soon")
    node.turn_until(lambda: not watcher.watch.suspects, "all are well")
    looks = node.session.side.heard_at
    node.turn_until(lambda: node.session.side.heard_at > looks, "another look")
    assert watcher.look_at <= time.monotonic() + LOOK_SECONDS


def test_a_connection_that_waits_and_says_nothing_is_left(start):
    node = start()
    node.reserve(1)
    node.ask(1, wait=True)
    node.session.read(node.session.intake)
    wire = node.session.intake.wire
    node.session.intake.read = lambda: None  # whatever comes is not heard
    node.session.watcher._beat_at = 0.0
    node.session.watcher._slow_until = 0.0  # it has been connected for some time
    begun = time.monotonic()
    node.turn_until(lambda: node.session.intake.wire not in (None, wire), "a new connection")
    assert time.monotonic() - begun < LEASE_SECONDS
