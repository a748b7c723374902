"""A line of JSON says what it is about."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from celery import signals

from pooltasks.node.logs import JsonFormatter, log_as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pooltasks.app import PoolApp


@pytest.fixture
def formatter() -> JsonFormatter:
    return JsonFormatter("shop", "shop@host")


def line(formatter: logging.Formatter, message: str = "hello", **attributes: Any) -> dict[str, Any]:
    record = logging.makeLogRecord(
        {"name": "shop", "levelname": "INFO", "msg": message, "created": 1.8e9, **attributes}
    )
    text = formatter.format(record)
    assert "\n" not in text
    read: dict[str, Any] = json.loads(text)
    return read


def test_a_node_says_when_and_where(formatter: JsonFormatter) -> None:
    assert line(formatter, "%s is %d", args=("this", 1)) == {
        "time": "2027-01-15T08:00:00.000+00:00",
        "level": "INFO",
        "logger": "shop",
        "message": "this is 1",
        "pool": "shop",
        "node": "shop@host",
    }


def test_a_worker_says_which_one(formatter: JsonFormatter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    assert line(formatter)["worker"] == 4711


def test_an_operation_is_named_with_its_id(
    formatter: JsonFormatter, make_app: Callable[..., PoolApp]
) -> None:
    app = make_app()

    @app.task(name="shop.resize", bind=True)
    def resize(self: Any) -> dict[str, Any]:  # noqa: ARG001  Celery passes it
        return line(formatter)

    read = resize.apply(task_id="17").get()
    assert (read["operation"], read["id"]) == ("shop.resize", "17")
    assert "id" not in line(formatter)


def test_what_celery_writes_about_an_operation_names_it(formatter: JsonFormatter) -> None:
    read = line(formatter, data={"id": "17", "name": "shop.resize", "args": "a secret"})
    assert (read["operation"], read["id"]) == ("shop.resize", "17")
    assert "secret" not in str(read)


def test_an_error_has_its_traceback(formatter: JsonFormatter) -> None:
    try:
        int("seven")
    except ValueError:
        read = line(formatter, exc_info=sys.exc_info(), stack_info="a stack")
    assert read["exception"].startswith("Traceback")
    assert read["exception"].endswith("invalid literal for int() with base 10: 'seven'")
    assert read["stack"] == "a stack"


def test_what_is_given_as_extra_stands_beside_and_never_replaces(formatter: JsonFormatter) -> None:
    read = line(formatter, order=7, thing=object, odd={(1, 2): 3}, pool="mine", text="\ud800\n")
    assert read["order"] == 7
    assert "object" in read["thing"]
    assert read["odd"] == {}
    assert read["pool"] == "shop"


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("of a node")  # noqa: LOG001  nobody else is to find it
    logger.addHandler(logging.StreamHandler())
    yield logger
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.disconnect(dispatch_uid="pooltasks.logs")


def test_celery_is_told_to_log_so(logger: logging.Logger) -> None:
    log_as_json("shop", "shop@host")
    signals.after_setup_task_logger.send(sender=None, logger=logger)
    (handler,) = logger.handlers
    assert isinstance(handler.formatter, JsonFormatter)
