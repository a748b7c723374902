"""Whole pools warm up again: which nodes begin when, what they are told, what is reported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from pooltasks import Pool, warming
from pooltasks.cli.warm import warm as warm_command
from pooltasks.node import control
from pooltasks.pool_settings import DSPY_MODEL, PoolSettings, WarmUp
from pooltasks.warming import Batch, warm, well


class Nodes:
    """Nodes whose warm-up takes a few looks; they note how many warm up at a time."""

    def __init__(self, workers: dict[str, int], looks: int = 2) -> None:
        self.workers = workers
        self.left: dict[str, int] = {}
        self.looks = looks
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.most = 0
        self.refused: str | None = None

    def ask(self, _: Any, what: str, nodes: Any = None, **arguments: Any) -> dict[str, Any]:
        """Answer as nodes do."""
        if what == "pool_status":
            return {one: {"pool": "code", "size": size} for one, size in self.workers.items()}
        if what == "pool_warm":
            for node in nodes:
                self.left[node] = self.looks
                self.told.append((node, arguments))
            self.most = max(self.most, sum(left > 0 for left in self.left.values()))
            return {node: {"round": 1, "refused": self.refused} for node in nodes}
        for node in nodes:
            self.left[node] -= 1
        return {
            node: {
                "workers": self.workers[node],
                "succeeded": self.workers[node],
                "success_rate": 1.0,
                "seconds": 0.1,
                "commands": {},
                "timeline": [],
                "finished": self.left[node] <= 0,
            }
            for node in nodes
        }


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "_LOOK", 0.0)


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    fleet = Nodes({"a": 4, "b": 4, "c": 4})
    monkeypatch.setattr(warming, "ask", fleet.ask)
    monkeypatch.setattr("pooltasks.pools.ask", fleet.ask)
    monkeypatch.setattr("pooltasks.remote.ask", fleet.ask)
    return fleet


@pytest.mark.parametrize(
    ("strategy", "sizes", "at_a_time"),
    [
        ("parallel", [4, 4, 4], 3),
        ("sequential", [4, 4, 4], 1),
        ("staged", [4, 4, 4], 2),  # two of each four, and four of twelve
        ("staged", [1] * 9, 3),
        ("staged", [9], 1),
        ("staged", [1], 1),
        ("staged", [9, 9, 9], 3),
    ],
)
def test_so_many_nodes_warm_up_at_a_time(
    monkeypatch: pytest.MonkeyPatch, strategy: str, sizes: list[int], at_a_time: int
) -> None:
    workers = {f"n{number}": size for number, size in enumerate(sizes)}
    fleet = Nodes(workers)
    monkeypatch.setattr(warming, "ask", fleet.ask)
    reports = warm(SimpleNamespace(), [Batch(workers, strategy)], timeout=30)
    assert fleet.most == at_a_time
    assert [node for node, _ in fleet.told] == list(workers)
    assert well(reports, list(workers))


def test_a_pool_warms_up_with_other_commands_and_another_strategy(
    nodes: Nodes, make_app: Any
) -> None:
    pool = Pool("code", make_app(pools={"code": {}}))
    commands = [{"operation": "a.b", "timeout": 3}]
    reports = pool.warm(strategy="sequential", commands=commands)
    assert sorted(reports) == ["a", "b", "c"]
    assert nodes.most == 1
    assert nodes.told[0] == ("a", {"strategy": "sequential", "commands": commands})


def test_a_refusal_is_reported_and_is_not_well(nodes: Nodes) -> None:
    nodes.refused = "there is no operation 'x'"
    reports = warm(SimpleNamespace(), [Batch(nodes.workers, "parallel")], timeout=30)
    assert {its["refused"] for its in reports.values()} == {"there is no operation 'x'"}
    assert not well(reports, ["a"])


def test_nodes_that_have_no_time_to_begin_are_left_out(nodes: Nodes) -> None:
    reports = warm(SimpleNamespace(), [Batch(nodes.workers, "sequential")], timeout=0)
    assert reports == {}
    assert not well(reports, ["a"])


@pytest.mark.parametrize(
    ("options", "commands"),
    [
        ([], None),
        (["--command", "dspy"], "dspy"),
        (["--command", "dspy:openai/x"], "dspy:openai/x"),
        (
            ["--command", 'a.b {"x": 1}', "--command", "a.c [2]", "--command", "a.d"],
            [
                {"operation": "a.b", "args": [], "kwargs": {"x": 1}},
                {"operation": "a.c", "args": [2], "kwargs": {}},
                {"operation": "a.d", "args": [], "kwargs": {}},
            ],
        ),
    ],
)
def test_the_command_tells_nodes_what_is_given(
    nodes: Nodes, make_app: Any, options: list[str], commands: Any
) -> None:
    context = SimpleNamespace(app=make_app(pools={"code": {}}))
    result = CliRunner().invoke(
        warm_command, ["code", "--strategy", "staged", *options], obj=context
    )
    assert result.exit_code == 0, result.output
    assert nodes.told[0] == ("a", {"strategy": "staged", "commands": commands})
    assert "a: 4 of 4 workers warmed" in result.output


@pytest.mark.parametrize("value", ["a.b {", "a.b 3"])
def test_arguments_that_are_none_are_refused(make_app: Any, value: str) -> None:
    context = SimpleNamespace(app=make_app(pools={"code": {}}))
    result = CliRunner().invoke(warm_command, ["--command", value], obj=context)
    assert result.exit_code == 2


def test_a_node_refuses_what_it_cannot_run_and_runs_the_rest(make_app: Any) -> None:
    orders: list[WarmUp] = []
    app = make_app("code", pools={"code": {"warmup": {"strategy": "staged", "command_timeout": 7}}})
    app.loader.import_task_module("pooltasks.operations")
    taking = SimpleNamespace(warm_again=lambda order: orders.append(order) or len(orders))
    state = SimpleNamespace(consumer=SimpleNamespace(app=app, pool=taking))
    ping = [{"operation": "pooltasks.operations.ping"}]
    assert control.pool_warm(state) == {"round": 1, "refused": None}
    assert control.pool_warm(state, "sequential", ping) == {"round": 2, "refused": None}
    assert orders[0] == WarmUp(strategy="staged", command_timeout=7)
    assert orders[1] == WarmUp(strategy="sequential", command_timeout=7, commands=ping)
    for strategy, commands, said in (
        ("all", None, "strategy"),
        (None, "x", "commands"),
        (None, [{"operation": "no.such"}], "no operation 'no.such'"),
    ):
        reply = control.pool_warm(state, strategy, commands)
        assert reply["round"] is None
        assert said in reply["refused"]
    assert len(orders) == 2


# The set of the requirements document


def test_the_set_dspy_is_the_documents_four_commands() -> None:
    warm_up = PoolSettings(warmup="dspy").warmup
    assert [one.operation.rpartition(".")[2] for one in warm_up.commands] == [
        "import_dspy",
        "configure_lm",
        "create_program",
        "create_program",
    ]
    assert [one.timeout for one in warm_up.commands] == [30.0, 10.0, 10.0, 10.0]
    assert warm_up.commands[1].kwargs == {"model": DSPY_MODEL}
    other = PoolSettings(warmup={"commands": "dspy:openai/gpt-4o", "strategy": "staged"}).warmup
    assert other.commands[1].kwargs == {"model": "openai/gpt-4o"}
    assert other.strategy == "staged"


def test_another_name_of_a_set_is_refused() -> None:
    with pytest.raises(ValueError, match="the name of a set: dspy"):
        PoolSettings(warmup="dspi")


def test_the_profile_document_gives_each_command_ten_seconds() -> None:
    assert PoolSettings().warmup.command_timeout is None
    assert PoolSettings(profile="document").warmup.command_timeout == 10.0
    staged = PoolSettings(profile="document", warmup={"strategy": "staged"}).warmup
    assert (staged.strategy, staged.command_timeout) == ("staged", 10.0)
    dspy = PoolSettings(profile="document", warmup="dspy").warmup
    assert (len(dspy.commands), dspy.command_timeout) == (4, 10.0)
