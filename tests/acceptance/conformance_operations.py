"""What Celery documents of tasks, as operations that the conformance tests run."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import Any

from celery import shared_task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from pooltasks import operation
from pooltasks.broker.client import redis_client

_PATIENCE = 20.0


class OutOfPaint(Exception):  # noqa: N818  named by what happened
    """An error of the application's own, with arguments."""

    def __init__(self, colour: str, litres: float) -> None:
        super().__init__(colour, litres)
        self.colour = colour
        self.litres = litres


def _note(task: Any, key: str, value: Any) -> int:
    return redis_client(task.app).rpush(key, value)


@operation(pool="code")
def add(x: int, y: int) -> int:
    return x + y


@shared_task
def plain_add(x: int, y: int) -> int:
    """Add in a plain Celery task: a pool runs those too."""
    return x + y


@operation(pool="code")
def total(numbers: list[int]) -> int:
    return sum(numbers)


@operation(pool="code", bind=True)
def note(self, key: str, value: Any = "noted") -> int:
    return _note(self, key, value)


@operation(pool="code")
def fail(message: str = "as it was told") -> None:
    raise ValueError(message)


@operation(pool="code")
def paint(colour: str) -> None:
    raise OutOfPaint(colour, 2.5)


@operation(pool="code")
def fail_with_a_cause() -> None:
    try:
        {}["paint"]
    except KeyError as error:
        raise OutOfPaint("red", 0.0) from error


@operation(pool="code")
def on_error(request: Any, error: BaseException, _: Any, key: str) -> None:
    """Note the failure of another operation: Celery calls it where that failed."""
    _note(on_error, key, f"{request.id} {error!r}")


@operation(pool="code", bind=True)
def on_error_by_id(self, task_id: str, key: str) -> None:
    """Note the failure of another operation: Celery sends it, with the id alone."""
    _note(self, key, task_id)


@operation(pool="code", bind=True)
def retry_until(self, attempts: int, countdown: float = 0.0) -> int:
    if self.request.retries + 1 < attempts:
        raise self.retry(countdown=countdown, max_retries=attempts)
    return self.request.retries + 1


@operation(pool="code", bind=True, max_retries=2)
def retry_in_vain(self, key: str) -> None:
    _note(self, key, self.request.retries)
    raise self.retry(countdown=0, exc=ConnectionError("nobody there"))


@operation(pool="code", bind=True, autoretry_for=(OutOfPaint,), default_retry_delay=0)
def retry_by_itself(self) -> int:
    if self.request.retries < 2:
        raise OutOfPaint("red", 1.0)
    return self.request.retries


@operation(pool="code")
def ignore() -> None:
    raise Ignore


@operation(pool="code", bind=True)
def reject(self, key: str, requeue: bool = False) -> str:
    """Reject; with ``requeue`` the first delivery only."""
    deliveries = _note(self, key, "rejects")
    if requeue and deliveries > 1:
        return "taken at last"
    raise Reject("as it was told", requeue=requeue)


@operation(pool="code", bind=True)
def report_progress(self, key: str) -> str:
    """Set a state of its own and wait until ``key`` exists."""
    self.update_state(state="PROGRESS", meta={"done": 3, "of": 7})
    _await(self, key)
    return "complete"


@operation(pool="code", bind=True, track_started=True)
def wait_for(self, key: str) -> str:
    _await(self, key)
    return "released"


@operation(pool="code", bind=True, acks_late=False)
def wait_without_net(self, started: str, key: str) -> str:
    """Like ``wait_for``, acknowledged before it starts."""
    _note(self, started, os.getpid())
    _await(self, key)
    return "released"


def _await(task: Any, key: str) -> None:
    client = redis_client(task.app)
    end = time.monotonic() + _PATIENCE
    while not client.exists(key):
        if time.monotonic() > end:
            raise TimeoutError(key)
        time.sleep(0.02)


@operation(pool="code")
def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@operation(pool="code")
def clean_up_at_the_soft_limit() -> str:
    try:
        time.sleep(_PATIENCE)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "slept"


@operation(pool="code")
def ignore_the_soft_limit() -> None:
    started = time.monotonic()
    while time.monotonic() - started < _PATIENCE:
        with suppress(SoftTimeLimitExceeded):
            time.sleep(_PATIENCE)


@operation(pool="code", bind=True, ignore_result=True)
def leave_no_result(self, key: str) -> str:
    _note(self, key, "ran")
    return "nobody reads this"


@operation(pool="code", bind=True, rate_limit="5/s")
def limited(self, key: str) -> None:
    _note(self, key, time.time())


@operation(pool="code")
def start_another() -> str:
    return add.delay(2, 3).id


@operation(pool="code", bind=True)
def become(self, signature: Any) -> None:
    """Be replaced by another signature."""
    raise self.replace(self.app.signature(signature))


@operation(pool="code", bind=True)
def tell_request(self, *_: Any) -> dict[str, Any]:
    request = self.request
    return {
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "group": request.group,
        "group_index": request.group_index,
        "timelimit": request.timelimit,
        "delivery_info": request.delivery_info,
        "retries": request.retries,
        "headers": {"colour": request.get("colour")},
        "stamps": request.stamps,
        "expires": request.expires,
        "eta": request.eta,
    }


def _note_signal(name: str, /, sender: Any, task_id: str | None = None, **about: Any) -> None:
    """Note a signal under the operation that it is about; some are sent in the node."""
    if "request" in about:
        task_id = about["request"].id
    elif "message" in about:
        task_id = about["message"].headers["id"]
    _note(sender, f"signals:{task_id or sender.request.id}", name)


for _signal in (
    signals.task_prerun,
    signals.task_postrun,
    signals.task_success,
    signals.task_failure,
    signals.task_retry,
    signals.task_received,
    signals.task_revoked,
    signals.task_unknown,
    signals.task_rejected,
):
    _signal.connect(partial(_note_signal, _signal.name.removeprefix("task_")), weak=False)
