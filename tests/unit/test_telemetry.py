"""Telemetry events reach their handlers and never break what they observe."""

from __future__ import annotations

import logging
import os
import re
import threading
import traceback
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from pooltasks import telemetry


@pytest.fixture(autouse=True)
def no_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_handlers", {})


@pytest.fixture
def calls() -> list[tuple]:
    return []


@pytest.fixture
def record(calls: list[tuple]):
    def function(*arguments: object) -> None:
        calls.append(arguments)

    return function


def test_a_handler_gets_measurements_metadata_and_its_configuration(record, calls) -> None:
    telemetry.attach("one", "recovery", record, config="its own")
    telemetry.execute("recovery", {"duration": 0.1}, {"pool": "code"})
    telemetry.execute("warmup", {"duration": 0.1}, {"pool": "code"})
    assert calls == [("recovery", {"duration": 0.1}, {"pool": "code"}, "its own")]


def test_a_handler_of_many_events_is_listed_and_detached_by_its_id(record, calls) -> None:
    telemetry.attach_many("many", ["worker.init", "worker.terminate", "pool.init"], record)
    telemetry.attach("one", "pool.init", record)
    assert [handler.event for handler in telemetry.list_handlers("worker.")] == [
        "worker.init",
        "worker.terminate",
    ]
    assert {handler.id for handler in telemetry.list_handlers()} == {"many", "one"}
    assert telemetry.detach("many")
    assert not telemetry.detach("many")
    telemetry.execute("worker.init", {})
    telemetry.execute("pool.init", {})
    assert [call[0] for call in calls] == ["pool.init"]


def test_an_id_is_taken_once(record) -> None:
    telemetry.attach("one", "recovery", record)
    with pytest.raises(ValueError, match="'one' is attached already"):
        telemetry.attach("one", "warmup", record)
    assert [handler.event for handler in telemetry.list_handlers()] == ["recovery"]


@pytest.mark.parametrize("event", ["operation.strat", "warmup.", "", "Mine"])
def test_a_misspelt_event_is_an_error(record, event: str) -> None:
    with pytest.raises(ValueError, match="There is no event"):
        telemetry.attach_many("one", ["recovery", event], record)
    assert telemetry.list_handlers() == []


def test_a_handler_that_raises_is_detached_and_logged_once(
    record, calls, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("of the handler")

    telemetry.attach_many("broken", ["error", "recovery"], broken)
    telemetry.attach("whole", "error", record)
    telemetry.execute("error", {"count": 1})
    telemetry.execute("error", {"count": 1})
    telemetry.execute("recovery", {"duration": 0.1})
    assert len(calls) == 2
    assert [handler.id for handler in telemetry.list_handlers()] == ["whole"]
    (logged,) = caplog.records
    assert "'broken' raised and is detached" in logged.message
    assert "of the handler" in str(logged.exc_info)


def test_a_time_limit_that_hits_a_handler_goes_on_and_the_handler_stays() -> None:
    def interrupted(*_: object) -> None:
        raise SoftTimeLimitExceeded

    telemetry.attach("interrupted", "error", interrupted)
    with pytest.raises(SoftTimeLimitExceeded):
        telemetry.execute("error", {"count": 1})
    assert telemetry.list_handlers()


def test_a_span_measures_a_block(record, calls) -> None:
    telemetry.attach_many("span", ["mine.start", "mine.stop", "mine.exception"], record)
    with telemetry.span("mine", {"key": 1}):
        pass
    (start, stop) = calls
    assert start[0] == "mine.start"
    assert start[1]["system_time"] > 1e9
    assert stop[0] == "mine.stop"
    assert 0 <= stop[1]["duration"] < 1
    assert start[2] == stop[2] == {"key": 1}


def test_a_span_lets_an_error_pass_with_its_traceback(record, calls) -> None:
    telemetry.attach_many("span", ["mine.stop", "mine.exception"], record)

    def where_it_is_raised() -> None:
        raise RuntimeError("as it was raised")

    with pytest.raises(RuntimeError) as caught, telemetry.span("mine"):
        where_it_is_raised()
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "where_it_is_raised"
    ((event, measurements, metadata, _),) = calls
    assert event == "mine.exception"
    assert measurements["duration"] >= 0
    assert metadata["exception"] is caught.value


def test_the_default_logger_writes_one_line_an_event(caplog: pytest.LogCaptureFixture) -> None:
    telemetry.attach_default_logger(["recovery"], logging.WARNING)
    telemetry.execute("recovery", {"duration": 0.5}, {"pool": "code"})
    assert [record.message for record in caplog.records] == ["recovery pool='code' duration=0.5"]


def test_a_reporter_is_told_of_events_until_it_raises(caplog: pytest.LogCaptureFixture) -> None:
    class Ledger:
        def __init__(self) -> None:
            self.told: list[tuple[Any, ...]] = []

        def report(self, *told: Any) -> None:
            self.told.append(told)
            if len(self.told) == 2:
                raise OSError("full")

    ledger = Ledger()
    telemetry.attach_reporter(ledger, ["recovery", "error"])
    for _ in range(3):
        telemetry.execute("recovery", {"duration": 0.5}, {"pool": "code"})
    assert ledger.told == [("recovery", {"duration": 0.5}, {"pool": "code"})] * 2
    assert telemetry.list_handlers() == []
    assert len(caplog.records) == 1


def test_who_makes_up_an_event_may_ask_whether_anybody_listens(record) -> None:
    assert not telemetry.has_listener(telemetry.EVENTS)
    telemetry.attach("one", "recovery", record)
    assert telemetry.has_listener(["error", "recovery"])
    assert not telemetry.has_listener(["error"])


def test_the_registry_works_in_a_child_forked_while_a_thread_held_its_lock(record) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with telemetry._lock:
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    pid = os.fork()
    if pid == 0:
        telemetry.attach("child", "recovery", record)
        os._exit(len(telemetry.list_handlers()))
    release.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert telemetry.list_handlers() == []


def test_the_catalogue_describes_every_event() -> None:
    described = re.findall(r"^\| ([a-z_.]+) +\|", telemetry.__doc__, re.MULTILINE)
    assert sorted(name for name in described if name != "event") == sorted(telemetry.EVENTS)


def test_the_default_logger_warns_of_errors(caplog):
    telemetry.attach_default_logger()
    try:
        with caplog.at_level(logging.INFO):
            telemetry.execute("error", {"count": 1}, {"pool": "code"})
            telemetry.execute("pool.init", {"size": 1}, {"pool": "code"})
    finally:
        telemetry.detach("pooltasks.logger")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


class Names:
    """A reporter that keeps the names of events."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def report(self, event: str, *_: Any) -> None:
        self.names.append(event)


def test_the_default_handlers_log_workers_and_errors_and_report_operations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reporter = Names()
    telemetry.attach_default_handlers(reporter)
    with caplog.at_level(logging.INFO):
        for event in telemetry.EVENTS:
            telemetry.execute(event, {}, {"pool": "code"})
    logged = [(record.levelname, record.message.split()[0]) for record in caplog.records]
    assert logged == [("INFO", "worker.init"), ("INFO", "worker.terminate"), ("WARNING", "error")]
    assert reporter.names == ["operation.stop", "operation.exception"]


def test_without_a_reporter_the_default_handlers_only_log() -> None:
    telemetry.attach_default_handlers()
    assert {handler.id for handler in telemetry.list_handlers()} == {"pooltasks.logger"}


def test_all_default_handlers_are_attached_or_none() -> None:
    telemetry.attach_reporter(Names(), ["recovery"])
    with pytest.raises(ValueError, match="attached already"):
        telemetry.attach_default_handlers(Names())
    assert [handler.event for handler in telemetry.list_handlers()] == ["recovery"]
