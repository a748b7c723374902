"""Docstrings of functions: a node and its workers, which are forked, do without them.

Nobody reads a docstring there, and the docstrings of Celery, redis-py and pydantic take a
megabyte of each process. ``python -OO`` leaves docstrings out too, but with them the ``assert``
statements of the application.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.machinery import PathFinder, SourceFileLoader
from opcode import hasconst
from operator import is_
from types import CodeType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_HELP = "celery.bin."
"""Docstrings of Celery's commands are what --help says."""
_IS_OF_FUNCTION = 1
"""The flag of code that is a function's: CO_OPTIMIZED of :mod:`inspect`."""
_USES = [bytes((operation, 0)) for operation in hasconst]
"""The steps of code that use the first constant, which is the docstring."""


def without_docstrings(code: CodeType) -> CodeType:
    """Return the same code without docstrings of functions; classes and modules keep theirs."""
    constants = tuple(
        without_docstrings(each) if isinstance(each, CodeType) else each for each in code.co_consts
    )
    if code.co_flags & _IS_OF_FUNCTION and constants and isinstance(constants[0], str):
        # The function may return the same text: then it stays.
        steps = code.co_code
        if not any(step in steps for step in _USES):
            constants = (None, *constants[1:])
    is_the_same = all(map(is_, constants, code.co_consts))
    return code if is_the_same else code.replace(co_consts=constants)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        code = super().get_code(fullname)
        return code and without_docstrings(code)


class _Finder:
    """Finds what Python would find in files."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.startswith(_HELP):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


@contextmanager
def left_out() -> Iterator[None]:
    """Have modules that are imported meanwhile have functions without docstrings."""
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
