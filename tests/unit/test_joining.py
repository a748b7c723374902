"""Operations of one worker wait for others; the end of one's permission is nobody else's."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from celery import _state, result
from celery.result import allow_join_result, assert_will_not_block

from pooltasks.node.worker import joining

SECONDS = 10


@pytest.fixture(autouse=True)
def separated(monkeypatch):
    for name in ("task_join_will_block", "_set_task_join_will_block"):
        monkeypatch.setattr(result, name, getattr(result, name))  # and back afterwards
    monkeypatch.setattr(_state, "_task_join_will_block", True)  # as in a worker
    joining.separate()


def test_an_operation_that_was_not_allowed_may_not_wait():
    with pytest.raises(RuntimeError, match="Never call result"):
        assert_will_not_block()
    with allow_join_result():
        assert_will_not_block()
    with pytest.raises(RuntimeError, match="Never call result"):
        assert_will_not_block()


def test_an_application_may_allow_it_to_the_whole_process(monkeypatch):
    monkeypatch.setattr(_state, "_task_join_will_block", False)
    assert_will_not_block()


def test_a_thread_may_wait_after_another_one_has_waited():
    first_has_begun, second_has_begun, first_has_ended = (threading.Event() for _ in range(3))

    def first():
        with allow_join_result():
            first_has_begun.set()
            assert second_has_begun.wait(SECONDS)
        first_has_ended.set()

    def second():
        assert first_has_begun.wait(SECONDS)
        with allow_join_result():
            second_has_begun.set()
            assert first_has_ended.wait(SECONDS)
            assert_will_not_block()

    with ThreadPoolExecutor(2) as threads:
        for thread in [threads.submit(first), threads.submit(second)]:
            thread.result(SECONDS)


def test_a_coroutine_may_wait_after_another_one_has_waited():
    async def wait(begun, ended, *, is_first):
        with allow_join_result():
            begun[0 if is_first else 1].set()
            await begun[1 if is_first else 0].wait()
            if not is_first:
                await ended.wait()
            assert_will_not_block()
        ended.set()

    async def both():
        begun, ended = (asyncio.Event(), asyncio.Event()), asyncio.Event()
        start = partial(wait, begun, ended)
        await asyncio.gather(start(is_first=True), start(is_first=False))

    asyncio.run(asyncio.wait_for(both(), SECONDS))
