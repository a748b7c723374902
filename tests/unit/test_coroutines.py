"""Operations that are ``async def`` run on the event loop; the rest is as for functions."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
import traceback
from contextvars import ContextVar

import pytest
from celery import current_task
from celery.exceptions import Retry, SoftTimeLimitExceeded

from pooltasks import coroutines
from pooltasks.errors import OperationTimeout
from pooltasks.task import Operation

colour: ContextVar[str] = ContextVar("colour", default="none")


@pytest.fixture
def app(make_app):
    return make_app(pools={"code": {}})


def make(app, function, **options):
    return app.task(
        base=Operation,
        typing=False,
        shared=False,
        name=f"test.{function.__name__}",
        pool="code",
        **options,
    )(function)


def run(task, *args, **request):
    """Run the operation as a worker does."""
    task.push_request(id="1", args=args, kwargs={}, called_directly=False, retries=0, **request)
    try:
        return task(*args)
    finally:
        task.pop_request()


@pytest.fixture
def begun():
    """An event: the present thread is interrupted when it is set."""
    event, thread = threading.Event(), threading.get_ident()

    def interrupt():
        event.wait()
        coroutines.interrupt(thread)

    waiting = threading.Thread(target=interrupt)
    waiting.start()
    yield event
    waiting.join()


def test_called_directly_it_is_a_coroutine(app):
    async def double(number):
        return 2 * number

    assert asyncio.run(make(app, double)(4)) == 8


def test_a_worker_waits_for_what_it_returns(app):
    async def double(number):
        await asyncio.sleep(0)
        return 2 * number

    task = make(app, double)
    assert run(task, 4) == 8
    assert task.apply((5,)).get() == 10


def test_what_it_raises_comes_with_the_line_that_raised_it(app):
    async def fail():
        await asyncio.sleep(0)
        raise LookupError("in vain")

    with pytest.raises(LookupError) as raised:
        run(make(app, fail))
    assert "in fail" in "".join(traceback.format_exception(raised.value))


def test_all_coroutines_run_on_one_loop_which_goes_on_between_them(app):
    async def keep():
        task = asyncio.get_running_loop().create_task(asyncio.sleep(0.01, "later"))
        keep.kept = task
        return id(asyncio.get_running_loop())

    async def kept():
        return await keep.kept, id(asyncio.get_running_loop())

    loop = run(make(app, keep))
    assert run(make(app, kept)) == ("later", loop)


def test_its_request_and_the_current_task_are_its_own_also_in_what_it_starts(app):
    async def own(self):
        return self.request.id, current_task.request.id, current_task.name

    async def tell(self):
        before = await own(self)
        await asyncio.sleep(0.01)
        return {before, await own(self), *await asyncio.gather(own(self), own(self))}

    task = make(app, tell, bind=True)
    app.finalize()  # not in several threads

    def wait(number):
        task.push_request(id=str(number), args=(), kwargs={}, called_directly=False)
        try:
            # As Celery's tracer: the task is the current one while it runs.
            return task.apply(task_id=str(number)).get()
        finally:
            task.pop_request()

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for number, seen in enumerate(threads.map(wait, range(8))):
            assert seen == {(str(number), str(number), "test.tell")}


def test_what_outlives_its_operation_has_no_request(app):
    late = []

    async def look_later(self):
        await asyncio.sleep(0.02)
        late.append(self.request.id)

    async def leave(self):
        leave.task = asyncio.get_running_loop().create_task(look_later(self))

    async def join(self):
        await leave.task
        return self.request.id

    run(make(app, leave, bind=True))
    assert run(make(app, join, bind=True)) == "1"
    assert late == [None]


def test_context_variables_are_those_of_the_caller(app):
    async def see():
        await asyncio.sleep(0)
        colour.set("red")
        return colour.get()

    colour.set("blue")
    assert run(make(app, see)) == "red"
    assert colour.get() == "blue"


def test_a_soft_limit_cancels_the_coroutine_after_it_has_cleaned_up(app, begun):
    cleaned = []

    async def hang():
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("up")

    with pytest.raises(OperationTimeout) as raised:
        run(make(app, hang))
    assert cleaned == ["up"]
    assert isinstance(raised.value.__cause__, SoftTimeLimitExceeded)
    assert "in hang" in "".join(traceback.format_exception(raised.value))


def test_a_coroutine_may_make_something_of_its_limit(app, begun):
    async def partial():
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "half of it"

    assert run(make(app, partial)) == "half of it"


def test_one_that_cancels_itself_fails_like_any_other(app):
    async def cancel():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    with pytest.raises(concurrent.futures.CancelledError):
        run(make(app, cancel))


def test_one_that_wants_to_leave_the_process_does_not_end_the_loop(app):
    async def leave():
        raise SystemExit(3)

    async def stay():
        return "here"

    with pytest.raises(SystemExit):
        run(make(app, leave))
    assert run(make(app, stay)) == "here"


def test_a_retry_is_asked_for_as_in_a_function(app, monkeypatch):
    sent = []
    monkeypatch.setattr(app, "send_task", lambda *_, **options: sent.append(options))

    async def again(self):
        await asyncio.sleep(0)
        raise self.retry(countdown=1)

    delivery = {"routing_key": "pool.code"}
    with pytest.raises(Retry):
        run(make(app, again, bind=True), delivery_info=delivery, root_id="1", is_eager=False)
    assert [options["retries"] for options in sent] == [1]


def test_one_that_calls_itself_awaits_itself(app):
    async def factorial(self, number):
        return number * await self(number - 1) if number else 1

    assert run(make(app, factorial, bind=True), 5) == 120


def test_the_loop_says_so_when_it_is_to_wait_for_itself(app):
    async def inner():
        return 1

    task = make(app, inner)

    async def outer():
        return task.apply(throw=True).get()

    outer_task = app.task(base=Operation, typing=False, shared=False, name="outer", pool="code")
    with pytest.raises(RuntimeError, match=r"await test\.inner"):
        run(outer_task(outer))


def test_a_fork_gets_a_loop_of_its_own(app):
    async def double(number):
        await asyncio.sleep(0)
        return 2 * number

    task = make(app, double)
    assert run(task, 1) == 2
    pid = os.fork()
    if pid == 0:
        os._exit(run(task, 3))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 6
