"""An operation is one trace, from the producer to a worker of a node."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from deployment import DEADLINE, Deployment, wait_until
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pooltasks import Pool
from pooltasks.tracing import PooltasksInstrumentor

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE_WORKER = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 1
"""


@pytest.fixture
def published() -> Iterator[InMemorySpanExporter]:
    """The spans of this process, a producer."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = PooltasksInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield exporter
    instrumentor.uninstrument()
    provider.shutdown()


@pytest.fixture
def pool(deployment: Deployment) -> Pool:
    """A pool whose node runs under ``opentelemetry-instrument`` and prints its spans."""
    pool = Pool("code", app=deployment.configure(ONE_WORKER))
    deployment.environment |= {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    program = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
    deployment.start_node("-Q", "pool.code", under=[program])
    return pool


def printed(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """Return the spans that the node's worker has printed, by name."""
    log = deployment.log()
    spans, at = {}, log.find('{\n    "name"')
    while at >= 0:
        try:
            span, _ = json.JSONDecoder().raw_decode(log, at)
        except json.JSONDecodeError:
            break  # it is being printed
        spans[span["name"]] = span
        at = log.find('{\n    "name"', at + 1)
    return spans


def test_publish_wait_and_run_are_spans_of_one_trace(
    deployment: Deployment, pool: Pool, published: InMemorySpanExporter
) -> None:
    pool.submit("sample_operations.occupy", [0.4])
    echo = pool.submit("sample_operations.echo")
    pool.submit("sample_operations.fail").get(timeout=DEADLINE, propagate=False)
    names = {
        f"{what}/sample_operations.{operation}"
        for what in ("wait", "run")
        for operation in ("occupy", "echo", "fail")
    }
    spans = wait_until(
        lambda: names <= (its := printed(deployment)).keys() and its,
        f"spans of a worker; the log:\n{deployment.log()[-3000:]}",
    )

    (producer,) = [
        span
        for span in published.get_finished_spans()
        if span.name == "apply_async/sample_operations.echo"
    ]
    context = producer.get_span_context()
    wait, run = spans["wait/sample_operations.echo"], spans["run/sample_operations.echo"]
    for span in (wait, run):
        assert span["context"]["trace_id"] == f"0x{context.trace_id:032x}"
        assert span["parent_id"] == f"0x{context.span_id:016x}"
        assert span["attributes"]["pooltasks.pool"] == "code"
        assert span["attributes"]["pooltasks.node"].startswith("code@")
        assert span["attributes"]["pooltasks.worker"] != deployment.nodes[0].pid
        assert span["attributes"]["pooltasks.wait"] > 0.3  # behind the one before it
    assert run["attributes"]["messaging.message.id"] == echo.id
    assert wait["start_time"] < wait["end_time"] <= run["end_time"]
    failed = spans["run/sample_operations.fail"]
    assert failed["status"]["status_code"] == "ERROR"
    assert failed["context"]["trace_id"] != run["context"]["trace_id"]
