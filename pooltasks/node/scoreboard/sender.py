"""The sender of a node's samples and errors, over its session."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.metrics.error_groups import RECORD
from pooltasks.metrics.samples import WRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pooltasks.broker.session import NodeSession


class Sender:
    """Sends the figures of one node; it waits for no answer.

    Args:
        session: The node's.
        prefix: The text that all keys of the deployment begin with; may be empty.
    """

    SCRIPTS = (WRITE, RECORD)

    def __init__(self, session: NodeSession, prefix: str) -> None:
        self._session, self._prefix = session, prefix

    def sample(
        self,
        names: Sequence[str],
        arguments: Sequence[Any],
        on_answer: Callable[[Any], None],
        on_refusal: Callable[[Exception], None],
    ) -> None:
        """Send a sample of the node's work, and renew the lease."""
        its = [keys.prefixed(self._prefix, name) for name in names]
        session = self._session
        if session.track is not None:  # they wait in more lists than the pool's own
            its += (*session.names.stable, *session.names.canary)
        command = WRITE.call(its, arguments)
        with session.together():
            session.watcher.renew_along(time.monotonic())
            session.send(session.side, command, on_answer, on_refusal, again=False)

    def errors(
        self,
        names: Sequence[str],
        arguments: Sequence[Any],
        on_answer: Callable[[Any], None],
        on_refusal: Callable[[Exception], None],
    ) -> None:
        """Send what went wrong."""
        command = RECORD.call([keys.prefixed(self._prefix, name) for name in names], arguments)
        self._session.send(self._session.side, command, on_answer, on_refusal, again=False)
