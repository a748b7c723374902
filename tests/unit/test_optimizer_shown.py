"""Whether an optimizer decides is told by its own interval, on the page and by the command."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import fakeredis
import pytest
from click.testing import CliRunner

from pooltasks.cli import pool as commands
from pooltasks.dashboard.decided import RecentDecisions
from pooltasks.metrics.decisions import DecisionStore, PoolDecision
from pooltasks.optimizer.controller import Controller


def decided(client: fakeredis.FakeRedis) -> PoolDecision:
    store = DecisionStore(client, "code")
    turn = store.begin()
    assert turn is not None
    its = PoolDecision(turn.at, "rules", 4, 5, 4, 1, {"a@h": 4}, ["a@h"], "From 5 to 4 slots.")
    assert store.commit(turn, None, its)
    return its


@pytest.mark.parametrize(
    ("interval", "age", "decides"),
    [(1, 14, True), (1, 16, False), (60, 75, True), (60, 901, False)],
)
def test_it_decides_for_as_long_as_its_next_decision_may_take(
    interval: float, age: float, decides: bool
) -> None:
    client = fakeredis.FakeRedis()
    its = decided(client)
    recent = RecentDecisions(client, "code", 1, interval)
    recent.fetch(60, its.at)
    assert recent.state(its.at + age)["decides"] is decides


def test_a_page_that_opens_between_two_decisions_finds_the_last_one() -> None:
    client = fakeredis.FakeRedis()
    its = decided(client)
    recent = RecentDecisions(client, "code", 1, 300.0)
    recent.fetch(60, its.at + 200)
    assert recent.state(its.at + 200)["decides"]


def test_what_a_paused_optimizer_wants_is_told_once() -> None:
    client = fakeredis.FakeRedis()
    first = decided(client)
    store = DecisionStore(client, "code")
    for second, acting, before in ((1, False, 5), (2, False, 5), (3, False, 6), (4, True, 6)):
        turn = store.begin()
        assert turn is not None
        its = replace(first, at=first.at + second, acting=acting, before=before)
        assert store.commit(turn, None, its)
    recent = RecentDecisions(client, "code", 1)
    recent.fetch(60, first.at)
    told = [round(its["at"] - first.at) for its in recent.changes(first.at + 4, 60)]
    assert told == [4, 3, 1, 0]


def test_a_dry_run_does_not_say_that_what_was_told_would_change(
    make_app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(pools={"code": {}})
    client = fakeredis.FakeRedis()
    app.pooltasks.client = client
    decision = decided(client)

    def printed(fresh: PoolDecision | None) -> str:
        monkeypatch.setattr(Controller, "dry_run", lambda _: fresh)
        obj = SimpleNamespace(app=app)
        return CliRunner().invoke(commands, ["optimize", "code", "--dry-run"], obj=obj).output

    assert "(would change)" in printed(decision)
    assert "(changed by the optimizer's last turn)" in printed(None)
