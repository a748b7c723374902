"""What cannot be run, or has failed for good, becomes a dead letter that tells why."""

from __future__ import annotations

import base64
import json

import pytest
from celery.exceptions import Reject
from deployment import DEADLINE, Deployment, last_published, letter_of, wait_until

from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.broker.serialization import MAX_MESSAGE_BYTES

pytestmark = pytest.mark.long


def test_arguments_that_do_not_fit_are_told_to_the_caller_and_set_aside(
    serving: Deployment,
) -> None:
    # By name: a publisher without the operation's code cannot check them.
    result = serving.app.send_task(
        "sample_operations.echo", [1, 2, 3], queue="pool.code", headers={"colour": "red"}
    )
    with pytest.raises(TypeError, match="positional argument"):
        result.get(timeout=DEADLINE)
    letter, message = letter_of(serving, result.id)
    assert letter.reason.startswith("rejected: the arguments do not fit sample_operations.echo")
    headers = json.loads(message)["headers"]
    assert (headers["id"], headers["colour"]) == (result.id, "red")


def test_a_letter_has_the_bytes_that_were_in_the_queue(serving: Deployment) -> None:
    serving.app.send_task("sample_operations.nothing", queue="pool.control")
    document = last_published(serving)
    pushed = json.dumps(document, indent=3).encode()  # as no encoder of ours would write it
    serving.redis.lpush("pool.code", pushed)
    _, message = letter_of(serving, document["headers"]["id"])
    assert message == pushed


@pytest.mark.parametrize(
    ("task", "body", "reason"),
    [
        ("echo", b"[{}, {}, [null]]", "rejected: the body is no list"),
        ("echo", b'["", {}, {}]', "rejected: the body is no list"),
        ("fail", b'[[], {}, {"errbacks": 5}]', "nobody can be told that it failed"),
    ],
)
def test_a_body_that_celery_cannot_handle_is_kept(
    serving: Deployment, task: str, body: bytes, reason: str
) -> None:
    serving.app.send_task(f"sample_operations.{task}", queue="pool.control")
    document = last_published(serving)
    document["body"] = base64.b64encode(body).decode()
    serving.redis.lpush("pool.code", json.dumps(document))
    letter, _ = letter_of(serving, document["headers"]["id"])
    assert letter.reason.startswith(reason)


def test_two_messages_that_claim_one_id_are_both_kept(serving: Deployment) -> None:
    serving.app.send_task("sample_operations.nothing", queue="pool.control")
    document = last_published(serving)
    identifier = document["headers"]["id"]
    pushed = [json.dumps({**document, "number": number}).encode() for number in range(2)]
    serving.redis.lpush("pool.code", *pushed)
    letter_of(serving, identifier)
    with serving.bytes_client() as client:
        letters = DeadLetters(client, "pool.code")

        def both() -> list[str]:
            ids = [it.id for it in letters.list() if it.id.startswith(identifier)]
            return ids if len(ids) == 2 else []

        ids = wait_until(both, "two letters")
        assert sorted(letters.show(its)[1] for its in ids) == sorted(pushed)


def test_retries_in_vain_leave_a_letter_with_the_history_of_attempts(serving: Deployment) -> None:
    result = serving.pool.submit("sample_operations.fail_until", ["in-vain", 99])
    with pytest.raises(ConnectionError, match="told to fail"):
        result.get(timeout=DEADLINE)
    letter, _ = letter_of(serving, result.id)
    assert letter.reason == "failed after 3 retries: ConnectionError('told to fail')"
    assert [attempt["error"] for attempt in letter.history] == [
        "ConnectionError('told to fail')"
    ] * 4
    times = [attempt["at"] for attempt in letter.history]
    assert times == sorted(times)
    shown = serving.run("pooltasks", "dead", "show", "code", result.id)
    told, _, _ = shown.stdout.partition("\n{")  # the message itself has them too
    assert told.count("ConnectionError('told to fail')") == 5


def test_a_letter_that_is_retried_has_all_its_retries_again(serving: Deployment) -> None:
    result = serving.pool.submit("sample_operations.fail_until", ["again", 6])
    with pytest.raises(ConnectionError):
        result.get(timeout=DEADLINE)
    letter_of(serving, result.id)
    done = serving.run("pooltasks", "dead", "retry", "code", result.id)
    assert done.stdout == "1 sent again\n"
    wait_until(lambda: serving.app.AsyncResult(result.id).successful(), "it succeeds at last")
    assert serving.redis.get("again") == "6"
    assert serving.run("pooltasks", "dead", "retry", "code", result.id).returncode == 1


def test_what_an_operation_rejects_keeps_its_reason(serving: Deployment) -> None:
    result = serving.pool.submit("sample_operations.reject", ["not on a Tuesday"])
    with pytest.raises(Reject):
        result.get(timeout=DEADLINE)
    letter, _ = letter_of(serving, result.id)
    assert letter.reason == "rejected by the operation: not on a Tuesday"


def test_a_message_that_is_too_large_is_set_aside_unread(serving: Deployment) -> None:
    serving.app.send_task("sample_operations.echo", queue="pool.control")
    document = last_published(serving)
    document["body"] = "x" * (MAX_MESSAGE_BYTES * 3 // 2)
    serving.redis.lpush("pool.code", json.dumps(document))
    letter, _ = letter_of(serving, document["headers"]["id"])
    assert "the limit is" in letter.reason


def test_an_operation_without_memory_fails_alone(serving: Deployment) -> None:
    result = serving.pool.submit("sample_operations.exhaust_memory")
    with pytest.raises(MemoryError):
        result.get(timeout=DEADLINE)
    assert serving.pool.execute("sample_operations.echo", ["after"], timeout=DEADLINE) == "after"
    assert serving.nodes[0].poll() is None
    assert "Unrecoverable" not in serving.log()
