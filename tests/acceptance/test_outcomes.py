"""However an operation ends, and whatever its message names, its node tells and goes on."""

from __future__ import annotations

import base64
import json
import time
import zlib
from typing import Any

import pytest
from celery.exceptions import NotRegistered, Reject, TimeLimitExceeded
from deployment import DEADLINE, Deployment, last_published, letter_of, wait_until

from pooltasks.errors import MessageRefusedError, PoisonedError

pytestmark = pytest.mark.timeout(120)

UNREADABLE_ERRBACKS: dict[str, Any] = {
    "unknown kind of signature": [{"task": "x", "subtask_type": "nonsense"}],
    "group without tasks": [{"task": "celery.group", "subtask_type": "group", "kwargs": {}}],
    "chord of nonsense": [{"task": "celery.chord", "subtask_type": "chord", "kwargs": 7}],
    "number": 7,
}


def push(deployment: Deployment, task: str, *, body: Any = None, **changes: Any) -> Any:
    """Push a message as no client of ours would make it; return who waits for it.

    Args:
        deployment: Where.
        task: Name of the operation.
        body: Instead of its arguments: bytes, or what is encoded as JSON.
        **changes: Of the message.
    """
    result = deployment.app.send_task(f"sample_operations.{task}", queue="pool.control")
    document = last_published(deployment)
    if body is not None:
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        document["body"] = base64.b64encode(encoded).decode()
    headers = {**document["headers"], **changes.pop("headers", {})}
    document = {**document, "headers": headers, **changes}
    deployment.redis.lpush("pool.code", json.dumps(document))
    return result


def goes_on(deployment: Deployment) -> None:
    for number in range(20):
        assert deployment.pool.execute("sample_operations.echo", [number], timeout=DEADLINE) == (
            number
        )


def is_alive_and_well(deployment: Deployment) -> None:
    goes_on(deployment)
    assert deployment.nodes[0].poll() is None
    wait_until(lambda: not deployment.reserved(), "everything is accounted for")


def errback(serving: Deployment, key: str) -> Any:
    signature = serving.app.signature("sample_operations.errback", kwargs={"key": key})
    serving.redis.delete(key)
    return dict(signature)


@pytest.mark.parametrize(
    ("operation", "error"),
    [("reject_unloadable", Reject), ("raise_unloadable", Exception)],
)
def test_an_error_that_cannot_be_loaded_harms_no_node(
    serving: Deployment, operation: str, error: type[Exception]
) -> None:
    results = [serving.pool.submit(f"sample_operations.{operation}") for _ in range(5)]
    for result in results:
        with pytest.raises(error):
            result.get(timeout=DEADLINE)
    is_alive_and_well(serving)


@pytest.mark.parametrize("kind", ["leaves", "sleeps"])
def test_an_errback_runs_in_a_worker_and_costs_no_more_than_that(
    serving: Deployment, kind: str
) -> None:
    key = f"errback-{kind}"
    body = [[1, 2, 3], {}, {"errbacks": [errback(serving, key)]}]
    result = push(serving, "echo", body=body)
    (pid,) = wait_until(lambda: serving.redis.lrange(key, 0, -1), "the errback begins")
    begun = time.monotonic()
    goes_on(serving)
    assert time.monotonic() - begun < 7, "nobody waits for the errback of another"
    is_alive_and_well(serving)
    assert int(pid) != serving.nodes[0].pid
    with pytest.raises(TypeError, match="positional argument"):
        result.get(timeout=DEADLINE)
    letter, _ = letter_of(serving, result.id)
    assert letter.reason.startswith("rejected: the arguments do not fit")
    assert serving.redis.llen(key) == 1


@pytest.mark.parametrize("errbacks", UNREADABLE_ERRBACKS.values(), ids=UNREADABLE_ERRBACKS.keys())
def test_a_poisoned_message_with_an_unreadable_errback_is_accounted_for_once(
    serving: Deployment, errbacks: Any
) -> None:
    result = push(serving, "die_of", body=[[9], {}, {"errbacks": errbacks}])
    is_alive_and_well(serving)
    with pytest.raises(PoisonedError):
        result.get(timeout=DEADLINE)
    letter, _ = letter_of(serving, result.id)
    assert "killed its worker or node at each of 3 deliveries" in letter.reason
    shown = serving.run("pooltasks", "dead", "list", "code", "--json").stdout
    assert shown.count(result.id) == 1
    is_alive_and_well(serving)


def test_a_hard_limit_is_told_to_errbacks_by_a_worker(serving: Deployment) -> None:
    body = [[20], {}, {"errbacks": [errback(serving, "errback-limit")]}]
    result = push(serving, "sleep", body=body, headers={"timelimit": [0.3, None]})
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=DEADLINE)
    (pid,) = wait_until(lambda: serving.redis.lrange("errback-limit", 0, -1), "the errback")
    assert int(pid) != serving.nodes[0].pid
    is_alive_and_well(serving)


REFUSED: dict[str, tuple[str, dict[str, Any], type[Exception], str]] = {
    "unknown": ("nothing", {}, NotRegistered, "nothing"),
    "arguments": ("echo", {"body": [[1, 2, 3], {}, {}]}, TypeError, "positional"),
    "body": ("echo", {"body": b"{"}, MessageRefusedError, "refused: .*see: pooltasks dead show"),
    "shape": ("echo", {"body": [[], [], {}]}, MessageRefusedError, "the body is no list"),
    "pickle": (
        "echo",
        {"content-type": "application/x-python-serialize"},
        MessageRefusedError,
        "JSON only",
    ),
    "compression": (
        "echo",
        {"headers": {"compression": "nonsense"}},
        MessageRefusedError,
        "compression 'nonsense' is not read",
    ),
    "bomb": (
        "echo",
        {"body": zlib.compress(b" " * 50_000_000), "headers": {"compression": "zlib"}},
        MessageRefusedError,
        "the limit",
    ),
    "header": ("echo", {"headers": {"retries": "x"}}, MessageRefusedError, "'retries'"),
    "eta": (
        "echo",
        {"headers": {"eta": "9999-12-31T23:59:59-12:00"}},
        MessageRefusedError,
        "refused",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_who_waits_for_a_message_that_is_refused_is_told(serving: Deployment, kind: str) -> None:
    operation, changes, error, text = REFUSED[kind]
    result = push(serving, operation, **changes)
    with pytest.raises(error, match=text):
        result.get(timeout=DEADLINE)
    letter_of(serving, result.id)
    assert serving.nodes[0].poll() is None


@pytest.mark.parametrize("compression", ["zlib", "gzip", "bzip2", "lzma"])
def test_a_compressed_message_is_run(serving: Deployment, compression: str) -> None:
    result = serving.app.send_task(
        "sample_operations.echo", ["x" * 5000], queue="pool.code", compression=compression
    )
    assert result.get(timeout=DEADLINE) == "x" * 5000


def test_a_message_of_protocol_1_is_run(
    serving: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.app.amqp, "task_protocol", 1, raising=False)
    monkeypatch.setattr(
        serving.app.amqp, "create_task_message", serving.app.amqp.task_protocols[1], raising=False
    )
    result = serving.app.send_task("sample_operations.add", [1, 2], queue="pool.control")
    document = last_published(serving)
    assert "task" not in document["headers"]
    serving.redis.lpush("pool.code", json.dumps(document))
    assert result.get(timeout=DEADLINE) == 3
    assert wait_until(lambda: not serving.reserved(), "it is acknowledged")


def test_a_worker_s_death_shows_although_a_process_of_its_own_goes_on(serving: Deployment) -> None:
    result = serving.pool.submit("sample_operations.die_and_leave_a_process")
    begun = time.monotonic()
    with pytest.raises(PoisonedError):
        result.get(timeout=DEADLINE)
    assert time.monotonic() - begun < 8, "its process sleeps for 10 s"
