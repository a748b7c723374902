"""What a node's program imports has functions without docstrings."""

from __future__ import annotations

import sys
from inspect import cleandoc

import pytest

from pooltasks.node import docstrings
from pooltasks.node.docstrings import without_docstrings

SOURCE = '''
"""A module."""


class Kind:
    """A class."""

    def method(self):
        """A method."""

        def inner():
            """An inner function."""
            return "a text", inner.__doc__

        return inner()


def same():
    """same"""
    return "same"


async def wait():
    """A coroutine."""


nothing = lambda: "nothing"
texts = ["first" for _ in range(2)]
'''


@pytest.fixture
def run():
    def run(code):
        names = {}
        exec(code, names)  # noqa: S102  it is ours
        return names

    return run


def test_functions_lose_them_and_all_else_stays(run):
    its = run(without_docstrings(compile(SOURCE, "its.py", "exec")))
    assert its["__doc__"] == "A module."
    assert its["Kind"].__doc__ == "A class."
    assert its["Kind"].method.__doc__ is its["wait"].__doc__ is None
    assert its["Kind"]().method() == ("a text", None)
    assert its["nothing"]() == "nothing"
    assert its["texts"] == ["first"] * 2


def test_a_docstring_that_the_function_uses_stays(run):
    assert run(without_docstrings(compile(SOURCE, "its.py", "exec")))["same"]() == "same"


def test_only_what_is_imported_meanwhile_loses_them(tmp_path, monkeypatch):
    text = cleandoc('''
        def function():
            """A function."""
    ''')
    for name in ("imported_meanwhile", "imported_later"):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.meta_path)
    with docstrings.left_out():
        import imported_meanwhile  # noqa: PLC0415
    import imported_later  # noqa: PLC0415

    assert sys.meta_path == before
    assert imported_meanwhile.function.__doc__ is None
    assert imported_later.function.__doc__ == "A function."
