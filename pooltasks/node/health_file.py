"""The health file: it tells a host how its node is, without a question to node or server.

An orchestrator checks every few seconds whether its container is well. A command that
starts Python, or asks over the server, costs more than an idle node; a look at a file
costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = get_logger(__name__)

INTERVAL = 2.0
"""Seconds between two writes."""


class HealthFile:
    """A file that holds one word, and whose time says when the node's event loop wrote it.

    ``ready``: the node has a warm worker, or will have one when there is work. ``warming``: it
    has none.

    Args:
        path: The file.
        is_ready: Returns whether the node can run an operation.
    """

    def __init__(self, path: Path, is_ready: Callable[[], bool]) -> None:
        self._path = path
        self._is_ready = is_ready
        self._timer: Any = None
        self._has_failed = False

    def start(self, hub: Any) -> None:
        """Write the file from now on; called again when the loop starts anew."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = hub.call_repeatedly(INTERVAL, self.write)
        self.write()

    def write(self) -> None:
        """Write how the node is. A file that cannot be written is no reason to stop."""
        try:
            self._path.write_text("ready\n" if self._is_ready() else "warming\n")
        except OSError as error:
            if not self._has_failed:
                logger.error("health_file: %s cannot be written: %s", self._path, error)  # noqa: TRY400  one line says it
            self._has_failed = True
        else:
            self._has_failed = False
