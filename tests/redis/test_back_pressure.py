"""Back-pressure: a pool that is full refuses at once, exactly, and says when there is room."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import redis
from celery import chain, group
from flow import QUEUE, make_app, make_operation

from pooltasks import Pool, keys
from pooltasks.broker.admission import ADMIT, Admission, Entry
from pooltasks.broker.lanes import Lane
from pooltasks.broker.message import Message
from pooltasks.broker.submission import _SUBMIT
from pooltasks.errors import Category, PoolSaturated, SubmissionError, categorize


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def apps(valkey_url):
    made = []

    def make(**pool):
        made.append(make_app(valkey_url, **pool))
        return made[-1]

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(apps):
    return apps(max_queue=3)


@pytest.fixture
def operation(app):
    return make_operation(app)


def test_a_full_pool_refuses_at_once_and_publishes_nothing(operation, server):
    results = [operation.delay(number) for number in range(3)]
    assert not any(result.is_duplicate for result in results)
    begun = time.monotonic()
    with pytest.raises(PoolSaturated, match=r"code is full: 3 operations wait") as caught:
        operation.delay(3)
    assert time.monotonic() - begun < 1
    assert caught.value.retry_after == 1.0  # nothing has ended yet: the rate is not known
    assert caught.value.fits == 0
    assert server.llen(QUEUE) == 3
    assert 0 < server.ttl(keys.room(QUEUE)) <= 60
    server.rpop(QUEUE)
    assert operation.delay(4).id


def test_the_error_is_what_a_worker_hands_on():
    error = PoolSaturated("full", 0.5, 2)
    again = type(error)(*error.args)
    assert (str(again), again.retry_after, again.fits) == ("full", 0.5, 2)
    assert isinstance(again, SubmissionError)
    assert categorize(again) is Category.RESOURCE


def test_the_time_until_there_is_room_is_that_of_the_rate(app, operation, server):
    def milliseconds():
        seconds, microseconds = server.time()
        return seconds * 1000 + microseconds // 1000

    at = milliseconds() - 2000
    server.hset(keys.room(QUEUE), mapping={"at": at, "ended": 100})
    server.hset(keys.pool_totals("code"), mapping={"outcome:success": 130, "outcome:failure": 10})
    with pytest.raises(PoolSaturated) as caught:
        Pool("code", app=app).submit_many(operation, [(number,) for number in range(13)])
    # 40 have ended since `at`, 2 seconds ago or a little more, and 10 are one too many.
    assert 10 / 20 <= caught.value.retry_after <= 10 / 40 * (milliseconds() - at) / 1000 + 0.001


def test_of_many_as_many_are_submitted_as_fit(app, operation, server):
    operation.delay()
    with pytest.raises(PoolSaturated) as caught:
        Pool("code", app=app).submit_many(operation, ((number,) for number in range(600)))
    error = caught.value
    assert error.fits == len(error.accepted) == 2
    assert [call[0] for call in error.rest] == list(range(2, 600))
    assert server.llen(QUEUE) == 3
    server.delete(QUEUE)
    assert len(Pool("code", app=app).submit_many(operation, [(1,), (2,)])) == 2


def test_producers_that_hurry_never_fill_it_beyond(apps, server):
    operation = make_operation(apps(max_queue=50))
    outcomes = []

    def produce():
        for number in range(20):
            try:
                operation.delay(number)
            except PoolSaturated:
                outcomes.append(False)
            else:
                outcomes.append(True)

    threads = [threading.Thread(target=produce) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count(True), server.llen(QUEUE)) == (50, 50)


def test_a_chunk_whose_answer_was_lost_is_pushed_once_and_has_the_same_answer(app, server):
    admission = Admission(app, QUEUE)
    lane = Lane(keys.submission(QUEUE, "lane"))
    entries = [Entry(Message(str(number), b"%d" % number), {}) for number in range(5)]
    names, arguments = admission.call(entries, lane)
    script = server.register_script(ADMIT.text)
    first = script(keys=names, args=arguments)
    server.rpop(QUEUE)
    assert script(keys=names, args=arguments) == first == [1000, "0", "1", "2"]
    assert server.llen(QUEUE) == 2
    assert server.ttl(lane.key) > 0
    # A submission without controls may have the lane next.
    plain = server.register_script(_SUBMIT.decode())
    assert plain(keys=(QUEUE, lane.key), args=(1, 60, "again")) == 0
    assert plain(keys=(QUEUE, lane.key), args=(2, 60, "next")) == 1


def test_what_waits_until_it_is_due_takes_no_room(operation, server):
    results = [operation.apply_async((number,), countdown=600) for number in range(5)]
    assert server.zcard(keys.delayed(QUEUE)) == len(results)
    assert operation.delay().id


def test_all_priorities_count(apps, server):
    operation = make_operation(apps(max_queue=2, priorities=[0, 5]))
    operation.apply_async(priority=5)
    operation.apply_async()
    for priority in (0, 5):
        with pytest.raises(PoolSaturated):
            operation.apply_async(priority=priority)
    assert server.llen(QUEUE) == 1


def test_groups_and_rare_options_are_refused_too(app, operation, server):
    operation.apply_async(expires=60)
    with pytest.raises(PoolSaturated):
        group(operation.s(number) for number in range(5)).apply_async()
    assert server.llen(QUEUE) == 3
    with app.connection_for_write() as connection, pytest.raises(PoolSaturated):
        operation.apply_async(producer=app.amqp.Producer(connection))


def test_a_worker_may_go_on_with_what_the_pool_has_accepted(app, operation, server):
    for number in range(3):
        operation.delay(number)
    app.pooltasks.pool = "code"
    chain(operation.s(), operation.s()).apply_async()
    operation.apply_async(task_id="retried", retries=1)
    with pytest.raises(PoolSaturated):
        operation.delay()
    assert server.llen(QUEUE) == 5


def test_an_event_loop_is_told_too_and_sends_all_or_none(app, operation, server):
    async def work():
        pool = Pool("code", app=app)
        await operation.adelay(1)
        with pytest.raises(PoolSaturated) as caught:
            await pool.asubmit_many(operation, [(1,), (2,), (3,)])
        assert caught.value.fits == 2
        assert server.llen(QUEUE) == 1
        assert len(await pool.asubmit_many(operation, [(1,), (2,)])) == 2
        with pytest.raises(PoolSaturated):
            await operation.adelay(1)

    asyncio.run(work())
    assert server.llen(QUEUE) == 3


def test_a_pool_without_it_is_asked_nothing(apps, server):
    app = apps()
    operation = make_operation(app)
    operation.delay()
    server.config_resetstat()
    operation.delay()
    Pool("code", app=app).submit_many(operation, [()])
    commands = server.info("commandstats")
    assert commands["cmdstat_eval"]["calls"] == 1
    assert "cmdstat_evalsha" not in commands
    assert "cmdstat_llen" not in commands


def test_a_test_that_runs_operations_at_once_is_refused_nothing(app, operation):
    app.conf.task_always_eager = True
    assert [operation.delay(number).get() for number in range(5)] == list(range(5))
