"""Operations from an event loop: published, awaited, and nothing that blocks it."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import weakref

import pytest
import redis
from kombu.exceptions import OperationalError
from tcp_proxy import Proxy

import pooltasks  # noqa: F401
from pooltasks import Pool, operation
from pooltasks.app import PoolApp
from pooltasks.extension import Extension
from pooltasks.settings import Settings
from pooltasks.testing import inline


@operation(pool="code", name="test_asynchronous.double")
def double(a):
    return 2 * a


@pytest.fixture
def app(valkey_url):
    app = PoolApp("test", set_as_current=False)
    app._extension = Extension(Settings(redis_url=valkey_url, pools={"code": {}}))
    yield app
    app.close()


@pytest.fixture
def work(app):
    return app.tasks["test_asynchronous.double"]


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url) as client:
        yield client


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between looks


def run_next(app, server, answer=None):
    """Do what a node does with the next operation in the queue."""
    message = json.loads(server.rpop("pool.code"))
    task_id = message["headers"]["id"]
    if isinstance(answer, Exception):
        app.backend.mark_as_failure(task_id, answer)
    else:
        app.backend.mark_as_done(task_id, answer)
    return message


def test_the_message_is_what_delay_publishes(work, server):
    async def main():
        return await work.adelay(3)

    result = asyncio.run(main())
    theirs = work.delay(3)
    ours, other = (json.loads(server.rpop("pool.code")) for _ in range(2))
    assert ours["headers"]["id"] == result.id
    assert other["headers"]["id"] == theirs.id
    for message in (ours, other):
        for varying in ("id", "root_id", "published_at", "deadline", "origin"):
            assert message["headers"].pop(varying, None) is not None or varying == "origin"
        for varying in ("correlation_id", "delivery_tag", "reply_to"):
            assert message["properties"].pop(varying)
        message["headers"].pop("ignore_result", None)
    assert ours == other


def test_a_result_is_awaited_whether_it_comes_before_or_after(app, work, server):
    async def main():
        early = await work.adelay(1)
        run_next(app, server, 2)
        late = await work.adelay(2)
        waiting = asyncio.create_task(_value(late))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await asyncio.to_thread(run_next, app, server, 4)
        return await early, await waiting, await early

    assert asyncio.run(main()) == (2, 4, 2)


async def _value(result):
    return await result


def test_an_error_is_raised(app, work, server):
    async def main():
        result = await work.adelay(1)
        run_next(app, server, ValueError("no"))
        await result

    with pytest.raises(ValueError, match="no"):
        asyncio.run(main())


def test_a_limit_is_that_of_asyncio(work):
    async def main():
        result = await work.adelay(1)
        async with asyncio.timeout(0.1):
            await result

    with pytest.raises(TimeoutError):
        asyncio.run(main())


def test_many_are_submitted_and_awaited_on_few_connections(app, server):
    def connections():
        return len(server.client_list())

    async def main():
        results = await Pool("code", app).asubmit_many(double.name, [[n] for n in range(100)])
        waiting = asyncio.gather(*map(_value, results))
        await asyncio.to_thread(
            wait_until, lambda: server.pubsub_numsub(*map(_key, results))[-1][1]
        )
        used = connections() - before
        for number in range(100):
            run_next(app, server, 2 * number)
        return await waiting, used

    def _key(result):
        return app.backend.get_key_for_task(result.id)

    server.ping()
    before = connections()
    values, used = asyncio.run(main())
    assert values == [2 * number for number in range(100)]
    assert used <= 2


def test_a_pool_executes_and_leaves_nothing(app, server):
    async def main():
        executed = asyncio.create_task(Pool("code", app).aexecute("test_asynchronous.double", [4]))
        await asyncio.to_thread(wait_until, lambda: server.llen("pool.code"))
        message = run_next(app, server, 8)
        return await executed, message["headers"]["id"]

    value, task_id = asyncio.run(main())
    assert value == 8
    assert not server.exists(app.backend.get_key_for_task(task_id))


def test_a_connection_that_breaks_loses_no_result(app, work, server):
    async def main():
        result = await work.adelay(1)
        waiting = asyncio.create_task(_value(result))
        key = app.backend.get_key_for_task(result.id)
        await asyncio.to_thread(wait_until, lambda: server.pubsub_numsub(key)[0][1])
        server.client_kill_filter(_type="pubsub")
        run_next(app, server, 2)
        async with asyncio.timeout(10):
            return await waiting

    assert asyncio.run(main()) == 2


def test_what_many_tasks_publish_at_once_goes_to_the_server_together(app, work, server):
    async def main():
        await work.adelay(0)  # connects
        before = server.info("stats")["total_reads_processed"]
        results = await asyncio.gather(*(work.adelay(number) for number in range(300)))
        published = server.info("stats")["total_reads_processed"] - before
        keys = [app.backend.get_key_for_task(result.id) for result in results]
        waiting = [asyncio.create_task(_value(result)) for result in results]
        await asyncio.sleep(0)
        before = server.info("stats")["total_reads_processed"]
        await asyncio.to_thread(wait_until, lambda: _are_subscribed(server, keys))
        subscribed = server.info("stats")["total_reads_processed"] - before
        for task in waiting:
            task.cancel()
        return published, subscribed, threading.active_count()

    threads = threading.active_count() + 1  # that of this test itself
    published, subscribed, after = asyncio.run(main())
    assert server.llen("pool.code") == 301
    assert published < 30
    assert subscribed < 60  # with those that ask how many there are
    assert after <= threads


def _are_subscribed(server, keys):
    return all(number for _, number in server.pubsub_numsub(*keys))


def test_a_silent_server_fails_every_call_at_once_and_the_loop_goes_on(valkey_url):
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        app = PoolApp("test", set_as_current=False)
        url = f"redis://127.0.0.1:{proxy.port}/1?socket_timeout=1"
        app._extension = Extension(Settings(redis_url=url, pools={"code": {}}))
        work = app.tasks["test_asynchronous.double"]

        async def call(number):
            with pytest.raises(OperationalError):
                await work.adelay(number)

        async def main():
            await work.adelay(0)
            proxy.silence(new_too=True)
            calls = asyncio.gather(*map(call, range(700)))
            turns = 0
            while not calls.done():
                await asyncio.sleep(0.01)
                turns += 1
            await calls
            return turns

        begun = time.monotonic()
        turns = asyncio.run(main())
        assert turns > 20  # the loop went on meanwhile
        assert time.monotonic() - begun < 10  # not a second for each
        app.close()


def test_arguments_that_do_not_fit_are_refused(work):
    with pytest.raises(TypeError):
        asyncio.run(work.adelay(1, 2, 3))


def test_inline_operations_are_awaited_without_a_server(app, work):
    async def main():
        return await (await work.adelay(5)), await Pool("code", app).aexecute(double.name, [6])

    with inline(app):
        assert asyncio.run(main()) == (10, 12)


def test_who_awaits_a_result_of_a_server_that_falls_silent_is_told(valkey_url, monkeypatch):
    monkeypatch.setattr("pooltasks.awaiting._SILENCE", 0.2)
    monkeypatch.setattr("pooltasks.awaiting._PATIENCE", 1.0)
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        app = PoolApp("test", set_as_current=False)
        app._extension = Extension(
            Settings(redis_url=f"redis://127.0.0.1:{proxy.port}/0", pools={"code": {}})
        )
        work = app.tasks["test_asynchronous.double"]

        async def main():
            results = [await work.adelay(number) for number in range(60)]
            waiting = [asyncio.create_task(_value(result)) for result in results]
            await asyncio.sleep(1.5)  # a server that answers keeps everyone waiting
            assert not any(task.done() for task in waiting)
            proxy.silence(new_too=True)
            async with asyncio.timeout(10):
                errors = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(error) for error in errors} == {OperationalError}

        asyncio.run(main())
        app.close()


def test_a_server_need_not_say_how_long_it_may_be_silent(valkey_url):
    """Who publishes waits for a silent server as ``delay()`` does, and no longer."""
    port = int(valkey_url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        app = PoolApp("test", set_as_current=False)
        app._extension = Extension(
            Settings(redis_url=f"redis://127.0.0.1:{proxy.port}/0", pools={"code": {}}),
            publish_timeout=0.5,
        )
        work = app.tasks["test_asynchronous.double"]

        async def main():
            await work.adelay(0)
            proxy.silence(new_too=True)
            async with asyncio.timeout(10):
                with pytest.raises(OperationalError):
                    await work.adelay(1)

        asyncio.run(main())
        app.close()


def test_results_that_are_dropped_leave_no_garbage(app, work, server):
    async def main():
        result = await work.adelay(1)
        run_next(app, server, 2)
        await result
        return weakref.ref(result)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(main())() is None
    finally:
        gc.enable()


def test_who_calls_then_is_told_by_await(app, work, server):
    seen = []

    async def main():
        result = await work.adelay(1)
        result.then(seen.append)
        run_next(app, server, 2)
        await result
        return result

    result = asyncio.run(main())
    assert seen == [result]
