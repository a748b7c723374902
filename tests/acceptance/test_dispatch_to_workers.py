"""Short operations share a write to a worker; none waits behind a long one for that."""

from __future__ import annotations

import time

from deployment import DEADLINE, Deployment


def test_no_operation_waits_behind_a_long_one_while_another_worker_is_free(
    serving: Deployment,
) -> None:
    def sleep(seconds: float):
        return serving.pool.submit("sample_operations.occupy", [seconds])

    for result in [sleep(0) for _ in range(30)]:
        result.get(timeout=DEADLINE)  # the node knows them as short now
    begun = time.monotonic()
    results = [sleep(0) for _ in range(10)]
    long = sleep(4)
    results += [sleep(0) for _ in range(50)]
    for result in results:
        result.get(timeout=DEADLINE)
    assert time.monotonic() - begun < 3
    assert not long.ready()
    long.get(timeout=DEADLINE)


def test_a_soft_limit_strikes_only_the_operation_that_it_is_for(serving: Deployment) -> None:
    limited = serving.pool.submit("sample_operations.sleep", [30], timeout=0.3)
    others = [serving.pool.submit("sample_operations.echo", [n]) for n in range(200)]
    assert [other.get(timeout=DEADLINE) for other in others] == list(range(200))
    assert isinstance(limited.get(timeout=DEADLINE, propagate=False), Exception)
