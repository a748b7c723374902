"""The file that says for a node's host how the node is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pooltasks.node.health_file import HealthFile

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class Hub:
    """Keeps what it is to call."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.cancelled = 0

    def call_repeatedly(self, _: float, call: Any) -> Hub:
        self.calls.append(call)
        return self

    def cancel(self) -> None:
        self.cancelled += 1


def test_the_file_says_whether_a_worker_is_warm(tmp_path: Path) -> None:
    path, hub, warm = tmp_path / "health", Hub(), []
    file = HealthFile(path, lambda: bool(warm))
    file.start(hub)
    assert path.read_text() == "warming\n"
    warm.append(1)
    hub.calls[0]()
    assert path.read_text() == "ready\n"
    file.start(hub)  # the loop starts anew
    assert hub.cancelled == 1


def test_a_file_that_cannot_be_written_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = HealthFile(tmp_path / "missing" / "health", lambda: True)
    file.write()
    file.write()
    assert caplog.text.count("cannot be written") == 1
