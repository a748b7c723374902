"""What a worker tells its node of an operation that ended, and that it is plain data."""

from __future__ import annotations

import marshal
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry

from pooltasks.node.worker.outcome import Ending, Fate, How, ending_of, words


class HostileError(Exception):
    """Pickles, and does not unpickle; and cannot be shown."""

    def __init__(self, first: str, _second: str) -> None:
        super().__init__(first)

    def __repr__(self) -> str:
        raise SystemError("no words")


class Text(str):
    __slots__ = ()


class OddError(Exception):
    def __repr__(self) -> str:
        return Text("odd")


def ending(error: BaseException, *, retries: int = 0, **options: Any) -> Ending:
    task: Any = SimpleNamespace(**{"acks_late": True, "acks_on_failure": True, **options})
    told = ending_of(error, task, {"retries": retries}, now=5.0)
    assert Ending(*marshal.loads(marshal.dumps(told.plain()))) == told  # noqa: S302  our own
    return told


@pytest.mark.parametrize(
    ("error", "how", "fate"),
    [
        (ValueError("x"), How.FAILED, Fate.ACKNOWLEDGE),
        (MemoryError(), How.FAILED, Fate.ACKNOWLEDGE),
        (HostileError("a", "b"), How.FAILED, Fate.ACKNOWLEDGE),
        (OddError(), How.FAILED, Fate.ACKNOWLEDGE),
        (Retry(exc=HostileError("a", "b")), How.RETRIED, Fate.ACKNOWLEDGE),
        (Ignore(), How.IGNORED, Fate.ACKNOWLEDGE),
        (Reject("no", requeue=True), How.REJECTED, Fate.GIVE_BACK),
        (Reject("no"), How.REJECTED, Fate.BURY),
        (Reject(HostileError("a", "b")), How.REJECTED, Fate.BURY),
        (SystemExit(3), How.LEFT, Fate.ACKNOWLEDGE),
        (KeyboardInterrupt(), How.LEFT, Fate.ACKNOWLEDGE),
    ],
)
def test_each_error_has_its_end(error: BaseException, how: How, fate: Fate) -> None:
    told = ending(error)
    assert (told.how, told.fate) == (how, fate)


def test_retries_in_vain_are_buried_with_their_attempts() -> None:
    told = ending(ValueError("x"), retries=3)
    assert told.fate == Fate.BURY
    assert told.reason == "failed after 3 retries: ValueError('x')"
    once = ending(ValueError("x"), retries=1)
    assert once.reason == "failed after 1 retry: ValueError('x')"
    assert told.attempts == [{"at": 5.0, "error": "ValueError('x')"}]


def test_a_failure_that_is_not_to_be_acknowledged_is_buried() -> None:
    assert ending(ValueError("x"), acks_on_failure=False).fate == Fate.BURY
    assert ending(ValueError("x"), acks_on_failure=False, acks_late=False).fate == Fate.ACKNOWLEDGE


def test_the_reason_of_what_is_rejected_is_what_the_operation_said() -> None:
    assert (
        ending(Reject("not on a Tuesday")).reason == "rejected by the operation: not on a Tuesday"
    )


def test_what_cannot_be_shown_is_named() -> None:
    assert words(HostileError("a", "b")) == "<HostileError whose repr raises SystemError>"
    assert type(words(OddError())) is str
