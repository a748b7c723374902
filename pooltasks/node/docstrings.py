"""Docstrings of functions: a node and its workers, which are forked, do without them.

Nobody reads them there, and those of Celery, redis-py and pydantic take a megabyte of each
process. ``python -OO`` leaves them out too, but with them the ``assert`` statements of the
application.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from importlib.machinery import PathFinder, SourceFileLoader
from opcode import hasconst
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


def without_docstrings(code: CodeType) -> CodeType:
    """Return the same code without docstrings of functions; classes and modules keep theirs."""
    constants = [
        without_docstrings(each) if isinstance(each, CodeType) else each for each in code.co_consts
    ]
    if code.co_flags & _IS_OF_FUNCTION and constants and isinstance(constants[0], str):
        # The function may return the same text: then it stays.
        steps = zip(code.co_code[::2], code.co_code[1::2], strict=True)
        if not any(place == 0 and operation in hasconst for operation, place in steps):
            constants[0] = None
    return code.replace(co_consts=tuple(constants))


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
