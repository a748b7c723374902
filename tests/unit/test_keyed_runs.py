"""How chaos runs judge limits and unique operations by the operations' own notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chaos.keyed import KeyedRun, most_at_once, read, too_early

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_ends_with_its_note_its_worker_or_its_node(tmp_path: Path) -> None:
    (tmp_path / "11").write_text(
        "start a x 1.0 7\nend a x 2.0 7\nstart b x 3.0 7\nend b x 9.0 7\nstart d y 9.0 7\nend d"
    )
    (tmp_path / "12").write_text("start c x 1.5 8\n")
    (tmp_path / "13").write_text("start e y 4.0 8\n")
    deaths = {12: 2.5, 7: 8.0}  # a worker, and the node of the first worker
    assert read(tmp_path, deaths) == [
        KeyedRun("a", "x", 1.0, 2.0),
        KeyedRun("c", "x", 1.5, 2.5),
        KeyedRun("b", "x", 3.0, 8.0),
        KeyedRun("e", "y", 4.0, float("inf")),
        KeyedRun("d", "y", 9.0, 9.0),  # of a worker that outlived its node for a moment
    ]


def test_runs_are_at_once_if_one_starts_before_the_other_ends() -> None:
    assert most_at_once([KeyedRun("a", "x", 0, 2), KeyedRun("b", "x", 2, 3)]) == 1
    runs = [KeyedRun("a", "x", 0, 3), KeyedRun("b", "x", 1, 2), KeyedRun("c", "x", 1.5, 4)]
    assert most_at_once(runs) == 3


def test_a_start_is_too_early_if_its_token_was_not_there() -> None:
    assert too_early([0.0, 0.0, 0.1, 0.2], per_second=10, burst=2) == pytest.approx(0.0)
    assert too_early([0.0, 0.0, 0.04], per_second=10, burst=2) == pytest.approx(0.06)
    assert too_early([0.0, 5.0, 5.0], per_second=10, burst=1) == pytest.approx(0.1)
