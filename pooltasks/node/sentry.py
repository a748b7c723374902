"""Sentry's client sends from a thread; a worker's last reports have to leave before it ends.

The client's own hook for this wraps billiard's loop, which a worker of ours replaces.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import signals

_SECONDS = 2.0


def send_before_exit() -> None:
    """Have each worker of this node send its last reports before it ends, if Sentry is in use."""
    if "sentry_sdk" in sys.modules:
        signals.worker_process_shutdown.connect(_send, weak=False, dispatch_uid="pooltasks.sentry")


def _send(**_: Any) -> None:
    sys.modules["sentry_sdk"].flush(timeout=_SECONDS)
