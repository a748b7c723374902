"""Celery's canvas works with operations as Celery documents it, on our transport and on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from celery import chain, chord, group
from celery.exceptions import ChordError
from celery.result import GroupResult
from deployment import DEADLINE, Deployment, wait_until

if TYPE_CHECKING:
    from celery import Signature

# Celery's own call, of a command that redis-py would rather see spelt otherwise.
pytestmark = [pytest.mark.filterwarnings("ignore:Call to deprecated setex"), pytest.mark.long]


class Canvas:
    """Signatures of the operations, bound to the deployment's application."""

    def __init__(self, deployment: Deployment) -> None:
        self.app = deployment.app
        self.redis = deployment.redis

    def __getattr__(self, operation: str) -> Any:
        return self.app.tasks[f"conformance_operations.{operation}"]

    def notes(self, key: str, number: int = 1) -> list[str]:
        """Return what was noted under ``key`` once there are ``number`` of them."""
        wait_until(lambda: self.redis.llen(key) >= number, f"{number} notes in {key}")
        return self.redis.lrange(key, 0, -1)


@pytest.fixture
def canvas(either_path: Deployment) -> Canvas:
    return Canvas(either_path)


@pytest.fixture
def key() -> str:
    """A name in Redis that no other test uses."""
    return f"test:{uuid4()}"


def result_of(signature: Signature) -> Any:
    return signature.apply_async().get(timeout=DEADLINE)


def test_a_group_gives_its_results_in_order(canvas: Canvas) -> None:
    result = group(canvas.add.s(number, 1) for number in range(20)).apply_async()
    assert result.get(timeout=DEADLINE) == list(range(1, 21))
    assert result.successful()
    assert result.completed_count() == 20


def test_an_error_in_a_group_is_raised_and_the_others_have_their_results(canvas: Canvas) -> None:
    result = group(
        canvas.add.s(1, 1), canvas.fail.s("in a group"), canvas.add.s(2, 2)
    ).apply_async()
    with pytest.raises(ValueError, match="in a group"):
        result.get(timeout=DEADLINE)
    first, error, last = result.get(timeout=DEADLINE, propagate=False)
    assert (first, last) == (2, 4)
    assert isinstance(error, ValueError)
    assert result.failed()


def test_a_saved_group_is_restored_by_its_id_and_deleted(canvas: Canvas) -> None:
    result = group(canvas.add.s(number, number) for number in range(3)).apply_async()
    result.save()
    restored = GroupResult.restore(result.id, app=canvas.app)
    assert restored is not None
    assert restored.get(timeout=DEADLINE) == [0, 2, 4]
    assert 0 < canvas.redis.ttl(f"celery-taskset-meta-{result.id}") <= 86400
    restored.delete()
    assert GroupResult.restore(result.id, app=canvas.app) is None


def test_a_chain_hands_each_result_to_the_next(canvas: Canvas) -> None:
    result = chain(canvas.add.s(1, 2), canvas.add.s(4), canvas.add.s(8)).apply_async()
    assert result.get(timeout=DEADLINE) == 15
    assert result.parent.get(timeout=DEADLINE) == 7
    assert result.parent.parent.get(timeout=DEADLINE) == 3


def test_the_pipe_operator_and_immutable_signatures(canvas: Canvas) -> None:
    assert result_of(canvas.add.s(1, 2) | canvas.add.si(10, 20) | canvas.add.s(4)) == 34


def test_a_chain_ends_at_an_error_and_its_errback_runs(
    canvas: Canvas, key: str, path_key: str
) -> None:
    broken = chain(canvas.add.s(1, 2), canvas.paint.si("red"), canvas.note.si(path_key))
    result = broken.apply_async(link_error=canvas.on_error.s(key))
    with pytest.raises(Exception, match="red") as raised:
        result.get(timeout=DEADLINE)
    assert type(raised.value).__name__ == "OutOfPaint"
    (noted,) = canvas.notes(key)
    assert noted == f"{result.parent.id} OutOfPaint('red', 2.5)"
    assert not canvas.redis.exists(path_key)


@pytest.fixture
def path_key() -> str:
    """Another one, for what must not be reached."""
    return f"test:{uuid4()}"


def test_a_group_in_a_chain_becomes_a_chord(canvas: Canvas) -> None:
    workflow = canvas.add.s(1, 1) | group(canvas.add.s(1), canvas.add.s(2)) | canvas.total.s()
    assert result_of(workflow) == 7


def test_a_chord_calls_its_body_with_all_results(canvas: Canvas) -> None:
    assert result_of(chord([canvas.add.s(n, n) for n in range(30)], canvas.total.s())) == 870


def test_a_chord_of_one_and_a_chord_of_none(canvas: Canvas) -> None:
    assert result_of(chord([canvas.add.s(1, 1)], canvas.total.s())) == 2
    assert result_of(chord([], canvas.total.s())) == 0


def test_chords_nest(canvas: Canvas) -> None:
    inner = [chord([canvas.add.s(n, 1), canvas.add.s(n, 2)], canvas.total.s()) for n in range(3)]
    assert result_of(chord(inner, canvas.total.s())) == 15
    body = chord([canvas.add.s(1, 1), canvas.add.s(2, 2)], canvas.total.s()) | canvas.add.s(100)
    assert result_of(body) == 106


def test_a_group_of_chains_ends_in_one_body(canvas: Canvas) -> None:
    chains = group(canvas.add.s(n, 1) | canvas.add.s(10) for n in range(4))
    assert result_of(chains | canvas.total.s()) == 50


def test_an_error_in_a_chord_fails_its_body_and_calls_the_errback(canvas: Canvas, key: str) -> None:
    body = canvas.total.s().on_error(canvas.on_error.s(key))
    result = chord([canvas.add.s(1, 1), canvas.fail.s("in a chord")])(body)
    with pytest.raises(ValueError, match="in a chord"):
        result.get(timeout=DEADLINE)  # the parent's error comes first
    error = result.get(timeout=DEADLINE, propagate=False)
    assert isinstance(error, ChordError)
    assert "in a chord" in str(error)
    assert "in a chord" in canvas.notes(key)[0]


def test_an_error_in_a_nested_chord_reaches_the_outermost_body(canvas: Canvas) -> None:
    inner = chord([canvas.add.s(1, 1), canvas.fail.s("far inside")], canvas.total.s())
    result = chord([canvas.add.s(1, 1), inner], canvas.total.s()).apply_async()
    with pytest.raises(ChordError, match="far inside"):
        result.get(timeout=DEADLINE)


def test_starmap_map_and_chunks(canvas: Canvas) -> None:
    assert result_of(canvas.add.starmap([(1, 2), (3, 4)])) == [3, 7]
    assert result_of(canvas.total.map([[1, 2], [3]])) == [3, 3]
    chunks = canvas.add.chunks(zip(range(6), range(6), strict=True), 4).apply_async()
    assert chunks.get(timeout=DEADLINE) == [[0, 2, 4, 6], [8, 10]]


def test_link_and_link_error(canvas: Canvas, key: str, path_key: str) -> None:
    canvas.add.apply_async((1, 2), link=canvas.note.s(), link_error=canvas.note.si(path_key))
    canvas.add.apply_async((1, 2), link=[canvas.note.si(key, "first"), canvas.note.si(key, "then")])
    assert sorted(canvas.notes(key, 2)) == ["first", "then"]
    failed = canvas.fail.apply_async(link_error=[canvas.on_error_by_id.s(f"{key}:old")])
    assert canvas.notes(f"{key}:old") == [failed.id]
    assert canvas.notes("3") == ["noted"], "the result of add was the name under which it noted"
    assert not canvas.redis.exists(path_key)


def test_an_operation_is_replaced_by_another_a_chain_or_a_group(canvas: Canvas) -> None:
    assert result_of(canvas.become.s(canvas.add.s(3, 4))) == 7
    assert result_of(canvas.become.s(canvas.add.s(3, 4) | canvas.add.s(5))) == 12
    assert result_of(canvas.become.s(group(canvas.add.s(1, 1), canvas.add.s(2, 2)))) == [2, 4]
    assert result_of(canvas.become.s(canvas.add.s(3, 4)) | canvas.add.s(10)) == 17


def test_children_parent_and_root_are_known(canvas: Canvas) -> None:
    starter = canvas.start_another.delay()
    child_id = starter.get(timeout=DEADLINE)
    (child,) = starter.children
    assert child.id == child_id
    assert child.get(timeout=DEADLINE) == 5
    assert [value for _, value in starter.collect(timeout=DEADLINE)] == [child_id, 5]

    result = (canvas.add.s(1, 2) | canvas.tell_request.s()).apply_async()
    told = result.get(timeout=DEADLINE)
    assert told["root_id"] == told["parent_id"] == result.parent.id


def test_stamps_and_headers_travel(canvas: Canvas) -> None:
    signature = canvas.tell_request.s()
    signature.stamp(customer="c-7")
    assert result_of(signature)["stamps"] == {"customer": "c-7"}
    told = canvas.tell_request.apply_async(headers={"colour": "red"}).get(timeout=DEADLINE)
    assert told["headers"] == {"colour": "red"}


def test_a_plain_celery_task_runs_in_a_pool_and_in_its_canvas(canvas: Canvas) -> None:
    assert canvas.plain_add.apply_async((1, 2)).get(timeout=DEADLINE) == 3
    members = [canvas.plain_add.s(1, 2), canvas.add.s(3, 4)]
    assert result_of(chord(members, canvas.total.s())) == 10


def test_the_members_of_a_group_know_it(canvas: Canvas) -> None:
    result = group(canvas.tell_request.s() for _ in range(3)).apply_async()
    told = result.get(timeout=DEADLINE)
    assert [its["group_index"] for its in told] == [0, 1, 2]
    assert {its["group"] for its in told} == {result.id}
