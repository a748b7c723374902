"""The span of a wait, and what the span of a run is told about its pool."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from celery import signals
from celery.app.task import Context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pooltasks.tracing import PooltasksInstrumentor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pooltasks.app import PoolApp


class Resize:
    """What the receivers of Celery's signals look at in a task."""

    name = "shop.resize"

    def __init__(self, app: PoolApp, request: Context) -> None:
        self.app = app
        self.request = request


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    PooltasksInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    PooltasksInstrumentor().uninstrument()
    provider.shutdown()


@pytest.fixture
def run(
    make_app: Callable[..., PoolApp], spans: InMemorySpanExporter
) -> Callable[..., dict[str, ReadableSpan]]:
    """Run an operation as Celery's signals tell it; return the spans by what they are of."""

    def run(pool: str | None = "code", **request: Any) -> dict[str, ReadableSpan]:
        facts = {"id": "1", "hostname": "code@here", "is_eager": False, **request}
        task = Resize(make_app(pool=pool), Context(facts))
        signals.task_prerun.send(sender=task, task=task, task_id="1")
        signals.task_postrun.send(sender=task, task=task, task_id="1", retval=None, state="SUCCESS")
        assert not trace.get_current_span().get_span_context().is_valid
        return {span.name.partition("/")[0]: span for span in spans.get_finished_spans()}

    return run


def test_wait_and_run_follow_the_span_that_published(
    run: Callable[..., dict[str, ReadableSpan]],
) -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    its = run(published_at=time.time() - 2, traceparent=parent)
    assert its.keys() == {"wait", "run"}
    for span in its.values():
        assert span.context is not None
        assert span.parent is not None
        assert f"{span.context.trace_id:032x}" == "a" * 32
        assert f"{span.parent.span_id:016x}" == "b" * 16
        assert span.attributes is not None
        assert span.attributes["pooltasks.pool"] == "code"
        assert span.attributes["pooltasks.node"] == "code@here"
        assert span.attributes["pooltasks.worker"] == os.getpid()
        assert span.attributes["pooltasks.wait"] == pytest.approx(2, abs=0.5)
    wait = its["wait"]
    assert wait.start_time is not None
    assert wait.end_time is not None
    assert (wait.end_time - wait.start_time) / 1e9 == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize(
    "request_",
    [{}, {"published_at": 1.8e9, "delivery_info": {"redelivered": True}}],
    ids=["does not say", "redelivered"],
)
def test_a_wait_that_is_not_known_has_no_span(
    run: Callable[..., dict[str, ReadableSpan]], request_: dict[str, Any]
) -> None:
    its = run(**request_)
    assert its.keys() == {"run"}
    assert its["run"].attributes is not None
    assert its["run"].attributes["pooltasks.pool"] == "code"
    assert "pooltasks.wait" not in its["run"].attributes


@pytest.mark.parametrize("other", [{"pool": None}, {"is_eager": True}])
def test_what_runs_outside_a_pool_is_left_to_celerys_instrumentation(
    run: Callable[..., dict[str, ReadableSpan]], other: dict[str, Any]
) -> None:
    its = run(published_at=time.time(), **other)
    assert its.keys() == {"run"}
    assert its["run"].attributes is not None
    assert not [name for name in its["run"].attributes if name.startswith("pooltasks")]
