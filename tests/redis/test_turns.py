"""Turns of keys: whoever waits is served before anybody is served twice, and nothing gets lost."""

from __future__ import annotations

import json
import random
import time
from itertools import islice

import pytest
import redis
from flow import QUEUE, end, limited_node, make_app, make_operation, numbers, take

from pooltasks import Pool, keys
from pooltasks.broker.dead_letters import DeadLetters, letter
from pooltasks.broker.limiting import Limits, marked
from pooltasks.broker.reservations import KEYLESS_AT_ONCE
from pooltasks.errors import PoolSaturated

NAME = "jobs.run"
FAIR = Limits(key="note", fair=True)


@pytest.fixture
def operation(app):
    return make_operation(app, NAME, limits=FAIR)


@pytest.fixture
def start(redis_url):
    nodes = []

    def make(limits=FAIR, **options):
        nodes.append(limited_node(redis_url, NAME, limits, **options))
        return nodes[-1]

    yield make
    for node in nodes:
        node.die()


def serve(node, most=1000):
    """Run everything, one operation at a time; return the numbers in their order."""
    seen = []
    while len(seen) < most and (reserved := take(node, 1)):
        seen += [number for _, number in reserved]
        end(node, *reserved)
    node.settle()
    return seen


def waiting(server):
    return server.hlen(keys.flow(QUEUE, "waiting"))


def left(server):
    """Return the keys of flow control that are there."""
    found = {key.rpartition(":")[2] for key in server.keys(keys.flow(QUEUE, "*"))}
    return found - {"limits", "nodes", "resume"} - ({"running"} if running(server) == {} else set())


def running(server):
    counts = server.hgetall(keys.flow(QUEUE, "running"))
    return {flow.partition("/")[2]: int(n) for flow, n in counts.items() if flow[0] not in "#!"}


def test_keys_take_turns_and_each_keeps_its_order(operation, server, start):
    for number, note in enumerate("aaaaaabbbc"):
        operation.delay(number, note=note)
    node = start()
    assert serve(node) == [0, 6, 9, 1, 7, 2, 8, 3, 4, 5]
    assert left(server) == set()
    assert node.refusals == []


def test_one_that_comes_later_has_its_turn_before_anybody_has_two(operation, start):
    for number in range(20):
        operation.delay(number, note="a")
    node = start()
    assert serve(node, 3) == [0, 1, 2]
    operation.delay(20, note="b")
    operation.delay(21, note="b")
    assert serve(node, 5) == [20, 3, 21, 4, 5]  # though 3 lay ready for an idle node


def test_what_lies_ready_stays_the_first_of_its_key_while_others_go_first(server, redis_url):
    fair = Limits(key="note", fair=True, weights=(("b", 4.0),))
    app = make_app(redis_url)
    operation = make_operation(app, NAME, limits=fair)
    node = limited_node(redis_url, NAME, fair)
    operation.delay(1, note="c")
    operation.delay(2, note="d")
    assert take(node, 0) == []
    assert (server.llen(QUEUE), waiting(server)) == (1, 1)  # no other waits with the key "c"
    for number in range(10, 13):
        operation.delay(number, note="b")
    assert serve(node, 2) == [10, 11]
    assert server.zcard(keys.flow(QUEUE, "ages")) == 2
    operation.delay(3, note="c")
    assert serve(node) == [12, 1, 2, 3]
    assert left(server) == set()
    node.die()
    app.close()


def test_a_node_without_priorities_serves_what_others_published_with_one(server, redis_url, start):
    node = start()
    app = make_app(redis_url, priorities=(0, 9))
    operation = make_operation(app, NAME, limits=FAIR)
    for number in range(4):
        operation.apply_async((number,), {"note": "ab"[number % 2]}, priority=9)
    operation.apply_async((4,), {"note": "a"}, priority=0)
    node.turn_until(lambda: server.llen(QUEUE) + waiting(server) == 5, "those that watch")
    assert sorted(serve(node)) == [0, 1, 2, 3, 4]
    assert left(server) == set()
    app.close()


def test_what_comes_back_goes_before_all_that_lies_ready(operation, start):
    for number in range(4):
        operation.delay(number, note="a")
    dying, node = start(), start()
    ((reservation, _),) = take(dying, 1)
    operation.delay(10, note="b")
    dying.reservations.give_back([(reservation, b"")])
    dying.settle()
    assert serve(node) == [0, 10, 1, 2, 3]


def test_a_key_with_a_weight_has_as_many_turns(operation, server, start):
    for number in range(12):
        operation.delay(number, note="a")
    for number in range(100, 112):
        operation.delay(number, note="b")
    server.hset(keys.flow(QUEUE, "limits"), f"key {NAME}/b", "- - - 3")
    order = serve(start(), 16)
    assert sum(number >= 100 for number in order[:8]) == 6
    assert sum(number >= 100 for number in order) == 12


def test_the_code_gives_keys_weights(app, server, redis_url):
    fair = Limits(key="note", fair=True, weights=(("x%20b", 9.0), ("b", 3.0), ("b=", 9.0)))
    operation = make_operation(app, NAME, limits=fair)
    for number in range(20):
        operation.delay(number, note="a")
    for number in range(100, 120):
        operation.delay(number, note="b")
    node = limited_node(redis_url, NAME, fair)
    order = serve(node, 8)
    assert sum(number >= 100 for number in order) == 6
    server.hset(keys.flow(QUEUE, "limits"), f"all {NAME}", "5 - - 1")  # a limit beside it
    assert sum(number >= 100 for number in serve(node, 4)) == 3
    server.hset(keys.flow(QUEUE, "limits"), f"key {NAME}/b", "- - - 1")
    serve(node, 2)  # whose turns had come
    assert sum(number >= 100 for number in serve(node, 8)) == 4
    node.die()


def test_those_that_limits_let_go_one_by_one_all_come_to_their_turn(app, server, redis_url):
    limits = Limits(key="note", concurrency=3, fair=True)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(7):
        operation.delay(number, note="a")
    node = limited_node(redis_url, NAME, limits)
    running = take(node)
    for each in running:  # while the pool is busy: nothing is reserved in the same step
        end(node, each)
        node.settle()
    assert server.zcard(node.names.held) == 1
    assert server.llen(QUEUE) + waiting(server) == 3
    assert serve(node, 4) == [3, 4, 5, 6]
    node.die()


def test_a_node_gets_several_turns_at_once(operation, server, start):
    for number, note in enumerate("aaaabc"):
        operation.delay(number, note=note)
    node = start()
    first = take(node, 4)
    assert [number for _, number in first] == [0, 4, 5, 1]
    assert running(server) == {"a": 2, "b": 1, "c": 1}
    end(node, *first)
    assert serve(node) == [2, 3]


def waits_in_turns(operation, node, *, flood):
    """Serve one call a moment; 49 keys have bursts of nine, and keep the pool busy to 90 %.

    Returns:
        For each of their calls how many others started while it waited; how many of these were of
        the flood; and how many calls with its key waited when it came, with itself.
    """
    if flood:
        Pool("code", app=operation.app).submit_many(operation, [(-1, "flood")] * flood)
    chance, numbers_ = random.Random(17), iter(range(500))
    published, waits, floods = {}, [], 0
    for now in range(10_000):
        for number in islice(numbers_, 9 if chance.random() < 0.1 else 0):
            alike = 1 + sum(other % 49 == number % 49 for other in published)
            published[number] = now, floods, alike
            operation.delay(number, note=f"calm {number % 49}")
        reserved = take(node, 1)
        end(node, *reserved)
        for _, number in reserved:
            if number < 0:
                floods += 1
            else:
                since, before, alike = published.pop(number)
                waits.append((now - since, floods - before, alike))
        if len(waits) == 500:
            return sorted(waits)
    raise AssertionError(f"{len(published)} have not started")


def test_a_flood_adds_one_turn_to_the_wait_of_others(operation, server, start):
    node = start()
    calm = waits_in_turns(operation, node, flood=0)
    serve(node)
    flooded = waits_in_turns(operation, node, flood=1500)
    # One turn of the flood for each call with the same key, and one that lay ready.
    assert all(floods <= alike + 1 for _, floods, alike in flooded)
    at = int(len(calm) * 0.99)
    assert flooded[at][0] <= 1.3 * calm[at][0] + 2
    assert waiting(server) > 1000


def test_an_idle_node_gets_what_another_one_has_sorted(operation, start):
    busy, idle = start(), start()
    idle.ask(wait=True)
    for number, note in enumerate("aaab"):
        operation.delay(number, note=note)
    idle.turn_until(lambda: idle.received, "an operation", busy)
    assert numbers(idle.received) == [0]
    idle.received.clear()
    idle.ask(1, wait=True)  # its turn: the others are in their lines
    idle.turn_until(lambda: idle.received, "another one")
    busy.ask(1, wait=True)
    busy.turn_until(lambda: busy.received, "another one", idle)
    assert sorted(numbers(idle.received) + numbers(busy.received)) == [1, 3]


def test_what_died_with_its_node_runs_first_and_nothing_is_lost(operation, server, start):
    for number, note in enumerate("aaaab"):
        operation.delay(number, note=note)
    dead, other = start(), start()
    assert [number for _, number in take(dead, 2)] == [0, 4]
    other.turn_until(lambda: other.has_looked_at(2), "a look")
    dead.ask(1, wait=True)  # one that lay ready is on its way to the node
    dead.die()
    other.turn_until(lambda: server.hlen(other.names.index) == 1, "the recovery")
    assert running(server) == {}
    assert sorted(serve(other, 3)) == [0, 1, 4]
    assert serve(other) == [2, 3]
    assert left(server) == set()


def test_turns_and_limits_together(app, server, start):
    limits = Limits(key="note", concurrency=1, fair=True)
    operation = make_operation(app, NAME, limits=limits)
    for number, note in enumerate("aaabbbcc"):
        operation.delay(number, note=note)
    node = start(limits)
    seen = []
    while reserved := take(node):
        assert max(running(server).values()) == 1
        seen += sorted(number for _, number in reserved)
        end(node, *reserved)
    node.settle()
    assert seen == [0, 3, 6, 1, 4, 7, 2, 5]
    assert left(server) == set()
    assert server.zcard(node.names.held) == 0


def test_a_place_that_becomes_free_does_not_go_before_the_turns_of_others(app, start):
    limits = Limits(key="note", concurrency=1, fair=True)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(8):
        operation.delay(number, note="a")
    node = start(limits)
    first = take(node, 1)
    for number, note in enumerate("bcd", 8):
        operation.delay(number, note=note)
    order = []
    for _ in range(5):
        end(node, *first)
        first = take(node, 1)
        order += [number for _, number in first]
    assert order == [1, 8, 9, 10, 2]


def test_a_rate_holds_nobody_elses_turn_up(app, server, start):
    limits = Limits(key="note", rate=0.01, fair=True)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(600):
        operation.delay(number, note="slow")
    operation.delay(600, note="other")
    node = start(limits)
    assert {number for _, number in take(node) + take(node)} == {0, 600}
    assert (server.zcard(node.names.held), waiting(server)) == (599, 0)


def test_a_limit_that_is_lowered_takes_those_in_line_back(app, server, start):
    limits = Limits(key="note", concurrency=4, fair=True)
    operation = make_operation(app, NAME, limits=limits)
    for number in range(6):
        operation.delay(number, note="a")
    node = start(limits)
    first = take(node, 1)
    server.hset(node.names.limits, f"all {NAME}", "1 - - 1")
    assert take(node) == []
    order = []
    while first:
        order += [number for _, number in first]
        end(node, *first)
        first = take(node)
    assert order == [0, 1, 2, 3, 4, 5]


def test_what_has_no_key_is_one_among_the_keys(app, operation, server, start):
    plain = make_operation(app, "jobs.plain")
    for number in range(4):
        plain.delay(number)
    for number, note in enumerate("aab", 10):
        operation.delay(number, note=note)
    assert serve(start()) == [0, 10, 12, 1, 11, 2, 3]
    assert left(server) == set()


def test_what_is_more_urgent_goes_first_whosever_turn_it_is(redis_url, server, start):
    app = make_app(redis_url, priorities=(0, 9))
    operation = make_operation(app, NAME, limits=FAIR)
    for number, note in enumerate("aab"):
        operation.apply_async((number,), {"note": note}, priority=9)
    for number, note in enumerate("aab", 3):
        operation.apply_async((number,), {"note": note}, priority=0)
    assert serve(start(places=(0, 9))) == [3, 5, 4, 0, 2, 1]
    assert left(server) == set()
    app.close()


def test_stock_messages_get_their_keys_though_there_is_no_room(app, operation, server, start):
    plain = make_operation(app, "jobs.plain")
    node = start()
    for number in range(KEYLESS_AT_ONCE + 2):
        plain.delay(number)
    keyless = [
        message.encode().replace(b"jobs.plain", NAME.encode())
        for message in server.lrange(QUEUE, 0, -1)
    ]
    server.delete(QUEUE)
    operation.delay(100, note="a")
    server.lpush(QUEUE, *keyless[::-1])
    operation.delay(101, note="b")
    got = node.reserve(1)
    assert numbers(got) == [*range(KEYLESS_AT_ONCE), 100]
    end(node, (got[-1][0], 100))
    back = [(reservation, marked(raw, f"{NAME}/flood")) for reservation, raw in got[:-1]]
    node.reservations.give_back(back)
    node.settle()
    got = node.reserve(1)
    assert numbers(got) == [KEYLESS_AT_ONCE, KEYLESS_AT_ONCE + 1, 101]
    end(node, (got[-1][0], 101))
    back = [(reservation, marked(raw, f"{NAME}/flood")) for reservation, raw in got[:-1]]
    node.reservations.give_back(back)
    assert serve(node) == [*range(KEYLESS_AT_ONCE + 2)]


def test_what_comes_while_all_nodes_are_busy_waits_for_its_turn(operation, server, start):
    busy = start()
    pool = Pool("code", app=operation.app)
    pool.submit_many(operation, [(number, "a") for number in range(1200)])
    busy.turn_until(lambda: waiting(server) == 1199, "lines")
    assert server.llen(QUEUE) == 1


def test_who_purges_the_list_keeps_nobody_from_their_turn(operation, server, start):
    node = start()
    for number in range(3):
        operation.delay(number, note="a")
    end(node, *take(node, 1))
    node.settle()
    assert server.delete(QUEUE) == 1  # by Celery's own command
    node.received.clear()
    node.ask(wait=True)
    node.turn_until(lambda: node.received, "the next one")
    assert numbers(node.received) == [2]


def test_lines_go_back_to_the_lists_when_no_operation_is_fair_any_more(operation, server, start):
    fair = start()
    for number, note in enumerate("aab"):
        operation.delay(number, note=note)
    take(fair, 1)
    fair.die()
    node = start(Limits(key="note"))
    node.turn_until(lambda: not waiting(server) and server.llen(QUEUE) == 3, "the lists")
    assert sorted(serve(node)) == [0, 1, 2]
    assert left(server) == set()


def test_what_waits_for_its_turn_takes_room_in_a_pool_that_may_be_full(redis_url, start):
    app = make_app(redis_url, max_queue=3)
    operation = make_operation(app, NAME, limits=FAIR)
    for number in range(3):
        operation.delay(number, note="a")
    take(start(), 1)
    operation.delay(3, note="b")
    with pytest.raises(PoolSaturated):
        operation.delay(4, note="c")
    app.close()


def test_a_dead_letter_that_is_sent_again_takes_its_turn(operation, redis_url, start):
    for number in range(3):
        operation.delay(number, note="a")
    node = start()
    got = node.reserve(1)
    node.reservations.bury(got[0][0], letter(got[0][1], "why", at=time.time()), None)
    node.settle()
    with redis.Redis.from_url(redis_url) as client:
        letters = DeadLetters(client, QUEUE)
        assert letters.retry(letters.list()[0].id)
    operation.delay(3, note="b")
    assert serve(node) == [3, 1, 2, 0]
    assert json.loads(got[0][1])["turn"] == 0


def test_an_operation_that_was_postponed_takes_its_turn(operation, server, start):
    for number in range(3):
        operation.delay(number, note="a")
    node = start()
    ((reservation, _),) = node.reserve(1)
    node.reservations.postpone([(reservation, "its id", 1.0)])
    node.turn_until(lambda: server.llen(QUEUE) + waiting(server) == 3, "the time")
    operation.delay(3, note="b")
    assert serve(node) == [3, 1, 2, 0]
    assert left(server) == set()


def test_messages_that_claim_a_turn_harm_nobody(server, start):
    node = start()
    claims = [
        b'{"flow": "*/", "turn": 3, "body": ""}',
        b'{"flow": "*/", "body": ""}',
        b'{"deliveries": 0,"flow": "jobs.run/a", "body": ""}',
        b'{"flow": "jobs.run/a", "turn": 99999999999999999999, "body": ""}',
        b'{"task":"jobs.run","body":""}',
        b'{"task": 7, "task": "jobs.run',
        b'{"interrupte',
        b"{",
        b"",
    ]
    server.lpush(QUEUE, *claims)
    seen = 0
    while got := node.reserve(2):
        seen += len(got)
        for reservation, _ in got:
            node.reservations.controlled[reservation] = None
            node.reservations.acknowledge(reservation)
    node.settle()
    assert seen == len(claims)
    assert node.refusals == []
    assert left(server) == set()
