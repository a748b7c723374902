"""``pooltasks events``: each event of a pool is told once, the oldest first."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner
from flow import make_app

from pooltasks.broker.client import redis_client
from pooltasks.cli.events import PoolEvents, events
from pooltasks.dashboard.audit import AuditLog, Done
from pooltasks.node.scoreboard.sampler import Sampler, Workforce
from pooltasks.node.scoreboard.scoreboard import Scoreboard


@pytest.fixture
def app(valkey_url: str) -> Any:
    app = make_app(valkey_url)
    yield app
    app.close()


@pytest.fixture
def sizes() -> list[int]:
    """How many workers the node has at its next samples."""
    return [2]


@pytest.fixture
def sampler(app: Any, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> Sampler:
    """Writes the samples of a node."""
    client = redis_client(app)  # it is closed with the application
    monkeypatch.setattr("pooltasks.node.scoreboard.sampler.impatient_client", lambda _: client)
    return Sampler(
        app,
        "code",
        "code@a",
        Scoreboard(),
        lambda: Workforce(sizes[-1], sizes[-1], 0, 0, 0, ()),
        room=lambda _: None,
    )


def run(app: Any, *arguments: str) -> str:
    context = CLIContext(app=app, no_color=True, workdir=None)
    done = CliRunner().invoke(events, arguments, obj=context)
    assert done.exit_code == 0, done.output
    return done.output


def test_what_nodes_and_operators_did_is_shown_in_its_order(
    app: Any, sampler: Sampler, sizes: list[int]
) -> None:
    assert run(app, "code") == "Nothing happened in the last 10 min.\n"
    AuditLog(redis_client(app), "code").add(Done("ann", "::1", "resize", {}, "3 workers", True))
    sampler.sample()
    sizes.append(3)
    sampler.sample()
    sampler.sample(stopped=True)
    texts = [line[21:] for line in run(app, "code").splitlines()]
    action = "code  resize: 3 workers  (ann)"
    texts.remove(action)  # its time is in milliseconds: it may be that of a sample
    assert texts == [
        "code  Node started with 2 workers  (code@a)",
        "code  Size 2 → 3  (code@a)",
        "code  Node stopped  (code@a)",
    ]
    found = [json.loads(line) for line in run(app, "--json").splitlines()]
    kinds = {"action", "node-started", "resized", "node-stopped"}
    assert {its["kind"] for its in found} == kinds


def test_while_it_follows_each_event_is_told_once(
    app: Any, sampler: Sampler, sizes: list[int]
) -> None:
    sampler.sample()
    its = PoolEvents(app, "code")
    assert [event.kind for event in its.new(600)] == ["node-started"]
    assert [*its.new(60)] == []
    sizes.append(1)
    sampler.sample()
    assert [event.text for event in its.new(60)] == ["Size 2 → 1"]
    assert [*its.new(60)] == []
