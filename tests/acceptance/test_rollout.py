"""A new version is brought out on a live pool: a bad one is rolled back, a good one gets all."""

from __future__ import annotations

import json
import signal
import threading
import time
from hashlib import sha1
from typing import TYPE_CHECKING, Any, Self

import pytest
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool
from pooltasks.broker.queues import waiting_in
from pooltasks.metrics.rollout import STEPS
from pooltasks.metrics.rollout_store import RolloutStore

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from pooltasks.metrics.rollout import Rollout

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]

CONFIGURATION = """
[pools.code]
imports = ["rollout_operations"]
pool_size = 2
min_pool_size = 2
max_pool_size = 4
checkout_timeout = 60
rollout = { step_seconds = 1, operations = 60 }
"""
SWITCHED = 2.0
"""Seconds after which what is published goes by a new share."""
CHUNK, EVERY = 120, 0.1
PATIENCE = 240.0
"""Seconds; as good as none where the machine has nothing else to do."""


class Load:
    """Calls that go on until the test is through, and what became of them."""

    def __init__(self, deployment: Deployment) -> None:
        app = deployment.app
        self._redis = deployment.redis
        self._lists = waiting_in(app, "pool.code")
        self._pool = Pool("code", app)
        self._clock = app.pooltasks.clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.published: dict[str, float] = {}
        """The server's time before each call was published, by its id."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        first = 0
        while not self._stop.wait(EVERY):
            if sum(self._redis.llen(name) for name in self._lists) > CHUNK:
                continue  # the machine has other things to do
            now = self._clock.now()
            calls = [(number,) for number in range(first, first + CHUNK)]
            results = self._pool.submit_many("rollout_operations.serve", calls)
            self.published.update(dict.fromkeys((result.id for result in results), now))
            first += CHUNK


@pytest.fixture
def live(deployment: Deployment) -> Deployment:
    deployment.app = deployment.configure(CONFIGURATION)
    start(deployment, "1")
    deployment.start_node("-Q", "pool.control", "-n", "control@%h")
    deployment.start_beat()
    pool = Pool("code", app=deployment.app)
    wait_until(pool.decisions().current, "the first decision")
    return deployment


def start(deployment: Deployment, version: str) -> subprocess.Popen[bytes]:
    environment = deployment.environment
    deployment.environment = {**environment, "POOLTASKS_VERSION": version}
    try:
        return deployment.start_node("-Q", "pool.code", "-n", f"v{version}@%h")
    finally:
        deployment.environment = environment


def command(deployment: Deployment, *arguments: str, fails: bool = False) -> str:
    done = deployment.run("pooltasks", "rollout", *arguments)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_for(deployment: Deployment, condition: Callable[[Rollout], bool], what: str) -> Rollout:
    """Return the rollout as soon as it is so."""
    with deployment.bytes_client() as client:
        store = RolloutStore(client, "code")

        def look() -> Rollout | None:
            found = store.read()
            return found if found is not None and condition(found) else None

        its: Rollout = wait_until(look, what, PATIENCE)
        return its


def answers(deployment: Deployment, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Return the results that are stored."""
    found = {}
    for first in range(0, len(ids), 500):
        some = ids[first : first + 500]
        values = deployment.redis.mget(f"celery-task-meta-{id_}" for id_ in some)
        found |= {id_: json.loads(value) for id_, value in zip(some, values, strict=True) if value}
    return found


def is_new(version: str, id_: str, share: float) -> bool:
    digest = sha1(f"{version}:{id_}".encode())  # noqa: S324  no secret
    return int(digest.hexdigest()[:8], 16) % 10_000 < share * 100


def check_versions(
    results: dict[str, dict[str, Any]], published: dict[str, float], its: Rollout
) -> dict[str, int]:
    """Check that no call ran at the wrong version; return how many ran at each."""
    steps = [(step.at, step.share) for step in its.steps]
    new, before, ended = its.version, its.before, its.ended
    assert ended is not None
    ran = {new: 0, before: 0}
    for id_, result in results.items():
        if published[id_] < its.started:
            continue
        if result["status"] == "FAILURE":
            version, at = "bad", None  # the other version never fails
        else:
            version, at = result["result"]
        ran[version] += 1
        if version == new:
            last = max(share for when, share in steps if at is None or when <= at + 0.2)
            assert is_new(new, id_, last), (id_, last)
        else:
            had = [share for when, share in steps if when <= published[id_] - SWITCHED]
            is_over = its.state == "aborted" and published[id_] >= ended - SWITCHED
            assert is_over or not had or not is_new(new, id_, max(had)), (id_, had)
            assert its.state != "done" or published[id_] < ended + SWITCHED
    return ran


def test_a_bad_version_is_rolled_back_and_a_good_one_takes_over(live: Deployment) -> None:
    text = command(live, "start", "1", fails=True)
    assert "nothing was changed" in text.lower()
    with Load(live) as load:
        assert "POOLTASKS_VERSION=bad" in command(live, "start", "bad")
        bad_node = start(live, "bad")
        bad = wait_for(live, lambda its: not its.is_live, "the end of the bad version")
        assert bad.state == "aborted"
        assert "failed" in bad.reason
        with_ten = [step.at for step in bad.steps if step.share > 5]
        assert not with_ten or bad.ended - with_ten[0] < 60
        assert "rolled back" in command(live, "status", fails=True)

        assert "POOLTASKS_VERSION=good" in command(live, "start", "good")
        good_node = start(live, "good")
        wait_for(live, lambda its: its.share >= 25, "a quarter for the good version")
        control = live.nodes[1]
        control.send_signal(signal.SIGKILL)
        control.wait()
        live.start_node("-Q", "pool.control", "-n", "control2@%h")
        good = wait_for(live, lambda its: not its.is_live, "the end of the good one")
        assert good.state == "done", good.reason
        assert tuple(step.share for step in good.steps) == STEPS
        for node in (live.nodes[0], bad_node):  # they take nothing any more
            node.send_signal(signal.SIGTERM)
            node.wait(DEADLINE)
        time.sleep(3 * EVERY)  # some calls more, for the new version alone
    assert good_node.poll() is None
    ids = list(load.published)
    wait_until(lambda: len(answers(live, ids)) == len(ids), "every answer", PATIENCE)
    results = answers(live, ids)
    failed = [id_ for id_, result in results.items() if result["status"] != "SUCCESS"]
    assert all("not as it was" in str(results[id_]["result"]) for id_ in failed)
    assert 0 < len(failed) < 200
    until = {id_: at for id_, at in load.published.items() if at < good.started}
    ran = check_versions({id_: results[id_] for id_ in until}, load.published, bad)
    assert ran["bad"] > 50
    later = {id_: its for id_, its in results.items() if id_ not in until}
    ran = check_versions(later, load.published, good)
    assert ran["good"] > 500
