"""The body of a chord is published, whenever the worker of its last part dies."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from celery.app.task import Context
from flow import QUEUE, make_app, make_operation


class Died(BaseException):
    """The worker is gone."""


@pytest.fixture
def server(valkey_url: str) -> Any:
    with redis.Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
def app(valkey_url: str) -> Any:
    app = make_app(valkey_url)
    yield app
    app.close()


def die(*_: Any, **__: Any) -> None:
    raise Died


def test_the_body_of_a_chord_outlives_the_worker_that_claimed_it(
    app: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = make_operation(app).s(note="body")
    backend = app.backend
    backend.set_chord_size("group-1", 2)
    parts = [
        Context(
            {"id": f"part-{place}", "group": "group-1", "group_index": place, "chord": dict(body)}
        )
        for place in range(2)
    ]
    backend.on_chord_part_return(parts[0], "SUCCESS", 7)
    with monkeypatch.context() as patch:
        patch.setattr(type(backend), "_chord_claim_extend_script", property(lambda _: die))
        with pytest.raises(Died):
            backend.on_chord_part_return(parts[1], "SUCCESS", 8)
    # Another part that returns again does not take the claim of one that may live.
    backend.on_chord_part_return(parts[0], "SUCCESS", 7)
    assert server.llen(QUEUE) == 0
    for _ in range(2):
        backend.on_chord_part_return(parts[1], "SUCCESS", 8)
        assert server.llen(QUEUE) == 1
