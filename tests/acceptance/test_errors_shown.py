"""What fails is told by kind, whoever finds it out: a worker, or its node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from deployment import letter_of, wait_until

from pooltasks.metrics.error_groups import ErrorGroup, ErrorGroups

if TYPE_CHECKING:
    from deployment import Deployment


def kinds(deployment: Deployment) -> dict[str, ErrorGroup]:
    """Return the errors of the pool by their operation."""
    with deployment.bytes_client() as client:
        return {
            its.operation.removeprefix("sample_operations."): its
            for its in ErrorGroups(client, "code").latest()
        }


def test_each_failure_is_counted_once_with_one_of_them_in_full(serving: Deployment) -> None:
    pool = serving.pool
    results = [pool.submit("sample_operations.fail", [f"order {n}"]) for n in range(7)]
    rejected = pool.submit("sample_operations.reject", ["no good"])
    killer = pool.submit("sample_operations.die_always", ["killer"])
    misfit = serving.app.send_task("sample_operations.echo", [1, 2, 3], queue="pool.code")
    serving.redis.lpush("pool.code", "no message at all")
    for result in [*results, misfit, killer]:
        wait_until(result.failed, "it has failed")
    letter_of(serving, rejected.id)

    def found() -> dict[str, ErrorGroup] | None:
        its = kinds(serving)
        known = {"fail", "reject", "die_always", "echo", "(unreadable)"} <= its.keys()
        return its if known and its["fail"].failed == len(results) else None

    its = wait_until(found, "all are counted")
    assert its["fail"].message == "order #"
    assert "sample_operations.py, line " in its["fail"].place
    assert [its[name].failed for name in ("reject", "die_always", "echo", "(unreadable)")] == [
        1
    ] * 4
    assert its["die_always"].error == "PoisonedError"

    answer = serving.run("pooltasks", "errors", "code", its["fail"].id, "--json").stdout
    shown: dict[str, Any] = json.loads(answer)
    example = shown["example"]
    assert example["id"] in [result.id for result in results]
    assert example["arguments"].startswith("message='order ")
    assert "in fail" in example["traceback"]
    assert example["node"].startswith("code@")
    assert example["worker"] > 1

    listed = serving.run("pooltasks", "errors", "code").stdout
    assert "sample_operations.reject: celery.exceptions.Reject: no good" in listed
    status = serving.run("pooltasks", "status", "code").stdout
    assert "errors in full: pooltasks errors code" in status


def test_dead_letters_are_dropped_by_the_kind_of_their_error(serving: Deployment) -> None:
    kept = serving.pool.submit("sample_operations.reject", ["another reason"])
    letter_of(serving, kept.id)
    gone = [serving.pool.submit("sample_operations.reject", [f"bad {n}"]) for n in range(3)]
    for result in gone:
        letter_of(serving, result.id)

    def kind() -> str | None:
        with serving.bytes_client() as client:
            groups = ErrorGroups(client, "code").latest()
        return next((its.id for its in groups if its.message == "bad #"), None)

    found = wait_until(kind, "they are counted")
    completed = serving.run("pooltasks", "dead", "drop", "code", "--kind", found)
    assert completed.stdout == "3 dropped\n", completed.stderr
    letter_of(serving, kept.id)
    both = serving.run("pooltasks", "dead", "drop", "code", "some-id", "--kind", found)
    assert both.returncode == 2
    unknown = serving.run("pooltasks", "dead", "drop", "code", "--kind", "nope")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "has no errors 'nope'" in unknown.stderr
