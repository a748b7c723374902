"""A pool's own traffic under another policy: what is recorded, and how it is replayed."""

from __future__ import annotations

import json
from collections import Counter
from statistics import fmean
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner
from redis.exceptions import ConnectionError  # noqa: A004  the client's

from pooltasks import Pool
from pooltasks.app import Extension, PoolApp
from pooltasks.cli import pool as commands
from pooltasks.errors import ConfigurationError
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import QueueState, StoredSample
from pooltasks.optimizer.staffing import Goal
from pooltasks.settings import Settings
from pooltasks.simulator.recorded import RecordedService, Replay, record

NOW = 1000.5
ON_TIME, LATE = 0.001, 0.2  # seconds


def histogram(values):
    whole = Histogram()
    for value in values:
        whole.add(value)
    return whole


def sample(at, *, waits=(), runs=(), busy=0.0, size=2, stopped=False, **state):
    counts = Counts(wait=histogram(waits), run=histogram(runs), busy=busy)
    return StoredSample(
        Sample(
            number=int(at),
            interval=1.0,
            size=size,
            warm=size,
            busy=0,
            reserved=state.get("reserved", 0),
            reserved_age=0.0,
            overflow=state.get("overflow", 0),
            slots=state.get("slots", 1),
            stopped=stopped,
            counts=counts,
        ),
        QueueState(at=at, depth=state.get("depth", 0), published_at=None),
    )


def samples_of(seconds, **of):
    return [sample(NOW - age, **of) for age in range(seconds, 0, -1)]


def test_arrivals_are_what_was_started_and_by_how_much_more_waits():
    quiet = [sample(850.2 + number) for number in range(120)]
    busy = [
        sample(970.2, waits=[ON_TIME] * 3, depth=4, reserved=1),  # 3 started, 5 wait: 8 came
        sample(971.2, waits=[LATE] * 5, runs=[0.1]),  # those that waited
        sample(972.2, depth=2),  # 2 came
        sample(973.2, waits=[LATE, ON_TIME], depth=1, size=5),  # 1 of them and 1 more
    ]
    recording = record("code", {"a": quiet + busy}, NOW, 3600.0)
    assert recording.arrivals[-30:] == [8, 0, 2, 1] + [0] * 26
    assert sum(recording.arrivals) == 11
    assert recording.sizes[-31:-26] == [2, 2, 2, 2, 5]
    assert recording.late(0.05, since=60.0) == pytest.approx(6 / 10)


def test_the_numbers_of_nodes_add_up_and_one_that_stopped_is_gone():
    first = samples_of(150, waits=[ON_TIME], runs=[0.1], size=3)
    second = samples_of(150, waits=[ON_TIME, ON_TIME], runs=[0.1, 0.3], size=1)
    second[100] = sample(second[100].at, stopped=True)
    del second[101:]
    recording = record("code", {"a": first, "b": second}, NOW, 130.0)
    assert recording.seconds == 130.0
    assert recording.arrivals[:80] == [3] * 80
    assert recording.arrivals[-40:] == [1] * 40
    assert (recording.sizes[0], recording.sizes[-1]) == (4, 3)
    assert recording.worker_seconds(since=120.0) == 30.0


def test_temporary_workers_cost_what_others_do():
    its = samples_of(150, waits=[ON_TIME], runs=[0.1], size=3, overflow=2)
    recording = record("code", {"a": its}, NOW, 130.0)
    assert recording.sizes[-1] == 3
    assert recording.worker_seconds(since=120.0) == 50.0


def test_numbers_of_nodes_that_go_back_a_little_lose_and_invent_nothing():
    # A reservation that one node has written already and the other's queue depth not yet.
    its = samples_of(130, waits=[ON_TIME], runs=[0.1])
    its[60] = sample(its[60].at, waits=[ON_TIME], runs=[0.1], depth=3)
    recording = record("code", {"a": its}, NOW, 3600.0)
    assert sum(recording.arrivals) == len(recording.arrivals)
    assert min(recording.arrivals) >= 0


@pytest.mark.parametrize(
    ("its", "message"),
    [
        ({}, "has samples of 0 s"),
        ({"a": samples_of(90, waits=[ON_TIME], runs=[0.1])}, "a simulation needs 120 s"),
        ({"a": samples_of(200)}, "ran no operation in the last"),
    ],
)
def test_what_tells_too_little_is_refused(its, message):
    with pytest.raises(ConfigurationError, match=message):
        record("code", its, NOW, 3600.0)


def test_a_replay_has_the_recorded_arrivals_of_each_second_and_runs_as_long():
    runs = [0.01] * 9 + [0.5]
    its = [
        sample(NOW - age, waits=[ON_TIME] * (age % 7), runs=runs[: age % 7] or runs)
        for age in range(300, 0, -1)
    ]
    recording = record("code", {"a": its}, NOW, 3600.0)
    replay = Replay(recording)
    first, again, other = (replay.sequence(seed, recording.seconds) for seed in (1, 1, 2))
    assert first.times == again.times
    assert first.services == again.services
    assert first.times != other.times
    seconds = Counter(int(time) for time in first.times)
    assert [seconds[second] for second in range(len(recording.arrivals))] == recording.arrivals
    assert fmean(first.services) == pytest.approx(recording.runs.total / recording.runs.count, 0.3)
    assert sum(first.rates) / 10 == pytest.approx(sum(recording.arrivals), rel=0.05)


def test_a_worker_is_busy_for_longer_than_an_operation_runs():
    its = samples_of(130, waits=[ON_TIME, ON_TIME], runs=[0.1, 0.1], busy=0.25)
    recording = record("code", {"a": its}, NOW, 3600.0)
    assert recording.around == pytest.approx(0.025)
    arrivals = Replay(recording).sequence(1, recording.seconds)
    assert arrivals.service.mean == pytest.approx(0.125)
    assert fmean(arrivals.services) == pytest.approx(0.125, rel=0.02)


@pytest.mark.parametrize(
    ("values", "factor"),
    [([0.1] * 100, 0.5), ([0.0001, 0.2] * 50, 1.0), ([0.01] * 80 + [0.46] * 20, 1.5)],
)
def test_the_oracle_of_a_replay_staffs_by_the_variance_of_the_runs(values, factor):
    assert RecordedService(histogram(values)).steady_factor == pytest.approx(factor, abs=0.05)


@pytest.fixture
def app(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no config/pools.toml
    app = PoolApp("replayed", set_as_current=False)
    pools = {"code": {"min_pool_size": 1, "max_pool_size": 6}}
    app._extension = Extension(Settings.load(pools=pools))
    return app


def simulated(app, *options):
    return CliRunner().invoke(commands, ["simulate", *options], obj=SimpleNamespace(app=app))


def test_the_command_shows_what_a_pool_did_and_what_others_would_have(app, monkeypatch, tmp_path):
    its = samples_of(300, waits=[ON_TIME] * 9 + [LATE], runs=[0.1] * 10, size=3)
    monkeypatch.setattr(Pool, "samples", lambda *_: (QueueState(NOW, 0, None), {"a": its}))
    picture = tmp_path / "replay.svg"
    result = simulated(
        app, "--replay", "5min", "--size", "1", "--size", "6", "--json", "--plot", str(picture)
    )
    assert result.exit_code == 0, result.output
    own, small, large = (json.loads(line) for line in result.output.splitlines())
    assert [own["workload"], own["policy"]] == ["code", "as it was"]
    assert own["violations"]["mean"] == pytest.approx(0.1)
    assert small["policy"] == "size 1"
    assert small["violations"]["mean"] > 0.5
    assert large["violations"]["mean"] < 0.01
    assert large["cost"]["mean"] == pytest.approx(2 * own["cost"]["mean"], rel=0.01)

    drawn = ET.fromstring(picture.read_text())  # noqa: S314  our own
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "code" in texts
    assert any(text.startswith("size 1: ") for text in texts)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}polyline"))) == 2


def test_the_command_asks_which_of_several_pools(app):
    app._extension = Extension(Settings.load(pools={"code": {}, "mail": {}}))
    result = simulated(app, "--replay", "1h")
    assert result.exit_code == 2
    assert "name one of the pools: code, mail" in result.output


def test_a_replay_stands_alone(app):
    result = simulated(app, "--replay", "1h", "--workload", "step")
    assert result.exit_code == 2
    assert "--replay" in result.output


def test_the_objective_of_a_replay_is_the_pools(app, monkeypatch):
    app._extension = Extension(
        Settings.load(pools={"code": {"objective": {"wait_ms": 500, "quantile": 0.9}}})
    )
    its = samples_of(300, waits=[LATE], runs=[0.1])
    monkeypatch.setattr(Pool, "samples", lambda *_: (QueueState(NOW, 0, None), {"a": its}))
    (own, _) = simulated(app, "--replay", "5min", "--size", "2", "--json").output.splitlines()
    assert json.loads(own)["violations"]["mean"] == 0.0
    (own, _) = simulated(
        app, "--replay", "5min", "--size", "2", "--json", "--objective", str(Goal())
    ).output.splitlines()
    assert json.loads(own)["violations"]["mean"] == 1.0


def test_a_pool_that_was_there_all_the_time_can_replay_the_shortest_span(app, monkeypatch):
    its = samples_of(300, waits=[ON_TIME], runs=[0.1])

    def samples(_, seconds):
        return QueueState(NOW, 0, None), {"a": [one for one in its if one.at >= NOW - seconds]}

    monkeypatch.setattr(Pool, "samples", samples)
    result = simulated(app, "--replay", "2min", "--size", "2")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("span", ["10s", "2h"])
def test_a_replay_is_of_two_minutes_to_an_hour(app, span):
    result = simulated(app, "--replay", span)
    assert result.exit_code == 2
    assert f"'{span}' is not between 2min and 1h" in result.output


def test_limits_conditions_and_costs_of_a_replay_are_those_of_all_nodes_in_slots(app, monkeypatch):
    pools = {"code": {"min_pool_size": 1, "max_pool_size": 2, "pool_size": 2, "slots": 4}}
    app._extension = Extension(Settings.load(pools=pools))
    # Ten erlangs on two nodes of two workers with four slots.
    its = {
        node: samples_of(300, waits=[ON_TIME] * 50, runs=[0.1] * 50, size=2, slots=4)
        for node in "ab"
    }
    monkeypatch.setattr(Pool, "samples", lambda *_: (QueueState(NOW, 0, None), its))
    result = simulated(app, "--replay", "5min", "--policy", "objective", "--size", "16", "--json")
    assert result.exit_code == 0, result.output
    own, objective, sixteen = (json.loads(line) for line in result.stdout.splitlines())
    assert objective["violations"]["mean"] < 0.05
    assert own["cost"]["mean"] == pytest.approx(sixteen["cost"]["mean"], rel=0.01)


def test_a_replay_without_a_server_is_one_line(app, monkeypatch):
    def samples(*_):
        raise ConnectionError("Error 111 connecting to 127.0.0.1:6379.")

    monkeypatch.setattr(Pool, "samples", samples)
    result = simulated(app, "--replay", "5min")
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert line.startswith("Error: The server ")
    assert line.endswith(
        "does not answer: Error 111 connecting to 127.0.0.1:6379. "
        "Is it running? See its broker_url."
    )
