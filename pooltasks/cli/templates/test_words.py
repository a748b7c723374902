"""The operations run in the process of the test: no server, no worker, no node."""

from __future__ import annotations

from pathlib import Path

import pytest

from words import count, count_in

pytestmark = pytest.mark.usefixtures("pooltasks_inline")


def test_the_most_frequent_words_come_first() -> None:
    assert count.delay("To be or not to be", most=2).get() == {"to": 2, "be": 2}


def test_a_file_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("yes no yes")
    assert count_in.delay(str(path)).get() == {"yes": 2, "no": 1}


def test_a_file_that_is_not_there_is_an_error_for_the_caller(tmp_path: Path) -> None:
    result = count_in.delay(str(tmp_path / "text.txt"))
    with pytest.raises(FileNotFoundError):
        result.get()
