"""A server that goes silent without closing: who publishes and who waits leave it within 5 s.

New connections work, as they do after a firewall has forgotten the old ones.
"""

from __future__ import annotations

import threading
import time
from urllib.parse import urlsplit

import pytest
import redis
from celery.result import GroupResult
from kombu.utils.uuid import uuid
from tcp_proxy import Proxy

from pooltasks import Pool, install
from pooltasks.app import Extension, PoolApp
from pooltasks.broker.pusher import PUBLISH_TIMEOUT
from pooltasks.broker.serialization import SERIALIZER
from pooltasks.settings import Settings
from pooltasks.task import Operation

QUEUE = "pool.code"
PROMISE = 5.0  # seconds
DEADLINE = 20.0  # seconds

pytestmark = pytest.mark.timing


def make_app(url):
    app = PoolApp("silence", set_as_current=False)
    app._extension = Extension(Settings.load(redis_url=url, pools={"code": {}}))
    return app


@pytest.fixture
def proxy(valkey):
    with Proxy(urlsplit(valkey.url).port) as proxy:
        yield proxy


@pytest.fixture
def app(proxy, valkey_url):
    """The application behind the proxy."""
    app = make_app(valkey_url.replace(str(urlsplit(valkey_url).port), str(proxy.port)))
    yield app
    app.backend.result_consumer.stop()
    app.backend.client.close()
    app.close()


@pytest.fixture
def operation(app):
    @app.task(base=Operation, shared=False, name="jobs.run", pool="code", serializer=SERIALIZER)
    def run(number):
        return number

    return run._get_current_object()


@pytest.fixture
def near(valkey_url):
    """An application that reaches the server directly, as a node elsewhere does."""
    app = make_app(valkey_url)
    yield app
    app.backend.client.close()
    app.close()


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


class Timer:
    def __enter__(self):
        self._started = time.monotonic()
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self._started


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)  # between looks


def test_publishing_leaves_a_silent_connection(operation, proxy, server):
    operation.delay(1)
    proxy.silence()
    with Timer() as timer:
        operation.delay(2)
    assert timer.seconds < PROMISE
    assert server.llen(QUEUE) == 2


def test_one_silent_connection_is_enough_to_leave_the_others_that_were_idle(
    operation, proxy, server
):
    barrier = threading.Barrier(8)

    def publish():
        barrier.wait(DEADLINE)
        operation.delay(1)

    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    proxy.silence()
    with Timer() as timer:
        for number in range(8):
            operation.delay(number)
    assert timer.seconds < PROMISE
    assert server.llen(QUEUE) == 16


def test_submitting_many_leaves_a_silent_connection(app, operation, proxy, server):
    pool = Pool("code", app=app)
    pool.submit_many(operation, [(1,)])
    proxy.silence()
    with Timer() as timer:
        results = pool.submit_many(operation, [(n,) for n in range(700)])
    assert timer.seconds < PROMISE
    assert len(results) == 700
    assert server.llen(QUEUE) == 701


def test_who_starts_to_wait_on_a_silent_connection_gets_the_result(app, near, proxy):
    first, second = (app.AsyncResult(uuid()) for _ in range(2))
    near.backend.store_result(first.id, "one", "SUCCESS")
    assert first.get(timeout=DEADLINE) == "one"
    proxy.silence()
    near.backend.store_result(second.id, "two", "SUCCESS")
    with Timer() as timer:
        assert second.get(timeout=DEADLINE) == "two"
    assert timer.seconds < PROMISE


def test_who_waits_while_the_connection_goes_silent_gets_the_result(app, near, proxy, server):
    result = app.AsyncResult(uuid())
    got = []
    waiter = threading.Thread(target=lambda: got.append(result.get(timeout=DEADLINE)))
    waiter.start()
    wait_until(lambda: server.pubsub_channels("celery-task-meta-*"), "somebody waits")
    proxy.silence()
    near.backend.store_result(result.id, "value", "SUCCESS")
    with Timer() as timer:
        waiter.join(DEADLINE)
    assert got == ["value"]
    assert timer.seconds < PROMISE


def test_who_waits_for_a_group_gets_its_results(app, near, proxy):
    earlier = app.AsyncResult(uuid())
    near.backend.store_result(earlier.id, "one", "SUCCESS")
    assert GroupResult(uuid(), [earlier]).get(timeout=DEADLINE) == ["one"]
    proxy.silence()
    results = [app.AsyncResult(uuid()) for _ in range(3)]
    for result in results:
        near.backend.store_result(result.id, "two", "SUCCESS")
    with Timer() as timer:
        assert GroupResult(uuid(), results).get(timeout=DEADLINE) == ["two"] * 3
    assert timer.seconds < PROMISE


def test_a_long_wait_on_a_connection_that_works_keeps_it(app, near, proxy):
    result = app.AsyncResult(uuid())
    got = []
    waiter = threading.Thread(target=lambda: got.append(result.get(timeout=DEADLINE)))
    waiter.start()
    wait_until(lambda: proxy.accepted, "it is connected")
    accepted = proxy.accepted
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > PROMISE, "several questions and answers")
    assert proxy.accepted == accepted
    near.backend.store_result(result.id, "value", "SUCCESS")
    waiter.join(DEADLINE)
    assert got == ["value"]


def test_a_connection_on_which_nobody_waits_is_not_asked(app, near, server):
    result = app.AsyncResult(uuid())
    near.backend.store_result(result.id, "value", "SUCCESS")
    assert result.get(timeout=DEADLINE) == "value"
    server.config_resetstat()
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 3, "longer than a silence")
    assert "cmdstat_ping" not in server.info("commandstats")


def test_an_application_s_own_socket_timeout_holds_for_publishing(valkey_url):
    from celery import Celery  # noqa: PLC0415  beside the other application of this test

    for options, timeout in (({"socket_timeout": 7.5}, 7.5), ({}, PUBLISH_TIMEOUT)):
        app = Celery("theirs", broker=valkey_url, set_as_current=False)
        app.conf.broker_transport_options = options
        install(app, Settings.load(redis_url=valkey_url, pools={"code": {}}))

        @app.task(base=Operation, shared=False, name="jobs.run", pool="code", serializer=SERIALIZER)
        def run():
            pass

        run.delay()
        (wire,) = app.pooltasks.publisher.pusher._idle
        assert wire.connection.socket_timeout == timeout
        app.pooltasks.close()
        app.close()
