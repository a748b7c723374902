"""Tracing: operations as spans of OpenTelemetry, from the producer through the queue to the worker.

OpenTelemetry's own instrumentation of Celery makes the spans ``apply_async/<name>``
where an operation is published and ``run/<name>`` where it runs, and carries the
context in the message. This module adds the parts that it does not know: the span
``wait/<name>`` between the two, and the pool, the node and the worker.

``opentelemetry-instrument`` finds :class:`PooltasksInstrumentor` by its entry
point, and the variables ``OTEL_…`` say where spans go. A program that sets up
OpenTelemetry itself calls ``PooltasksInstrumentor().instrument()``; a node does so
in a module that its pool imports.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from celery import signals
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from pooltasks.ages import waited

if TYPE_CHECKING:
    from collections.abc import Collection

    from opentelemetry.context import Context

_RECEIVER = "pooltasks.tracing"


class PooltasksInstrumentor(BaseInstrumentor):
    """Instruments Celery and pools in this process and in the workers that it forks.

    ``instrument()`` takes ``tracer_provider``, by default the global one, and the
    options of OpenTelemetry's ``CeleryInstrumentor``.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the packages that must be installed: none besides those of pooltasks."""
        return []

    def _instrument(self, **options: Any) -> None:
        celery = CeleryInstrumentor()
        self._instruments_celery = not celery.is_instrumented_by_opentelemetry
        if self._instruments_celery:
            celery.instrument(**options)
        self._tracer = trace.get_tracer("pooltasks", tracer_provider=options.get("tracer_provider"))
        # After the receiver of CeleryInstrumentor: then the span of the run has begun.
        signals.task_prerun.connect(self._on_prerun, weak=False, dispatch_uid=_RECEIVER)

    def _uninstrument(self, **_: Any) -> None:
        signals.task_prerun.disconnect(dispatch_uid=_RECEIVER)
        if self._instruments_celery:
            CeleryInstrumentor().uninstrument()

    def _on_prerun(self, task: Any, **_: Any) -> None:
        request = task.request
        extension = getattr(task.app, "pooltasks", None)
        if request.is_eager or extension is None or extension.pool is None:
            return
        attributes: dict[str, str | int | float] = {
            "pooltasks.pool": extension.pool,
            "pooltasks.node": request.hostname,
            "pooltasks.worker": os.getpid(),
        }
        # An operation that comes back from a dead worker or node had its wait before.
        redelivered = bool((request.delivery_info or {}).get("redelivered"))
        wait = None if redelivered else waited(request, extension.clock.now())
        if wait is not None:
            attributes["pooltasks.wait"] = wait
            now = time.time_ns()
            span = self._tracer.start_span(
                f"wait/{task.name}",
                context=_context_of(request),
                start_time=now - int(wait * 1e9),
                attributes=attributes,
            )
            span.end(now)
        trace.get_current_span().set_attributes(attributes)


def _context_of(request: Any) -> Context:
    """Return the context that the message brought, so that wait and run have the same parent."""
    fields = propagate.get_global_textmap().fields
    values = {field: request.get(field) for field in fields}
    return propagate.extract({k: v for k, v in values.items() if isinstance(v, str)})
