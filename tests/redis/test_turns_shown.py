"""What waits for its turn is counted, shown, found and purged, and weights are changed."""

from __future__ import annotations

import json

import pytest
import redis
from celery.bin.base import CLIContext
from click.testing import CliRunner
from flow import QUEUE, end, limited_node, make_app, make_operation, take

from pooltasks import Pool, keys, whereabouts
from pooltasks.broker.client import redis_client
from pooltasks.broker.limit_store import Limit
from pooltasks.broker.limited import read_top_keys
from pooltasks.broker.limiting import Limits
from pooltasks.cli.inspect import inspect, purge
from pooltasks.cli.limit import limit

FAIR = Limits(key="note", fair=True)
NAME = "jobs.run"


@pytest.fixture
def server(valkey_url):
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def app(valkey_url):
    app = make_app(valkey_url)
    yield app
    app.close()


@pytest.fixture
def results(app):
    """Of four operations of "a" and one of "b"."""
    operation = make_operation(app, NAME, limits=FAIR)
    return [operation.delay(number, note=note) for number, note in enumerate("aaaab")]


@pytest.fixture
def node(results, valkey_url):
    """A node that has reserved one operation of "a" and the one of "b"."""
    node = limited_node(valkey_url, NAME, FAIR)
    assert len(results) == len(take(node, 2)) + 3
    yield node
    node.die()


@pytest.fixture
def run(app):
    def call(command, *arguments, code=0):
        context = CLIContext(app=app, no_color=True, workdir=None)
        done = CliRunner().invoke(command, arguments, obj=context)
        assert done.exit_code == code, done.output
        return done.output

    return call


@pytest.mark.usefixtures("node")
def test_each_key_is_shown_with_what_waits_for_its_turn(run):
    lines = [line.split() for line in run(limit, "code").splitlines()]
    # One of the three that wait lies ready for an idle node, in the list.
    assert lines[1][:4] == [NAME, "a", "1", "2"]
    assert lines[1][5:] == ["0", "takes", "turns,", "weight", "1"]
    assert lines[2][:6] == [NAME, "b", "1", "0", "-", "0"]
    first = json.loads(run(limit, "code", "--json"))[0]
    assert (first["waiting"], first["limit"]["weight"]) == (2, 1.0)
    assert 0 <= first["age"] < 60


def test_what_waits_for_its_turn_waits_in_the_queue(app, node, server):
    pool = Pool("code", app=app)
    reading = pool._store().read(1.0)
    assert reading.queue.depth == 3
    since = float(server.zrange(keys.flow(QUEUE, "ages"), 0, 0, withscores=True)[0][1])
    assert reading.queue.published_at <= since + 0.001
    server.delete(QUEUE)
    assert pool._store().read(1.0).queue.published_at == pytest.approx(since, abs=0.001)
    assert node.refusals == []


@pytest.mark.usefixtures("node")
def test_one_that_waits_for_its_turn_is_found_and_purged(app, results, run, server, monkeypatch):
    monkeypatch.setattr(whereabouts, "_at_nodes", lambda *_: [])
    assert "waits in the queue of the pool code, at place 2 of 2 with its key" in run(
        inspect, results[3].id
    )
    (place,) = json.loads(run(inspect, results[2].id, "--json"))
    assert (place["state"], place["place"], place["waiting"]) == ("waiting", 1, 2)
    assert run(purge, "code", "--yes").endswith(
        "3 operations deleted from the queue of the pool code: 1 in its lists, 2 that waited for "
        "their turns, 0 that limits held back\n"
    )
    assert not server.exists(QUEUE, *(keys.flow(QUEUE, name) for name in keys.OF_TURNS))
    run(inspect, results[3].id, code=1)
    assert Pool("code", app=app)._store().read(1.0).queue.depth == 0


def test_weights_of_the_code_are_shown_and_kept_when_a_limit_is_changed(app, valkey_url, run):
    fair = Limits(key="note", fair=True, weights=(("gold", 4.0), ("b%20c", 2.0)))
    node = limited_node(valkey_url, NAME, fair)
    operation = make_operation(app, NAME, limits=fair)
    for note in ("gold", "b c", "a"):
        operation.delay(1, note=note)
    assert len(take(node)) == 3
    assert "takes turns, weight 4" in run(limit, "code", NAME, "note=gold")
    assert "takes turns, weight 1" in run(limit, "code", NAME)
    top = {its.key: its.limit for its in read_top_keys(redis_client(app), "code", 5)}
    assert {key: its.weight for key, its in top.items()} == {"gold": 4, "b c": 2, "a": 1}
    run(limit, "code", NAME, "note=gold", "--concurrency", "3")
    run(limit, "code", NAME, "--concurrency", "9")
    shown = {its["key"]: its["limit"] for its in json.loads(run(limit, "code", "--json"))}
    assert (shown["gold"]["concurrency"], shown["gold"]["weight"]) == (3, 4)
    assert (shown["b c"]["concurrency"], shown["b c"]["weight"]) == (9, 2)
    node.die()


def test_a_weight_is_changed_while_it_runs(app, node, run):
    operation = app.tasks[NAME]
    for number in range(5, 11):
        operation.delay(number, note="b")
    changed = run(limit, "code", NAME, "note=b", "--weight", "3")
    assert changed == f"{NAME} note=b: takes turns, weight 3\n"
    first, *others = take(node, 5)
    assert first[1] == 5  # it lined up before
    assert sum(number >= 5 for _, number in others) == 3
    end(node, first, *others)
    assert "weight 1" in run(limit, "code", NAME, "note=b", "--reset")
    assert "note=b: 2 at once; takes turns, weight 1" in run(
        limit, "code", NAME, "note=b", "--concurrency", "2"
    )


def test_a_weight_needs_turns(app, valkey_url, run):
    limits = Limits(key="note", concurrency=1)
    make_operation(app, NAME, limits=limits)
    node = limited_node(valkey_url, NAME, limits)
    assert "jobs.run is not fair" in run(limit, "code", NAME, "--weight", "2", code=2)
    assert "range 0.01<=x<=100" in run(limit, "code", NAME, "--weight", "0", code=2)
    node.die()


def test_a_limit_is_read_as_it_is_written():
    for its in (Limit(None, None, None), Limit(3, None, None, 2.5), Limit(None, 100.0, 10, 1.0)):
        assert Limit.of(its.text()) == its
    assert Limit.of(Limits("note", fair=True).text()) == Limit(None, None, None, 1.0)
    assert Limits("note").text() == "- - -"
