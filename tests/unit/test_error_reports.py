"""What a worker tells of an error: plain data, an example now and then, whatever the error does."""

from __future__ import annotations

import json
import marshal
import os
from typing import TYPE_CHECKING, Any

import pytest
from celery.exceptions import Ignore, Reject, Retry

from pooltasks.node.worker.error_reports import ErrorReport, ErrorReporter, place_of
from pooltasks.task import clocked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pooltasks.app import PoolApp


class HostileError(Exception):
    """Cannot be shown in any way."""

    def __repr__(self) -> str:
        raise SystemError("no words")

    __str__ = __repr__


class Telling:
    """A worker's reporter, and what it has told."""

    def __init__(self, app: PoolApp) -> None:
        self.told: list[ErrorReport] = []
        self._reporter = ErrorReporter(app, self._take)

    def _take(self, plain: tuple[Any, ...]) -> None:
        self.told.append(ErrorReport.of(*marshal.loads(marshal.dumps(plain))))  # noqa: S302  our own

    def __call__(self, error: BaseException, *args: Any, **headers: Any) -> ErrorReport | None:
        body = json.dumps([list(args), {}, {}])
        operation = ("shop.charge", "op-1", headers, body, "application/json", "utf-8")
        before = len(self.told)
        self._reporter.tell(error, operation, None)
        return self.told[-1] if len(self.told) > before else None


@pytest.fixture
def tell(make_app: Callable[..., PoolApp]) -> Iterator[Telling]:
    app = make_app(pools={"shop": {}})

    @app.task(name="shop.charge", shared=False)
    def charge(order: int, password: str = "") -> None:
        """An operation."""

    clocked.blames_caller = False
    yield Telling(app)
    clocked.blames_caller = False


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as its:
        return its


def test_a_failure_is_told_with_an_example(tell: Telling) -> None:
    attempts = [{"at": 5.0, "error": "ValueError('before')"}]
    its = tell(
        raised(ValueError("no stock for order 4711")), 4711, "x", retries=1, attempts=attempts
    )
    assert its is not None
    assert its.head[:3] == ("shop.charge", "ValueError", "no stock for order #")
    assert its.head.place.startswith(f"{__file__}, line ")
    assert its.head.place.endswith(" in raised")
    assert its.is_final
    identifier, arguments, traceback, earlier, attempt, pid = its.example or ()
    assert (identifier, arguments) == ("op-1", "order=4711, password=***")
    assert "ValueError: no stock for order 4711" in traceback
    assert (earlier, attempt, pid) == (attempts, 2, os.getpid())


def test_an_example_travels_now_and_then_only(tell: Telling) -> None:
    told = [tell(raised(ValueError(f"order {number}"))) for number in range(5)]
    assert [its is not None and its.example is not None for its in told] == [True] + [False] * 4
    other = tell(raised(KeyError("price")))
    assert other is not None
    assert other.example is not None


@pytest.mark.parametrize("error", [Ignore(), Reject("x", requeue=True), SystemExit(3)])
def test_what_is_no_error_is_not_told(tell: Telling, error: BaseException) -> None:
    assert tell(error) is None


def test_a_retry_is_told_as_the_error_that_it_is_for(tell: Telling) -> None:
    its = tell(Retry(exc=raised(ConnectionError("away"))))  # type: ignore[arg-type]
    assert its is not None
    assert not its.is_final
    assert (its.head.error, its.head.category) == ("ConnectionError", "connection")
    assert its.head.place.endswith(" in raised")


def test_an_error_of_the_caller_says_so(tell: Telling) -> None:
    clocked.blames_caller = True
    its = tell(raised(ValueError("x")))
    assert its is not None
    assert its.head.category == "client"


def test_an_error_that_cannot_be_shown_is_told_all_the_same(tell: Telling) -> None:
    its = tell(raised(HostileError()))
    assert its is not None
    assert its.head.error.endswith("HostileError")
    assert "raises SystemError" in its.head.message


def test_arguments_that_cannot_be_read_are_left_out(tell: Telling) -> None:
    operation = ("shop.charge", "op-1", {}, b"\x80garbage", "application/json", "utf-8")
    tell._reporter.tell(raised(ValueError("x")), operation, None)
    assert (tell.told[-1].example or ())[1] is None


def test_messages_without_end_become_one_kind(tell: Telling) -> None:
    words = [
        "".join(chr(97 + number % 26 + place % 7 // 6) for place in range(9))
        for number in range(26)
    ]
    told = [tell(raised(ValueError(f"no {word}"))) for word in words]
    assert len({its.head.message for its in told if its}) == 9


def test_a_long_traceback_keeps_its_end(tell: Telling) -> None:
    its = tell(raised(ValueError("x" * 50_000 + " the end")))
    assert its is not None
    traceback = (its.example or ())[2]
    assert len(traceback) < 8100
    assert traceback.rstrip().endswith("the end")


def test_the_place_is_in_the_applications_own_code() -> None:
    with pytest.raises(json.JSONDecodeError) as caught:
        json.loads("{")
    assert place_of(caught.value.__traceback__).startswith(f"{__file__}, line ")
    assert place_of(None) == ""
