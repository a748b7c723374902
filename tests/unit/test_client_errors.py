"""Errors that are the fault of a caller: counted apart, no failures of the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from billiard.einfo import ExceptionInfo

from pooltasks import operation
from pooltasks.errors import Category, ConfigurationError
from pooltasks.node.scoreboard.scoreboard import Scoreboard
from pooltasks.node.worker.events import OperationEvents
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.app import PoolApp
    from pooltasks.metrics.counts import Counts


@operation(pool="code", name="tests.pick", client_errors=(KeyError,))
def pick(key: str) -> str:
    if key == "type":
        raise TypeError("not the caller's")
    return {"a": "b"}[key]


@pytest.fixture
def counted(make_app: Callable[..., PoolApp]) -> Callable[..., Counts]:
    app = make_app(pools={"code": {}})
    app.finalize()

    def counted(task: Any, *args: Any, **kwargs: Any) -> Counts:
        """Return what a worker counts of one run."""
        task = app.tasks[task.name]
        board = Scoreboard()
        events = OperationEvents(app, "code", board.row(0))
        events.start(task.name, {"id": "1"})
        einfo = None
        task.push_request(id="1", called_directly=False, is_eager=False, retries=0)
        try:
            task(*args, **kwargs)
        except Exception:  # noqa: BLE001  as Celery's tracer
            einfo = ExceptionInfo()
        finally:
            task.pop_request()
        events.finish(einfo)
        return board.collect()[0].counts

    return counted


def test_what_an_operation_names_is_its_callers_fault(counted: Callable[..., Counts]) -> None:
    counts = counted(pick, "unknown")
    assert counts.outcomes == {Outcome.CLIENT_ERROR: 1}
    assert counts.categories == {Category.CLIENT: 1}
    assert (counts.finished, counts.error_rate) == (1, 0.0)


@pytest.mark.parametrize("args", [(), ("a", "b")])
def test_arguments_that_do_not_fit_are_always(
    counted: Callable[..., Counts], args: tuple[str, ...]
) -> None:
    assert counted(pick, *args).outcomes == {Outcome.CLIENT_ERROR: 1}


def test_other_errors_are_failures_and_one_does_not_mark_the_next(
    counted: Callable[..., Counts],
) -> None:
    counted(pick)
    counts = counted(pick, "type")
    assert counts.outcomes == {Outcome.FAILURE: 1}
    assert counts.categories == {Category.PYTHON: 1}
    assert counts.error_rate == 1.0
    assert counted(pick, "a").outcomes == {Outcome.SUCCESS: 1}


@pytest.mark.parametrize("wrong", [ValueError, [ValueError], (ValueError, "x")])
def test_client_errors_are_a_tuple_of_exception_classes(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"client_errors is .* allowed: a tuple"):
        operation(pool="code", client_errors=wrong)
