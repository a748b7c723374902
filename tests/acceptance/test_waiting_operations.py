"""Operations that are ``async def``, in real workers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import TimeLimitExceeded
from deployment import DEADLINE, Deployment, wait_until
from test_events import events_of

from pooltasks import Pool
from pooltasks.errors import OperationTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]


@pytest.fixture
def pool(deployment: Deployment) -> Pool:
    """The pool of a node with one worker, which writes its events down."""
    (deployment.folder / "events").mkdir()
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
        warmup = { commands = [{ operation = "sample_operations.warm_by_waiting" }] }
    """)
    deployment.start_node("-Q", "pool.code")
    return Pool("code", app=app)


def submit(pool: Pool, name: str, *args: Any) -> Any:
    return pool.submit(f"sample_operations.{name}", list(args))


def outcome(call: Callable[..., Any]) -> Any:
    try:
        return call(timeout=DEADLINE)
    except Exception as error:  # noqa: BLE001  what it is, is what is asked
        return type(error)


def test_they_run_as_functions_do(deployment: Deployment, pool: Pool) -> None:
    result = submit(pool, "wait", 0.05)
    assert result.get(timeout=DEADLINE) == [result.id] * 4
    again = submit(pool, "wait_and_fail_until", "attempts", 3)
    assert again.get(timeout=DEADLINE) == 3
    failed = submit(pool, "wait_and_raise", "value")
    assert outcome(failed.get) is ValueError
    assert "in wait_and_raise" in failed.traceback
    submit(pool, "wait_and_raise", "ignore")
    late = submit(pool, "wait_too_long", 0)
    assert outcome(late.get) is OperationTimeout
    assert submit(pool, "add", 1, 2).get(timeout=DEADLINE) == 3

    events = [event for event in events_of(deployment) if "wait" in event.get("operation", "")]
    ends = [
        (event["operation"].rpartition(".")[2], str(event["outcome"]))
        for event in events
        if event["event"] == "worker.checkin"
    ]
    assert ends == [
        ("wait", "success"),
        ("wait_and_fail_until", "retry"),
        ("wait_and_fail_until", "retry"),
        ("wait_and_fail_until", "success"),
        ("wait_and_raise", "failure"),
        ("wait_and_raise", "ignored"),
        ("wait_too_long", "failure"),
    ]
    (stop,) = (
        event for event in events if event["event"] == "operation.stop" and event["id"] == result.id
    )
    assert 0.05 <= stop["run"] <= stop["busy"] < 5


def test_one_that_ignores_its_limit_is_killed_with_its_worker(pool: Pool) -> None:
    begun = time.monotonic()
    stubborn = submit(pool, "wait_too_long", 30)
    behind = submit(pool, "echo", "behind it")
    assert outcome(stubborn.get) is TimeLimitExceeded
    assert time.monotonic() - begun < 20
    assert behind.get(timeout=DEADLINE) == "behind it"


def test_the_metrics_count_them(pool: Pool) -> None:
    for _ in range(3):
        submit(pool, "wait", 0.1).get(timeout=DEADLINE)
    work = wait_until(
        lambda: (its := pool.metrics().work).operations and its.operations["success"] == 3 and its,
        "a sample of it",
    )
    assert 0.3 <= work.busy < 2
    assert work.run.count == 3
