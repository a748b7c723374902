"""Uniqueness: of calls with the same key one waits or runs, whoever dies and however they come."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from celery import chord, group
from celery.beat import ScheduleEntry, Scheduler
from flow import QUEUE, make_operation, make_unique
from node_session import Node

from pooltasks import Pool, keys
from pooltasks.broker.dead_letters import letter
from pooltasks.broker.results import StoredResult
from pooltasks.broker.uniqueness import Lock, Unique
from pooltasks.errors import DuplicateError

ALL = Unique(None)


@pytest.fixture
def start(redis_url):
    nodes = []

    def make():
        nodes.append(Node(redis_url, QUEUE))
        return nodes[-1]

    yield make
    for node in nodes:
        node.die()


def take(node):
    """Reserve one operation, as the intake does; return its reservation."""
    ((reservation, message),) = node.reserve(1)
    lock = Lock.of(json.loads(message)["headers"], node.names)
    assert lock is not None
    node.reservations.controlled[reservation] = lock
    return reservation


def waiting(server):
    return [json.loads(text)["headers"]["id"] for text in server.lrange(QUEUE, 0, -1)]


def locks(server):
    return server.keys("pooltasks:{pool.code}:unique:*")


def test_a_second_call_has_the_result_of_the_first_and_says_so(app, server):
    operation = make_unique(app, ALL)
    first = operation.delay(1)
    again = operation.delay(number=1, note="")
    other = operation.delay(2)
    assert (first.is_duplicate, again.is_duplicate, other.is_duplicate) == (False, True, False)
    assert again == first
    assert waiting(server) == [other.id, first.id]
    app.backend.store_result(first.id, 7, "SUCCESS")
    assert again.get(timeout=10) == 7


def test_only_the_arguments_that_are_named_make_the_key(app, server):
    operation = make_unique(app, Unique(("number",)))
    assert operation.delay(1, "one") == operation.delay(1, "two")
    assert make_unique(app, ALL, name="jobs.other").delay(1).is_duplicate is False
    assert len(waiting(server)) == 2


def test_producers_that_hurry_publish_it_once(app, server):
    operation = make_unique(app, ALL)
    results = []

    def produce():
        results.extend(operation.delay(number % 5) for number in range(50))

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(not result.is_duplicate for result in results) == 5
    assert {result.id for result in results} == set(waiting(server))


def test_it_ends_by_itself_when_its_operation_cannot_start_any_more(app, server):
    make_unique(app, ALL).delay()
    (lock,) = locks(server)
    assert 120 < server.ttl(lock) <= 191  # the checkout and operation timeouts, and a margin


def test_many_are_compared_with_each_other_and_with_what_waits(app, server):
    operation = make_unique(app, ALL)
    first = operation.delay(0)
    results = Pool("code", app=app).submit_many(operation, [(n % 3,) for n in range(6)])
    assert results.ids[0] == first.id
    assert results.ids[:3] == results.ids[3:]
    assert results.duplicates == {0, 3, 4, 5}
    assert [result.is_duplicate for result in results[2:4]] == [False, True]
    assert len(waiting(server)) == 3


def test_so_it_is_from_an_event_loop(app, server):
    operation = make_unique(app, ALL)

    async def work():
        first = await operation.adelay(1)
        again = await operation.adelay(1)
        several = await Pool("code", app=app).asubmit_many(operation, [(1,), (2,), (2,)])
        assert [each.is_duplicate for each in (first, again, *several)] == [
            False,
            True,
            True,
            False,
            True,
        ]
        assert first.id == again.id == several[0].id
        assert several[1].id == several[2].id

    asyncio.run(work())
    assert len(waiting(server)) == 2


def test_beat_publishes_no_second_one_while_the_first_waits(app, server):
    make_unique(app, ALL)
    scheduler = Scheduler(app, lazy=True)
    entry = ScheduleEntry(
        name="often", task="jobs.run", args=(1,), schedule=60, app=app, options={"expires": 50}
    )
    first = scheduler.apply_async(entry, producer=scheduler.producer, advance=False)
    again = scheduler.apply_async(entry, producer=scheduler.producer, advance=False)
    scheduler.connection.release()
    assert (first.is_duplicate, again.is_duplicate) == (False, True)
    assert waiting(server) == [first.id] == [again.id]


def test_what_is_delayed_counts_as_waiting(app, server):
    operation = make_unique(app, ALL)
    first = operation.apply_async((1,), countdown=600)
    assert operation.delay(1) == first
    (lock,) = locks(server)
    assert server.ttl(lock) > 600 + 120
    assert server.zrange(keys.delayed(QUEUE), 0, -1) == [first.id]


def test_a_part_of_a_canvas_is_no_duplicate_in_silence(app):
    operation = make_unique(app, ALL)
    plain = make_operation(app, "jobs.plain")
    first = operation.delay(1)
    for canvas in (group(operation.s(1), plain.s()), chord([operation.s(1)], plain.s())):
        with pytest.raises(DuplicateError, match="canvas") as caught:
            canvas.apply_async()
        assert caught.value.first_id == first.id
    with pytest.raises(DuplicateError):
        operation.apply_async((1,), link=plain.si())
    assert (operation.s(2) | plain.si()).apply_async().id


def test_its_end_frees_the_key_with_its_result_and_its_reservation(app, server, start):
    operation = make_unique(app, ALL)
    first, node = operation.delay(), start()
    reservation = take(node)
    assert operation.delay().is_duplicate
    key = app.backend.get_key_for_task(first.id)
    node.reservations.completion.results.append(StoredResult(key, b"value", 60))
    node.reservations.acknowledge(reservation)
    node.settle()
    assert server.get(key) == "value"
    assert not locks(server)
    assert server.hlen(node.names.unacked(node.session.identity)) == 0
    assert not operation.delay().is_duplicate


def test_the_next_reservation_frees_it_as_well(app, start):
    operation = make_unique(app, ALL)
    operation.delay(1)
    node = start()
    node.reservations.acknowledge(take(node))
    node.reserve(1)
    assert not operation.delay(1).is_duplicate


def test_its_key_goes_back_to_the_queue_with_it_when_its_node_dies(app, server, start):
    operation = make_unique(app, ALL)
    first, dead, other = operation.delay(), start(), start()
    take(dead)
    other.turn_until(lambda: other.has_looked_at(2), "a look")
    dead.die()
    other.turn_until(lambda: server.llen(QUEUE) == 1, "the recovery")
    assert operation.delay() == first
    other.reservations.acknowledge(take(other))
    other.settle()
    assert not operation.delay().is_duplicate


def test_a_node_that_was_taken_for_dead_frees_nothing(app, server, start):
    operation = make_unique(app, ALL)
    operation.delay()
    late, other = start(), start()
    reservation = take(late)
    late.reservations.acknowledge(reservation)
    batch = late.reservations.completion.take()
    # Others have it by the time its node says that it has ended.
    server.rpush(QUEUE, server.hget(late.names.unacked(late.session.identity), reservation)[2:])
    server.hdel(late.names.unacked(late.session.identity), reservation)
    take(other)
    late.reservations.completion.controlled.extend(batch.controlled)
    late.settle()
    assert operation.delay().is_duplicate


def test_a_dead_letter_frees_it(app, server, start):
    operation = make_unique(app, ALL)
    node = start()
    for result in (None, StoredResult(b"celery-task-meta-x", b"value", 60)):
        operation.delay()
        reservation = take(node)
        text = letter(b"{}", "why", at=0.0)
        node.reservations.bury(reservation, text, result)
        node.settle()
        assert not locks(server)
    assert server.get("celery-task-meta-x") == "value"


def test_an_attempt_that_ends_leaves_the_key_to_the_next(app, start):
    operation = make_unique(app, ALL)
    first, node = operation.delay(1), start()
    ((reservation, message),) = node.reserve(1)
    headers = json.loads(message)["headers"]
    node.reservations.controlled[reservation] = Lock.of(headers, node.names)
    # As a worker retries, with other arguments.
    operation.apply_async((2,), task_id=first.id, retries=1, headers={"unique": headers["unique"]})
    node.reservations.acknowledge(reservation)
    node.settle()
    assert operation.delay(1) == first
    node.reservations.acknowledge(take(node))
    node.settle()
    assert not operation.delay(1).is_duplicate


def test_for_a_time_it_is_unique_after_its_end_too(app, server, start):
    operation = make_unique(app, Unique(None, seconds=3600))
    first, node = operation.delay(), start()
    node.reservations.acknowledge(take(node))
    node.settle()
    assert operation.delay() == first
    (lock,) = locks(server)
    assert 3590 < server.ttl(lock) <= 3600


def test_until_it_starts_is_until_its_node_may_start_it(app, start):
    operation = make_unique(app, Unique(None, until="start"))
    operation.delay()
    node = start()
    ((_, message),) = node.reserve(1)
    lock = Lock.of(json.loads(message)["headers"], node.names)
    assert lock is not None
    assert lock.is_free_at_start
    freed = []
    node.reservations.unlock(lock, lambda: freed.append(operation.delay().is_duplicate))
    node.turn_until(lambda: freed, "the answer")
    assert freed == [False]


@pytest.mark.parametrize(
    "header",
    [None, 7, [], ["x", 0, "finish"], ["\ud800" * 32, 0, "start"], ["a" * 32, 1e300, "finish"]],
)
def test_nonsense_in_the_header_is_no_lock(start, header):
    assert Lock.of({"id": "x", "unique": header}, start().names) is None


def test_whatever_lies_at_its_key_hinders_no_end(app, server, start):
    operation = make_unique(app, ALL)
    operation.delay()
    (lock,) = locks(server)
    server.delete(lock)
    server.lpush(lock, "nonsense")
    node = start()
    node.reservations.acknowledge(take(node))
    node.settle()
    assert node.refusals == []
    assert server.hlen(node.names.unacked(node.session.identity)) == 0
