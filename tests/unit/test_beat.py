"""Beat sends the optimizer's tick just after the nodes' samples, and never more than is taken."""

from __future__ import annotations

import itertools
import logging
import pickle
import time
from datetime import UTC, datetime

import fakeredis
import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

import pooltasks
from pooltasks import keys
from pooltasks.app import import_operations
from pooltasks.broker.client import redis_client
from pooltasks.keys import CONTROL_POOL
from pooltasks.optimizer import tick
from pooltasks.optimizer.beat import AFTER, AfterSamples, Beat
from pooltasks.optimizer.controller import Controller
from pooltasks.settings import Settings
from pooltasks.task import Operation

NOW = 1_800_000_000.0


PHASE = 0.5 + AFTER


@pytest.fixture
def schedule(monkeypatch, make_app, request):
    clock = [NOW]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    options = getattr(request, "param", {})
    its = pickle.loads(pickle.dumps(AfterSamples(**options)))  # noqa: S301  as beat's file does
    its.app = make_app()

    def is_due(now, last):
        clock[0] = NOW + now
        return its.is_due(datetime.fromtimestamp(NOW + last, UTC))

    return is_due


@pytest.mark.parametrize(
    ("now", "last", "due"),
    [
        (10.514, 9.520, False),
        (10.516, 9.520, True),
        (10.900, 10.516, False),
        (11.516, 10.530, True),
        (99.0, 10.5, True),  # beat was away
        (10.0, 3600.0, True),  # the clock was set back
    ],
)
def test_it_is_due_once_a_second_after_the_samples(schedule, now, last, due):
    is_due, seconds = schedule(now, last)
    assert is_due is due
    assert (now + seconds) % 1.0 == pytest.approx(PHASE, abs=0.02)
    assert 0 < seconds <= 1.02


@pytest.mark.parametrize(
    ("schedule", "period"),
    [({}, 1.0), ({"period": 0.25, "phase": 0.125 + AFTER}, 0.25)],
    indirect=["schedule"],
)
def test_ticks_are_a_period_apart_in_beat_s_own_rhythm(schedule, period):
    now, last, ticks = 0.3, -1.0, []
    while len(ticks) < 20:
        is_due, seconds = schedule(now, last)
        if is_due:
            ticks.append(now)
            last = now + 0.001
        now += seconds - 0.010  # beat looks 10 ms early
    gaps = [after - before for before, after in itertools.pairwise(ticks[1:])]
    assert gaps == pytest.approx([period] * len(gaps), abs=0.01)
    assert ticks[-1] % period == pytest.approx(period / 2 + AFTER, abs=0.02)


def test_a_schedule_that_an_earlier_version_stored_is_read():
    assert AfterSamples(1.0, False, None).period == 1.0


@pytest.mark.parametrize(
    ("pools", "period", "phase"),
    [
        ([{}], 1.0, 0.5),
        ([{}, {"metrics_interval": 0.25, "optimization_interval": 0.25}], 0.25, 0.125),
        ([{"optimization_interval": 0.25}], 1.0, 0.5),  # there are no samples to decide on
        ([{"metrics_interval": 0.25}], 1.0, 0.125),
        ([{"metrics_interval": 5, "optimization_interval": 60}], 1.0, 0.5),
    ],
)
def test_ticks_are_as_frequent_as_the_quickest_pool_decides(make_app, pools, period, phase):
    entries = started(make_app(pools={f"p{number}": its for number, its in enumerate(pools)}))
    (entry,) = entries.values()
    assert (entry["schedule"].period, entry["schedule"].phase) == (period, phase + AFTER)


def started(app):
    app.Beat(loglevel="INFO").init_loader()
    return app.conf.beat_schedule


@pytest.mark.parametrize(
    ("pools", "ticks"),
    [
        ({"code": {}}, True),
        ({"code": {"enable_optimizer": False}, "other": {}}, True),
        ({"code": {"enable_optimizer": False}}, False),
        ({}, False),
    ],
)
def test_beat_ticks_where_a_pool_wants_to_be_optimized(make_app, pools, ticks):
    schedule = started(make_app(pools=pools))
    assert [entry["task"] for entry in schedule.values()] == [tick.NAME] * ticks


def test_the_beat_of_another_application_keeps_its_schedule(bare_environment):  # noqa: ARG001
    app = Celery("theirs", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.beat_schedule = {"theirs": {"task": "theirs.job", "schedule": 60.0}}
    settings = Settings(pools={"code": {}})
    pooltasks.install(app, settings)
    beat = app.Beat(loglevel="INFO")
    assert isinstance(beat, Beat)
    beat.init_loader()
    assert app.conf.beat_schedule.keys() == {"theirs", "pooltasks.optimizer"}


@pytest.fixture
def app(make_app):
    app = make_app(pools={"code": {}, "other": {}, "still": {"enable_optimizer": False}})
    app.pooltasks.client = fakeredis.FakeRedis()
    import_operations(app, CONTROL_POOL)
    return app


def test_ticks_do_not_pile_up_where_nobody_takes_them(app, monkeypatch):
    client, queue = redis_client(app), keys.queue(CONTROL_POOL)
    monkeypatch.setattr(Operation, "apply_async", lambda *_, **__: client.lpush(queue, "a message"))
    for _ in range(5):
        app.tasks[tick.NAME].apply_async()
    assert client.llen(queue) == 2
    client.rpop(queue)
    app.tasks[tick.NAME].apply_async()
    assert client.llen(queue) == 2


def test_an_outage_of_the_server_is_two_lines_in_the_log_of_beat(app, monkeypatch, caplog):
    server = fakeredis.FakeServer()
    monkeypatch.setattr(tick, "redis_client", lambda _: fakeredis.FakeRedis(server=server))
    monkeypatch.setattr(Operation, "apply_async", lambda *_, **__: "published")
    server.connected = False
    assert [app.tasks[tick.NAME].apply_async() for _ in range(3)] == [None] * 3
    server.connected = True
    assert app.tasks[tick.NAME].apply_async() == "published"
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "while the server is away" in said[0]
    assert "called again" in said[1]


def test_every_pool_has_its_turn_whatever_happens_to_another(app, monkeypatch, caplog):
    turns = []

    def turn(self, until):
        turns.append((self.pool, until))
        if self.pool == "code":
            raise ZeroDivisionError("a policy's mistake")

    monkeypatch.setattr(Controller, "tick", turn)
    app.tasks[tick.NAME]()
    assert [pool for pool, _ in turns] == ["code", "other"]
    assert len({until for _, until in turns}) == 1  # they wait together
    assert "pool code: its optimizer's turn failed" in caplog.text


def test_a_tick_that_takes_too_long_gives_way_to_the_next(app, monkeypatch):
    def turn(self, until):  # noqa: ARG001  the controller's
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(Controller, "tick", turn)
    with pytest.raises(SoftTimeLimitExceeded):
        app.tasks[tick.NAME]()


@pytest.mark.parametrize(
    ("level", "name", "logged"),
    [
        (logging.INFO, tick.NAME, False),
        (logging.INFO, "jobs.run", True),
        (logging.WARNING, tick.NAME, True),
    ],
)
@pytest.mark.parametrize("logger", ["celery.beat", "celery.worker.strategy", "celery.app.trace"])
def test_the_log_has_no_line_for_every_tick(caplog, logger, level, name, logged):
    with caplog.at_level(logging.INFO, logger=logger):
        logging.getLogger(logger).log(
            level, "Task %(name)s[%(id)s] received", {"name": name, "id": 1}
        )
    assert bool(caplog.records) is logged
