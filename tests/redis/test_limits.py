"""Limits by key: never exceeded, free with the end of a reservation, first come, first served."""

from __future__ import annotations

import json
import time

import pytest
from flow import QUEUE, end, limited_node, make_app, make_operation, numbers, take

from pooltasks.broker.dead_letters import letter
from pooltasks.broker.limiting import Limits, is_marked, marked
from pooltasks.errors import PoolSaturated

NAME = "jobs.run"


@pytest.fixture
def start(redis_url):
    nodes = []

    def make(limits, **options):
        nodes.append(limited_node(redis_url, NAME, limits, **options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.die()


def operation_with(app, **limits):
    return make_operation(app, NAME, limits=Limits(**limits))


def running(server, node):
    counts = server.hgetall(node.names.of_limits[0])
    counts.pop("#", None)
    return {flow.partition("/")[2]: int(count) for flow, count in counts.items()}


def settled(server, node):
    """Whether nothing runs and nothing is held."""
    return not running(server, node) and not server.zcard(node.names.held)


def test_no_more_of_a_key_are_reserved_than_may_run_whoever_asks(app, server, start):
    limits = Limits(key="note", concurrency=2)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(6):
        operation.delay(number, note="ab"[number % 2])
    one, other = start(limits), start(limits)
    first = take(one, 3)
    rest = take(other)
    assert (len(first), len(rest)) == (3, 1)
    assert running(server, one) == {"a": 2, "b": 2}
    assert server.zcard(one.names.held) == 2
    assert server.llen(QUEUE) == 0
    end(one, first[0])  # an "a"
    (following,) = take(one)
    assert following[1] == 4
    end(one, *first[1:], following)
    end(other, *rest)
    other.settle()
    last = take(one)
    assert [number for _, number in last] == [5]
    end(one, *last)
    one.settle()
    assert settled(server, one)


def test_those_of_a_key_keep_their_order(app, server, start):
    limits = Limits(concurrency=1)
    operation = operation_with(app, concurrency=1)
    node, seen = start(limits), []
    for number in range(5):
        operation.delay(number)
    while len(seen) < 10:
        (reserved,) = take(node)
        seen.append(reserved[1])
        if len(seen) <= 5:
            operation.delay(4 + len(seen))  # behind those that are held
        end(node, reserved)
    node.settle()
    assert seen == list(range(10))
    assert settled(server, node)


def test_a_free_place_wakes_an_idle_node_at_once(app, start):
    limits = Limits(concurrency=1)
    operation = operation_with(app, concurrency=1)
    busy, idle = start(limits), start(limits)
    operation.delay(1)
    operation.delay(2)
    first = take(busy)
    assert take(idle) == []
    idle.ask(wait=True)
    end(busy, *first)
    busy.reservations.complete()
    begun = time.monotonic()
    idle.turn_until(lambda: idle.received, "the operation", busy)
    assert time.monotonic() - begun < 0.5
    assert numbers(idle.received) == [2]


def test_a_dead_nodes_places_are_free_with_its_recovery_and_its_operations_go_first(
    app, server, start
):
    limits = Limits(concurrency=2)
    operation = operation_with(app, concurrency=2)
    dead, other = start(limits), start(limits)
    for number in range(4):
        operation.delay(number)
    assert len(take(dead)) == 2
    assert take(other) == []
    other.turn_until(lambda: other.has_looked_at(2), "a look")
    dead.die()
    other.turn_until(lambda: server.llen(QUEUE) == 2, "the recovery")
    assert running(server, other) == {}
    again = take(other)
    assert [number for _, number in again] == [0, 1]
    end(other, *again)
    assert [number for _, number in take(other)] == [2, 3]
    assert running(server, other) == {"": 2}


def test_those_that_come_back_and_may_not_start_now_are_kept_apart(app, server, start):
    limits = Limits(concurrency=3)
    operation = operation_with(app, concurrency=3)
    for number in range(5):
        operation.delay(number)
    node = start(limits)
    for reservation, _ in take(node):
        node.reservations.give_back([(reservation, b"")])
    node.settle()
    server.hset(node.names.limits, f"all {NAME}", "1 - -")
    seen = []
    while len(seen) < 5:
        (reserved,) = take(node)
        seen.append(reserved[1])
        end(node, reserved)
    node.settle()
    assert sorted(seen[:3]) == [0, 1, 2]
    assert seen[3:] == [3, 4]
    assert settled(server, node)


def test_given_back_or_buried_is_not_running(app, server, start):
    limits = Limits(concurrency=1)
    operation = operation_with(app, concurrency=1)
    operation.delay(1)
    operation.delay(2)
    node = start(limits)
    (first,) = take(node)
    node.reservations.give_back([(first[0], b"")])
    node.settle()
    assert running(server, node) == {}
    (again,) = take(node)
    assert again[1] == 1
    node.reservations.bury(again[0], letter(b"{}", "why", at=0.0), None)
    node.settle()
    (following,) = take(node)
    assert following[1] == 2
    end(node, following)
    node.settle()
    assert settled(server, node)


def test_what_a_lost_answer_reserved_is_counted_once(app, server, start):
    limits = Limits(concurrency=1)
    operation = operation_with(app, concurrency=1)
    operation.delay(1)
    node = start(limits)
    node.ask(1)
    time.sleep(0.05)  # the server has answered; nobody has read it
    node.session.lost(node.session.intake, ConnectionError("cut"))
    node.settle()
    assert running(server, node) == {}
    (first,) = take(node)
    end(node, first)
    batch = node.reservations.completion.take()
    node.reservations.completion.again(batch)
    node.reservations.completion.controlled.extend(batch.controlled)  # sent twice
    node.settle()
    assert running(server, node) == {}
    operation.delay(2)
    operation.delay(3)
    assert len(take(node)) == 1


def test_no_more_start_than_the_rate_allows_and_nearly_as_many(app, start):
    limits = Limits(rate=100.0, burst=5)
    operation = operation_with(app, rate=100.0, burst=5)
    for number in range(60):
        operation.delay(number)
    node, starts = start(limits), []
    begun = time.monotonic()
    while len(starts) < 60:
        assert time.monotonic() - begun < 20
        node.turn()
        if not node.session.intake.is_owed():
            for reservation, message in node.received:
                starts.append(time.monotonic() - begun)
                node.reservations.controlled[reservation] = None
                node.reservations.acknowledge(reservation)
                assert numbers([(reservation, message)]) == [len(starts) - 1]
            node.received.clear()
            node.ask(10, wait=True)
        time.sleep(0.0005)  # between turns
    # Of the first 60, 5 at once and the others at 100 a second: 0.55 s.
    assert 0.53 <= starts[-1] <= 1.5
    for at, moment in enumerate(starts):
        within = sum(moment - 0.2 < other <= moment for other in starts[: at + 1])
        assert within <= 5 + 20 + 3  # and what the test itself is late


def test_a_rate_holds_nobody_else_up(app, server, start):
    limits = Limits(key="note", rate=0.01)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(300):
        operation.delay(number, note="slow")
    operation.delay(300, note="other")
    node = start(limits)
    # One step of the server moves some hundreds out of the way.
    assert [number for _, number in take(node) + take(node)] == [0, 300]
    assert server.zcard(node.names.held) == 299
    assert server.zcard(node.names.of_limits[5]) == 1


def test_what_was_let_go_and_never_ran_holds_nothing_up_for_long(app, server, start):
    limits = Limits(concurrency=1)
    operation = operation_with(app, concurrency=1)
    for number in range(3):
        operation.delay(number)
    node = start(limits)
    first = take(node)
    end(node, *first)
    node.settle()
    assert server.delete(QUEUE) == 1  # somebody purges the queue
    assert take(node) == []
    assert take(node) == []
    server.hset(node.names.of_limits[0], f"!{NAME}/", "1 1")  # some seconds later
    server.zadd(node.names.of_limits[5], {f"{NAME}/": 1})
    node.turn_until(lambda: server.llen(QUEUE) == 1, "the next one")
    assert [number for _, number in take(node)] == [2]


def test_a_limit_that_is_changed_holds_at_once(app, server, start):
    limits = Limits(key="note", concurrency=1)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(4):
        operation.delay(number, note="a")
    node = start(limits)
    first = take(node)
    assert len(first) == 1
    server.hset(node.names.limits, f"key {NAME}/a", "3 - -")
    server.zadd(node.names.of_limits[5], {f"{NAME}/a": 1})
    node.turn_until(lambda: server.llen(QUEUE) == 2, "those that may go on")
    assert len(take(node)) == 2
    server.hset(node.names.limits, f"key {NAME}/a", "1 - -")
    end(node, *first)
    node.settle()
    assert take(node) == []


def test_what_is_held_takes_room_in_a_pool_that_may_be_full(redis_url, server, start):
    limits = Limits(concurrency=1)
    app = make_app(redis_url, max_queue=3)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(3):
        operation.delay(number)
    node = start(limits)
    assert len(take(node)) == 1
    assert server.zcard(node.names.held) == 2
    operation.delay(3)
    with pytest.raises(PoolSaturated):
        operation.delay(4)
    app.close()


def test_messages_that_claim_a_key_harm_nobody(server, start):
    node = start(Limits(concurrency=1))
    claims = [
        b'{"flow": "x", "body": ""}',
        b'{"flow": "a\\"/b", "body": ""}',
        b'{"headers": {"flow": "a/b"}, "body": ""}',
        b'{"flow": 5, "body": ""}',
        b'{"f',
        b"{",
        b"",
        b'{"turn": 1, "flow": "a/\xff", "turn": 99999999999999999999, "body": ""}',
    ]
    server.lpush(QUEUE, *claims)
    got = node.reserve(20)
    assert len(got) == len(claims)
    for reservation, message in got:
        if is_marked(message):
            node.reservations.controlled[reservation] = None
        node.reservations.acknowledge(reservation)
    node.settle()
    assert node.refusals == []
    assert settled(server, node)


def test_a_key_is_at_the_head_of_its_message():
    text = marked(b'{"body": "", "headers": {}}', "jobs.run/a")
    assert is_marked(text)
    assert json.loads(text) == {"flow": "jobs.run/a", "body": "", "headers": {}}
    assert not is_marked(b'{"body": "", "flow": "x"}')
