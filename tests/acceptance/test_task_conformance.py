"""A task's options, states, limits, errors and signals are Celery's, on either transport."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from celery import states
from celery.exceptions import (
    NotRegistered,
    Reject,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from celery.exceptions import TimeoutError as ResultTimeoutError
from deployment import DEADLINE, wait_until

from pooltasks.errors import OperationTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from deployment import Deployment

pytestmark = pytest.mark.long


@pytest.fixture
def task(either_path: Deployment) -> Callable[[str], Any]:
    """Return the operation of this name, bound to the deployment's application."""
    return lambda name: either_path.app.tasks[f"conformance_operations.{name}"]


@pytest.fixture
def key() -> str:
    """A name in Redis that no other test uses."""
    return f"test:{uuid4()}"


def state_is(result: Any, state: str) -> None:
    wait_until(lambda: result.state == state, f"the state {state}; it is {result.state}")


def notes(deployment: Deployment, key: str, number: int = 1) -> list[str]:
    """Return what was noted under ``key`` once there are ``number`` of them."""
    wait_until(lambda: deployment.redis.llen(key) >= number, f"{number} notes in {key}")
    return deployment.redis.lrange(key, 0, -1)


def signals_of(deployment: Deployment, identifier: str, *expected: str) -> list[str]:
    """Return the signals about an operation once all expected ones have come."""
    key = f"signals:{identifier}"

    def complete() -> list[str] | None:
        seen = deployment.redis.lrange(key, 0, -1)
        return seen if set(expected) <= set(seen) else None

    return wait_until(complete, f"the signals {expected}")


def test_a_result_and_its_metadata(either_path: Deployment, task) -> None:
    result = task("add").delay(2, 3)
    assert result.get(timeout=DEADLINE) == 5
    assert (result.state, result.successful(), result.ready()) == (states.SUCCESS, True, True)
    assert result.date_done <= datetime.now(UTC) + timedelta(minutes=1)
    ttl = either_path.redis.ttl(f"celery-task-meta-{result.id}")
    assert 86400 - 60 < ttl <= 86400
    result.forget()
    assert not either_path.redis.exists(f"celery-task-meta-{result.id}")


def test_an_unknown_id_is_pending_and_a_wait_has_an_end(either_path: Deployment) -> None:
    nobody = either_path.app.AsyncResult(str(uuid4()))
    assert nobody.state == states.PENDING
    with pytest.raises(ResultTimeoutError):
        nobody.get(timeout=0.05)


def test_an_error_is_raised_again_or_returned_with_its_traceback(task) -> None:
    result = task("fail").delay("for a reason")
    with pytest.raises(ValueError, match="for a reason"):
        result.get(timeout=DEADLINE)
    assert isinstance(result.get(timeout=DEADLINE, propagate=False), ValueError)
    assert (result.state, result.failed()) == (states.FAILURE, True)
    assert "raise ValueError(message)" in result.traceback


def test_an_error_class_of_the_application_keeps_its_arguments(task) -> None:
    error = task("paint").delay("red").get(timeout=DEADLINE, propagate=False)
    assert type(error).__name__ == "OutOfPaint"
    assert error.args == ("red", 2.5)


def test_the_traceback_names_the_cause_of_an_error(task) -> None:
    result = task("fail_with_a_cause").delay()
    error = result.get(timeout=DEADLINE, propagate=False)
    assert type(error).__name__ == "OutOfPaint"
    assert "KeyError: 'paint'" in result.traceback


def test_a_retry_counts_and_gives_its_result_to_the_first_caller(
    either_path: Deployment, task
) -> None:
    result = task("retry_until").delay(3)
    assert result.get(timeout=DEADLINE) == 3
    key = f"signals:{result.id}"
    # A retry is published before its signal, so the next attempt may be first.
    wait_until(lambda: either_path.redis.lrange(key, 0, -1).count("postrun") == 3, "3 attempts")
    seen = either_path.redis.lrange(key, 0, -1)
    assert (seen.count("prerun"), seen.count("retry"), seen.count("success")) == (3, 2, 1)


def test_a_retry_waits_for_its_countdown_in_the_state_retry(task) -> None:
    started = time.monotonic()
    result = task("retry_until").delay(2, countdown=1.0)
    state_is(result, states.RETRY)
    assert result.get(timeout=DEADLINE) == 2
    assert time.monotonic() - started >= 1.0


def test_retries_in_vain_end_with_the_error(either_path: Deployment, task, key: str) -> None:
    with pytest.raises(ConnectionError, match="nobody there"):
        task("retry_in_vain").delay(key).get(timeout=DEADLINE)
    assert notes(either_path, key) == ["0", "1", "2"]


def test_autoretry_for(task) -> None:
    assert task("retry_by_itself").delay().get(timeout=DEADLINE) == 2


def test_ignore_leaves_the_state_and_acknowledges(either_path: Deployment, task) -> None:
    result = task("ignore").delay()
    signals_of(either_path, result.id, "postrun")
    assert result.state == states.PENDING
    nothing_is_reserved(either_path)


def nothing_is_reserved(deployment: Deployment) -> None:
    def reserved() -> int:
        return deployment.reserved() + deployment.redis.hlen("unacked")

    wait_until(lambda: not reserved(), "everything is acknowledged")


def test_reject_drops_or_brings_it_back(either_path: Deployment, task, key: str) -> None:
    dropped = task("reject").delay(f"{key}:dropped")
    again = task("reject").delay(f"{key}:again", requeue=True)
    assert again.get(timeout=DEADLINE) == "taken at last"
    assert len(notes(either_path, f"{key}:again")) == 2
    assert len(notes(either_path, f"{key}:dropped")) == 1
    with pytest.raises(Reject):
        dropped.get(timeout=DEADLINE)


def test_a_state_and_metadata_of_its_own(either_path: Deployment, task, key: str) -> None:
    result = task("report_progress").delay(key)
    state_is(result, "PROGRESS")
    assert result.info == {"done": 3, "of": 7}
    either_path.redis.set(key, "go")
    assert result.get(timeout=DEADLINE) == "complete"
    assert result.state == states.SUCCESS


def test_track_started(either_path: Deployment, task, key: str) -> None:
    result = task("wait_for").delay(key)
    state_is(result, states.STARTED)
    assert set(result.info) >= {"pid", "hostname"}
    either_path.redis.set(key, "go")
    assert result.get(timeout=DEADLINE) == "released"


def test_ignore_result_stores_nothing(either_path: Deployment, task, key: str) -> None:
    result = task("leave_no_result").delay(key)
    also = task("note").apply_async((key,), ignore_result=True)
    notes(either_path, key, 2)
    nothing_is_reserved(either_path)
    for its in (result, also):
        assert its.state == states.PENDING
        assert not either_path.redis.exists(f"celery-task-meta-{its.id}")
    assert result.get() is None


def test_a_countdown_and_an_eta_are_waited_for(either_path: Deployment, task, key: str) -> None:
    published = time.time()
    counted = task("limited").apply_async((f"{key}:countdown",), countdown=0.5)
    eta = datetime.now(UTC) + timedelta(seconds=0.5)
    at = task("limited").apply_async((f"{key}:eta",), eta=eta)
    for result, name in ((counted, "countdown"), (at, "eta")):
        result.get(timeout=DEADLINE)
        (started,) = notes(either_path, f"{key}:{name}")
        assert float(started) - published >= 0.5


def test_what_has_expired_is_revoked_and_never_runs(
    either_path: Deployment, task, key: str
) -> None:
    result = task("note").apply_async((key,), expires=datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=DEADLINE)
    due = task("note").apply_async((key,), countdown=0.4, expires=0.1)
    with pytest.raises(TaskRevokedError, match="expired"):
        due.get(timeout=DEADLINE)
    assert not either_path.redis.exists(key)
    nothing_is_reserved(either_path)


def test_what_is_revoked_before_it_starts_never_runs(
    either_path: Deployment, task, key: str
) -> None:
    result = task("note").apply_async((key,), countdown=1)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=DEADLINE)
    assert result.state == states.REVOKED
    assert "prerun" not in signals_of(either_path, result.id, "revoked")
    assert not either_path.redis.exists(key)


def test_what_runs_is_terminated_when_it_is_revoked(either_path: Deployment, task, key) -> None:
    result = task("wait_for").delay(key)
    state_is(result, states.STARTED)
    result.revoke(terminate=True, signal="SIGKILL")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=DEADLINE)
    signals_of(either_path, result.id, "revoked")
    nothing_is_reserved(either_path)
    assert task("add").delay(1, 2).get(timeout=DEADLINE) == 3


def test_a_rate_limit_spaces_the_starts(either_path: Deployment, task, key: str) -> None:
    results = [task("limited").delay(key) for _ in range(4)]
    for result in results:
        result.get(timeout=DEADLINE)
    starts = sorted(map(float, notes(either_path, key, 4)))
    # 5 a second: the first one may start at once, each other one 0.2 s after it at the earliest.
    assert starts[3] - starts[0] >= 0.5


def test_the_soft_limit_can_be_handled(task) -> None:
    result = task("clean_up_at_the_soft_limit").apply_async(soft_time_limit=0.2)
    assert result.get(timeout=DEADLINE) == "cleaned up"


def test_the_soft_limit_ends_an_operation(task) -> None:
    with pytest.raises(OperationTimeout, match="was stopped after running"):
        task("sleep").apply_async((20,), soft_time_limit=0.2).get(timeout=DEADLINE)


def test_the_hard_limit_kills_the_worker(task) -> None:
    result = task("ignore_the_soft_limit").apply_async(time_limit=0.5, soft_time_limit=0.2)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=DEADLINE)
    assert task("add").delay(1, 2).get(timeout=DEADLINE) == 3


def test_what_is_acknowledged_early_does_not_run_again(
    either_path: Deployment, task, key: str
) -> None:
    result = task("wait_without_net").delay(f"{key}:started", key)
    (worker,) = notes(either_path, f"{key}:started")
    nothing_is_reserved(either_path)
    os.kill(int(worker), signal.SIGKILL)
    with pytest.raises(WorkerLostError):
        result.get(timeout=DEADLINE)
    assert notes(either_path, f"{key}:started") == [worker]


def test_a_priority_is_no_obstacle(task) -> None:
    """Pools have one list a queue; a priority is accepted and has no effect."""
    results = [task("add").apply_async((n, n), priority=n) for n in range(10)]
    assert [result.get(timeout=DEADLINE) for result in results] == [2 * n for n in range(10)]


def test_the_signals_of_success_failure_and_reject(either_path: Deployment, task, key) -> None:
    success = task("add").delay(1, 2)
    failure = task("fail").delay()
    rejected = task("reject").delay(key)
    # "received" is sent by the node, so its place among the others is open.
    assert [
        name
        for name in signals_of(either_path, success.id, "postrun", "received")
        if name != "received"
    ] == ["prerun", "success", "postrun"]
    assert set(signals_of(either_path, failure.id, "postrun")) == {
        "received",
        "prerun",
        "failure",
        "postrun",
    }
    assert set(signals_of(either_path, rejected.id, "postrun", "failure")) == {
        "received",
        "prerun",
        "failure",
        "postrun",
    }


def test_the_signals_of_what_nobody_knows(either_path: Deployment) -> None:
    unknown = either_path.app.send_task("conformance_operations.nothing", queue="pool.code")
    with pytest.raises(NotRegistered):
        unknown.get(timeout=DEADLINE)
    assert signals_of(either_path, unknown.id, "unknown") == ["unknown"]


def test_the_limits_and_the_place_of_a_message_reach_the_operation(task) -> None:
    told = (
        task("tell_request")
        .apply_async(time_limit=30, soft_time_limit=20, expires=300)
        .get(timeout=DEADLINE)
    )
    assert told["timelimit"] == [30, 20]
    assert told["delivery_info"]["routing_key"] == "pool.code"
    assert told["delivery_info"]["redelivered"] is False
    assert told["expires"] is not None
    assert told["retries"] == 0


def test_called_directly_applied_and_always_eager_it_runs_here(
    either_path: Deployment, task, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert task("add")(1, 2) == 3
    assert task("add").apply((1, 2)).get() == 3
    monkeypatch.setitem(either_path.app.conf, "task_always_eager", True)
    result = task("add").delay(1, 2)
    assert type(result).__name__ == "EagerResult"
    assert result.get() == 3
    assert task("fail").delay().state == states.FAILURE
