"""The operations of the pool ``words``: two examples, to be replaced by your own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pooltasks import operation


@operation(pool="words", timeout=5)
def count(text: str, most: int = 3) -> dict[str, int]:
    """Return the most frequent words of a text, and how often each occurs."""
    return _most_frequent(text, most)


@operation(pool="words", timeout=5, client_errors=(FileNotFoundError,))
def count_in(path: str, most: int = 3) -> dict[str, int]:
    """Return what ``count`` returns, for a file that the worker can read.

    Raises:
        FileNotFoundError: There is no such file. The caller named it, so this is
            no failure of the pool.
    """
    return _most_frequent(Path(path).read_text("utf-8"), most)


def _most_frequent(text: str, most: int) -> dict[str, int]:
    return dict(Counter(text.lower().split()).most_common(most))
