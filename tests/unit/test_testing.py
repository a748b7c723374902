"""What pooltasks offers to the tests of applications."""

from __future__ import annotations

import threading
import time

import pytest
from celery import Celery, chain, chord, group, shared_task, signals
from celery.exceptions import TimeoutError as CeleryTimeoutError

import pooltasks
from pooltasks import Pool, operation
from pooltasks.errors import CheckoutTimeout, OperationTimeout
from pooltasks.settings import Settings
from pooltasks.testing import inline, recorded

pytestmark = pytest.mark.usefixtures("bare_environment")


class ShopError(Exception):
    pass


@operation(pool="code", name="test_testing.double")
def double(a, times=2):
    return a * times


@operation(pool="code", name="test_testing.fails")
def fails(message):
    raise ShopError(message)


attempts = []


@operation(pool="code", retry=2, bind=True, name="test_testing.flaky")
def flaky(self, good_at):
    attempts.append(self.request.retries)
    if self.request.retries < good_at:
        raise ConnectionError("gone")
    return self.request.retries


@operation(pool="code", timeout=0.05, name="test_testing.slow")
def slow():
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        pass


@operation(pool="code", name="test_testing.total")
def total(numbers):
    return sum(numbers)


@operation(pool="code", name="test_testing.outer")
def outer(a):
    return double.delay(a).get(disable_sync_subtasks=False) + 1


@operation(pool="code", name="test_testing.coroutine")
async def coroutine(a):
    double.delay(a)
    return a


@shared_task(name="test_testing.plain")
def plain(a):
    return a


@pytest.fixture
def app():
    app = Celery("project", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0")
    pooltasks.install(app, Settings(pools={"code": {"operation_timeout": 5}, "other": {}}))
    yield app
    pooltasks.app.set_current()


@pytest.fixture(autouse=True)
def _no_attempts():
    attempts.clear()


def test_an_operation_runs_when_it_is_submitted(app):
    with inline(app):
        result = double.delay(3)
        assert (result.get(), result.state) == (6, "SUCCESS")
        again = app.AsyncResult(result.id)
        assert again.get() == 6
        assert again.info == 6
        assert set(app.backend.get_task_meta(result.id)["timing"]) == {"wait", "run"}
        assert plain.delay([1, (2,)]).get() == [1, [2]]
        assert app.send_task("test_testing.double", [4]).get() == 8


def test_a_pool_executes_and_submits(app):
    with inline(app):
        pool = Pool("other", app)
        assert pool.execute(double, [5]) == 10
        assert pool.execute(plain, ["a"]) == "a"
        results = pool.submit_many(double, [[1], {"a": 2, "times": 3}])
        assert [result.get() for result in results] == [2, 6]
        with pytest.raises(TypeError, match="missing"):
            pool.submit(double)


def test_an_error_is_the_callers(app):
    with inline(app):
        result = fails.delay("broken")
        with pytest.raises(ShopError, match="broken"):
            result.get()
        assert result.state == "FAILURE"
        assert "ShopError" in result.traceback


def test_retries_are_counted(app):
    with inline(app):
        assert flaky.delay(2).get() == 2
        assert attempts == [0, 1, 2]
        result = flaky.delay(9)
        with pytest.raises(ConnectionError):
            result.get()
        assert attempts == [0, 1, 2] * 2
        assert result.state == "FAILURE"


def test_a_timeout_strikes(app):
    with inline(app):
        begun = time.monotonic()
        with pytest.raises(OperationTimeout, match="stopped after running"):
            slow.delay().get()
        assert time.monotonic() - begun < 2


def test_what_came_too_late_is_not_run(app):
    with inline(app), pytest.raises(CheckoutTimeout):
        app.send_task(double.name, [1], queue="pool.code", headers={"published_at": 1}).get()


def test_canvas_work_runs(app):
    with inline(app):
        assert chain(double.s(1), double.s(), double.s(times=5)).delay().get() == 20
        assert group(double.s(n) for n in range(4)).delay().get() == [0, 2, 4, 6]
        assert chord([double.s(n) for n in range(4)], total.s()).delay().get() == 12
        assert chord([plain.s(n) for n in range(3)], total.s()).delay().get() == 3
        result = double.apply_async([2], link=double.s())
        assert result.children[0].get() == 8
        assert (group(double.s(1), double.s(2)) | total.s() | double.s()).delay().get() == 12
        long = chain(double.s(1, 1), *(double.s(1) for _ in range(500)))
        assert long.delay().get() == 1


def test_an_operation_waits_for_another(app):
    with inline(app):
        assert outer.delay(4).get() == 9


def test_a_coroutine_submits(app):
    ran = []
    with inline(app):
        signals.task_success.connect(
            lambda sender, **_: ran.append(sender.name), weak=False, dispatch_uid="t"
        )
        try:
            assert coroutine.delay(4).get() == 4
        finally:
            signals.task_success.disconnect(dispatch_uid="t")
    assert ran == ["test_testing.coroutine", "test_testing.double"]


def test_arguments_are_encoded(app):
    with inline(app), pytest.raises(Exception, match="not JSON serializable"):
        double.delay(object())


def test_other_threads_run_inline_too(app):
    answers = []
    with inline(app):
        thread = threading.Thread(target=lambda: answers.append(double.delay(2).get()))
        thread.start()
        thread.join()
    assert answers == [4]


@pytest.mark.timing
def test_a_thousand_operations_take_less_than_a_second(app):
    with inline(app):
        double.delay(0)
        begun = time.process_time()
        for number in range(1000):
            assert double.delay(number).get() == 2 * number
        assert time.process_time() - begun < 1.0


def test_afterwards_everything_is_as_it_was(app):
    names = ("send_task", "producer_or_acquire", "_local", "_backend_cache")
    before = {name: vars(app).get(name) for name in names}
    clock, sender = app.pooltasks.clock, vars(app.amqp).get("send_task_message")
    for context in (inline, recorded):
        with context(app):
            double.delay(1)
        assert {name: vars(app).get(name) for name in names} == before
        assert app.pooltasks.clock is clock
        assert vars(app.amqp).get("send_task_message") is sender


def test_what_is_submitted_is_recorded_and_not_run(app):
    with recorded(app) as submitted:
        double.delay(1, times=3)
        Pool("other", app).submit(double, [7])
        Pool("code", app).submit_many(flaky, [[1], [2]])
        plain.apply_async(["x"], countdown=60)
        call = submitted.assert_submitted(double, a=1, times=3)
        assert (call.queue, call.args, call.kwargs) == ("pool.code", [1], {"times": 3})
        assert submitted.assert_submitted(double, 7).queue == "pool.other"
        assert submitted.assert_submitted("test_testing.double", 7, times=2).queue == "pool.other"
        assert submitted.assert_submitted(flaky)
        assert [call.args for call in submitted.of(flaky)] == [[1], [2]]
        assert submitted.assert_submitted(plain, "x").headers["eta"]
        submitted.assert_not_submitted(fails)
    assert attempts == []


def test_a_record_says_what_there_was_instead(app):
    with recorded(app) as submitted:
        with pytest.raises(AssertionError, match=r"double was not submitted\. Nothing was\."):
            submitted.assert_submitted(double)
        result = double.delay(1)
        with pytest.raises(AssertionError) as raised:
            submitted.assert_submitted(double, 2)
        assert "test_testing.double(2) to any queue was not submitted" in str(raised.value)
        assert "test_testing.double(1) to pool.code" in str(raised.value)
        with pytest.raises(AssertionError, match="double was submitted"):
            submitted.assert_not_submitted(double)
        with pytest.raises(CeleryTimeoutError, match="under recorded"):
            result.get(timeout=9)


def test_canvas_work_is_recorded_as_far_as_it_is_submitted(app):
    with recorded(app) as submitted:
        chain(double.s(1), total.s()).delay()
        chord([double.s(2), double.s(3)], total.s()).delay()
        assert [call.args for call in submitted.of(double)] == [[1], [2], [3]]
        submitted.assert_not_submitted(total)


def test_an_application_without_pools_has_operations_in_tests():
    app = Celery("without")
    try:
        with inline(app):
            assert app.tasks["test_testing.double"].delay(2).get() == 4
    finally:
        pooltasks.app.set_current()
