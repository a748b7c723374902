"""The dashboard's command: what it turns on in the fleet, and off again."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click import UsageError

pytest.importorskip("flower")

from flower import command, inspector
from flower.options import options

from pooltasks.dashboard import app as dashboard_app
from pooltasks.dashboard.command import NO_ANSWER, dashboard, is_news
from pooltasks.metrics import prometheus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Flower:
    """Stands for the server: it starts and is interrupted at once."""

    def __init__(self, **_: Any) -> None:
        self.asked = options.enable_events

    def start_http_server(self) -> int:
        return 0

    def start(self) -> None:
        raise KeyboardInterrupt

    def stop(self) -> None: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[bool, list[str]]]]:
    made: list[Flower] = []
    monkeypatch.setattr(
        dashboard_app, "PoolFlower", lambda **its: made.append(Flower(**its)) or made[-1]
    )
    for name in (
        "setup_logging",
        "extract_settings",
        "print_banner",
        "warn_about_celery_args_used_in_flower_command",
    ):
        monkeypatch.setattr(command, name, lambda *_: None)
    monkeypatch.setattr(prometheus, "register", lambda _: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    monkeypatch.setattr(os, "_exit", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["celery"])

    def run(*arguments: str) -> tuple[bool, list[str]]:
        """Return whether task events were on, and what nodes were told at the end."""
        told: list[str] = []
        control = SimpleNamespace(disable_events=lambda: told.append("disable_events"))
        celery = SimpleNamespace(app=SimpleNamespace(control=control), quiet=True)
        dashboard.main(list(arguments), standalone_mode=False, obj=celery)
        return made[-1].asked, told

    before = options.enable_events
    yield run
    options.enable_events = before


def test_task_events_are_off_unless_asked_for_and_then_end_with_the_dashboard(
    run: Callable[..., tuple[bool, list[str]]],
) -> None:
    assert run() == (False, [])
    assert run("--enable-events") == (True, ["disable_events"])
    assert run() == (False, [])


def test_metrics_ask_for_a_login_only_where_there_is_one(
    run: Callable[..., tuple[bool, list[str]]],
) -> None:
    before = options.basic_auth
    try:
        options.basic_auth = []
        with pytest.raises(UsageError, match="needs a login"):
            run("--metrics-login")
        options.basic_auth = ["ann:secret"]
        run("--metrics-login")
    finally:
        options.basic_auth = before


def test_flower_does_not_warn_that_no_node_answers_yet() -> None:
    silent, other = (
        logging.LogRecord("flower.inspector", logging.WARNING, "", 0, text, ("conf",), None)
        for text in (NO_ANSWER, "Inspect method %s failed: the server is away")
    )
    assert not is_news(silent)
    assert is_news(other)
    source = inspect.getsource(inspector).replace('"', "'")
    assert f"logger.warning({NO_ANSWER!r}, method)" in source


def test_the_dashboard_filters_the_log_of_its_inspector(run: Callable[..., Any]) -> None:
    run()
    assert is_news in logging.getLogger("flower.inspector").filters
