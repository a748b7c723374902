"""Waiting for results: no subscription before it, no result missed, none left behind."""

from __future__ import annotations

import gc
import os
import threading
import time

import pytest
import redis
from celery.exceptions import TimeoutError as NotThere
from celery.result import GroupResult, ResultSet
from kombu.utils.uuid import uuid

from pooltasks.app import Extension, PoolApp
from pooltasks.broker.mailbox import Mailbox
from pooltasks.settings import Settings

DEADLINE = 20.0  # seconds


@pytest.fixture
def app(valkey_url):
    app = PoolApp("waiting", set_as_current=False)
    app._extension = Extension(Settings.load(redis_url=valkey_url, pools={"code": {}}))
    yield app
    app.backend.result_consumer.stop()
    app.backend.client.close()
    app.close()


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        client.client_kill_filter(_type="pubsub")  # subscriptions of earlier tests' applications
        client.config_resetstat()
        yield client


def calls(server, command):
    """How often the server has executed a command since the test began."""
    return server.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def key(task_id):
    return f"celery-task-meta-{task_id}"


def channels(server):
    return server.pubsub_channels("celery-task-meta-*")


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)  # between looks


def finish(app, *ids):
    """Store results as a worker does: each is its own id."""
    for task_id in ids:
        app.backend.store_result(task_id, task_id, "SUCCESS")


class Later(threading.Thread):
    """Something that happens while the test waits; its error is the test's."""

    def __init__(self, function, *args):
        super().__init__()
        self._call = function, args
        self._error = None

    def run(self):
        function, args = self._call
        try:
            function(*args)
        except BaseException as error:  # noqa: BLE001  raised again by the test
            self._error = error

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.join(DEADLINE)
        assert not self.is_alive()
        if self._error:
            raise self._error


def test_nobody_subscribes_before_somebody_waits(app, server):
    results = [app.AsyncResult(uuid()) for _ in range(3)]
    group = GroupResult(uuid(), results)
    done = []
    group.then(done.append)
    assert group.completed_count() == 0
    assert channels(server) == []
    assert calls(server, "subscribe") == 0
    finish(app, *(result.id for result in results))
    assert group.get(timeout=DEADLINE) == [result.id for result in results]
    assert done == [group]


def test_a_result_that_was_there_before_is_found(app):
    result = app.AsyncResult(uuid())
    finish(app, result.id)
    assert result.get(timeout=DEADLINE) == result.id


def test_a_result_that_comes_later_is_found(app, server):
    result = app.AsyncResult(uuid())

    def later():
        wait_until(lambda: channels(server), "somebody waits")
        finish(app, result.id)

    with Later(later):
        assert result.get(timeout=DEADLINE) == result.id
    # Not polled.
    assert calls(server, "mget") + calls(server, "get") == 1


def test_subscriptions_to_what_has_come_end_together(app, server):
    for _ in range(250):
        result = app.AsyncResult(uuid())

        def later(task_id=result.id):
            wait_until(lambda: key(task_id) in channels(server), "somebody waits")
            finish(app, task_id)

        with Later(later):
            assert result.get(timeout=DEADLINE) == result.id
    assert calls(server, "unsubscribe") == 2
    wait_until(lambda: len(channels(server)) == 50, "the others are released")


def test_a_result_that_comes_while_it_is_subscribed_to_is_found(app, server, monkeypatch):
    """Stored after it was decided to subscribe, before the server has done so."""
    subscribe = Mailbox.subscribe

    def store_first(mailbox, keys):
        finish(app, result.id)
        subscribe(mailbox, keys)

    monkeypatch.setattr(Mailbox, "subscribe", store_first)
    result = app.AsyncResult(uuid())
    assert result.get(timeout=DEADLINE) == result.id
    assert calls(server, "publish") == 1


def test_progress_is_shown_to_who_waits(app):
    result = app.AsyncResult(uuid())
    seen = []
    app.backend.store_result(result.id, {"done": 1}, "PROGRESS")

    def later():
        wait_until(lambda: seen, "the first state")
        app.backend.store_result(result.id, {"done": 2}, "PROGRESS")
        finish(app, result.id)

    with Later(later):
        result.get(timeout=DEADLINE, on_message=lambda meta: seen.append(meta["result"]))
    assert seen == [{"done": 1}, {"done": 2}, result.id]


def test_an_error_of_who_looks_on_loses_no_result(app, server):
    results = ResultSet([app.AsyncResult(uuid()) for _ in range(3)])
    app.backend.add_pending_results(results.results)
    app.backend.result_consumer.drain_events(timeout=0.01)
    wait_until(lambda: len(channels(server)) == 3, "all are subscribed to")
    finish(app, *(result.id for result in results))

    def stumble(_meta):
        app.backend.result_consumer.on_message = None
        raise LookupError

    app.backend.result_consumer.on_message = stumble
    drain = app.backend.result_consumer.drain_events
    with pytest.raises(LookupError):
        wait_until(lambda: drain(timeout=DEADLINE), "an error")

    def others_are_there():
        drain(timeout=0.01)
        return sum(bool(result._cache) for result in results) == 2

    wait_until(others_are_there, "those that came behind it")
    assert results.join_native(timeout=DEADLINE) == [result.id for result in results]


def test_who_gave_up_can_wait_again(app):
    result = app.AsyncResult(uuid())
    for _ in range(2):
        with pytest.raises(NotThere):
            result.get(timeout=0.05)
    finish(app, result.id)
    assert result.get(timeout=DEADLINE) == result.id


def test_thousands_of_results_take_few_commands(app, server):
    results = ResultSet([app.AsyncResult(uuid()) for _ in range(2500)])
    ids = [result.id for result in results]
    finish(app, *ids[:1250])

    def later():
        wait_until(lambda: len(channels(server)) == 1250, "the others are subscribed to")
        finish(app, *ids[1250:])

    with Later(later):
        assert dict(results.iter_native(timeout=DEADLINE)).keys() == set(ids)
    assert results.join_native(timeout=DEADLINE) == ids
    assert calls(server, "subscribe") == 2
    wait_until(lambda: len(channels(server)) < 100, "the subscriptions are released")
    assert len(app.backend.result_consumer.subscribed_to) < 100


def test_what_is_forgotten_or_dropped_is_unsubscribed(app, server):
    forgotten, dropped, kept = (app.AsyncResult(uuid()) for _ in range(3))
    app.backend.add_pending_results([forgotten, kept])
    app.backend.add_pending_result(dropped, weak=True)
    app.backend.result_consumer.drain_events(timeout=0.01)
    wait_until(lambda: len(channels(server)) == 3, "all are subscribed to")
    forgotten.forget()
    del dropped
    gc.collect()
    left = [f"celery-task-meta-{kept.id}"]
    wait_until(lambda: channels(server) == left, "the others are unsubscribed")


def test_a_lost_connection_loses_no_result(app, server):
    results = ResultSet([app.AsyncResult(uuid()) for _ in range(20)])
    ids = [result.id for result in results]

    def later():
        for number, task_id in enumerate(ids):
            if number % 5 == 0:
                wait_until(lambda: channels(server), "somebody waits")
                server.client_kill_filter(_type="pubsub")
            finish(app, task_id)

    with Later(later):
        assert results.join_native(timeout=DEADLINE) == ids


def test_many_threads_wait_at_the_same_time(app):
    results = [app.AsyncResult(uuid()) for _ in range(16)]
    values = {}

    def wait(result):
        values[result.id] = result.get(timeout=DEADLINE)

    threads = [threading.Thread(target=wait, args=(result,)) for result in results]
    for thread in threads:
        thread.start()
    for result in results:
        finish(app, result.id)
    for thread in threads:
        thread.join(DEADLINE)
    assert values == {result.id: result.id for result in results}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_process_waits_on_its_own_connection(app, server):
    mine, the_child_s = app.AsyncResult(uuid()), app.AsyncResult(uuid())
    app.backend.add_pending_result(mine)
    app.backend.result_consumer.drain_events(timeout=0.01)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if the_child_s.get(timeout=DEADLINE) == the_child_s.id else 1)
        finally:
            os._exit(2)
    wait_until(lambda: len(channels(server)) == 2, "parent and child are subscribed")
    finish(app, the_child_s.id, mine.id)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert mine.get(timeout=DEADLINE) == mine.id
