"""Hosts whose clocks differ by seconds agree on waits and deadlines."""

from __future__ import annotations

import os
import shutil
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deployment import DEADLINE, Deployment

from pooltasks import Pool

if TYPE_CHECKING:
    import redis

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def faketime() -> Path:
    """The library that gives a process another time; Debian's package faketime."""
    program = shutil.which("faketime")
    if program is None:
        reason = "no faketime on PATH (Debian: apt-get install faketime)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    (library,) = Path(program).resolve().parents[1].glob("lib/*/faketime/libfaketime.so.1")
    return library


def server_time(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


@pytest.mark.timing
def test_waits_are_true_on_hosts_whose_clocks_differ(
    deployment: Deployment, faketime: Path
) -> None:
    app = deployment.configure("""
        [pools.code]
        imports = ["sample_operations"]
        pool_size = 1
    """)
    pool = Pool("code", app=app)
    deployment.environment["LD_PRELOAD"] = str(faketime)
    for number, ahead in enumerate(("+5s", "-5s")):
        deployment.environment["FAKETIME"] = ahead
        deployment.start_node("-Q", "pool.code", "-n", f"host-{number}@%h")

    server = deployment.redis
    sent = []
    told: dict[int, float] = {}
    # More than the workers can take at once, so that some wait; until both hosts took part.
    while len(told) < 2 or len(sent) < 40:
        before = server_time(server)
        result = pool.submit("sample_operations.tell_the_time", [0.02])
        sent.append((before, server_time(server), result))
        if len(sent) % 20 == 0:
            for _, _, one in sent[-20:]:
                it = one.get(timeout=DEADLINE)
                told[it["node"]] = it["host"] - it["server"]
        assert len(sent) < 2000, f"only {told} took part"
    assert sorted(told.values()) == pytest.approx([-5, 5], abs=1)

    longest = 0.0
    wrong = []
    for before, after, result in sent:
        earliest, latest = result.get(timeout=DEADLINE)["began"]
        wait = result.backend.get_task_meta(result.id)["timing"]["wait"]
        wrong.append(max(earliest - after - wait, wait - (latest - before), 0.0))
        longest = max(longest, wait)
    assert longest > 0.1
    # A clock is set by the quickest of some answers: by half of what that took it may be wrong,
    # and a busy machine takes its time.
    assert statistics.median(wrong) <= 0.005
    assert max(wrong) <= 0.05

    # An operation is not refused by a clock that runs ahead of the caller's.
    assert pool.submit("sample_operations.echo", [1], timeout=2).get(timeout=DEADLINE) == 1
