"""An operation that says which version ran it, and of which one version fails now and then."""

from __future__ import annotations

from celery import current_app

from pooltasks import operation


@operation(pool="code")
def serve(number: int) -> tuple[str, float]:
    """Return the version of this node and the server's time; the version ``bad`` fails 2 %."""
    extension = current_app.pooltasks
    version: str = extension.settings.version
    if version == "bad" and number % 50 == 0:
        raise RuntimeError("not as it was before")
    return version, extension.clock.now()
