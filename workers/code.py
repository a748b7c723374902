"""The pool ``code``: measures of Python source files, from their syntax trees.

Cyclomatic complexity is that of T. J. McCabe, "A Complexity Measure", IEEE
Transactions on Software Engineering SE-2(4), 1976: for a function with one entry
and one exit it is one more than its number of decisions. These count:

==================================================  ==========
``if``, ``elif``, conditional expression            1 each
``for``, ``async for``, ``while``                   1 each
``except``                                          1 each
``for`` and ``if`` of a comprehension               1 each
``and``, ``or`` with n operands                     n - 1
``assert``                                          1
``case`` that can fail to match                     1
==================================================  ==========

``else``, ``finally``, ``with`` and a ``case`` that always matches (``case _`` or a
bare name, without a guard) add nothing. A nested function or a method is counted
on its own and adds nothing to the function around it; its decorators, defaults
and annotations belong to that one. A ``lambda`` is part of the function that
holds it. Code outside every function is not counted.
"""

from __future__ import annotations

import ast
import io
import warnings
from dataclasses import dataclass, field
from typing import TypedDict

from pooltasks import operation

MOST_COMPLEX = 10
"""How many functions a report names; a result stays small however long the file is."""

_DECISIONS = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
)


class UnparsableSourceError(ValueError):
    """The source is not a Python program of this interpreter's version."""


class FunctionComplexity(TypedDict):
    """One function: its qualified name, its ``def`` line (from 1) and its complexity (from 1)."""

    name: str
    line: int
    complexity: int


class FunctionLength(TypedDict):
    """One function: its qualified name, its ``def`` line (from 1) and its number of lines."""

    name: str
    line: int
    lines: int


class Report(TypedDict):
    """The result of :func:`analyze`. Counts are whole numbers, the average a float (0 if none)."""

    path: str
    lines: int
    functions: int
    classes: int
    total_complexity: int
    average_complexity: float
    most_complex: FunctionComplexity | None
    most_complex_functions: list[FunctionComplexity]
    longest_function: FunctionLength | None
    imports: list[str]


@dataclass
class Function:
    """A function as it is measured: lines from ``def`` to its end, without decorators."""

    name: str
    line: int
    lines: int
    complexity: int = 1


@dataclass
class Module:
    """The findings of one walk over a syntax tree; functions in the order of their lines."""

    functions: list[Function] = field(default_factory=list)
    classes: int = 0
    imports: set[str] = field(default_factory=set)


_Entry = tuple[ast.AST, str, Function | None]
"""A node to visit, the prefix of names defined there, and the function around it."""


@operation(pool="code")
def analyze(source: str, path: str = "<string>") -> Report:
    """Measure one Python source file.

    Args:
        source: The text of the file.
        path: Its name, for the report and for errors; nothing is opened.

    Returns:
        Lines, functions (methods and ``async def`` included, lambdas not),
        classes, total and average cyclomatic complexity, the most complex
        function and the ten most complex (ties: first in the file), the longest
        function, and the top-level names of the modules it imports absolutely,
        anywhere in it, sorted. Function names are qualified names, such as
        ``Class.method`` or ``outer.<locals>.inner``.

    Raises:
        UnparsableSourceError: The source is not Python of this version, holds a
            null byte or a lone surrogate, or is nested too deeply to be parsed.
    """
    return report(measure(parse(source, path)), source, path)


def parse(source: str, path: str) -> ast.Module:
    """Return the syntax tree of ``source``; the parser's warnings are dropped.

    Raises:
        UnparsableSourceError: As :func:`analyze`.
    """
    try:
        with warnings.catch_warnings():
            # About the code that is measured, such as invalid escapes: not ours to report.
            warnings.simplefilter("ignore")
            return ast.parse(source, filename=path)
    except SyntaxError as error:
        place = path if error.lineno is None else f"{path}:{error.lineno}"
        reason = error.msg
    except UnicodeEncodeError:
        # A lone surrogate, which stands for a byte that could not be decoded.
        place, reason = path, "the text is not valid Unicode"
    except ValueError as error:
        # Python 3.11 says so of null bytes; later ones raise SyntaxError.
        place, reason = path, str(error)
    except (RecursionError, MemoryError):
        # The parser raises either when its stack is full, even with memory left.
        place, reason = path, "nested too deeply to be parsed"
    raise UnparsableSourceError(f"{place}: {reason}")


def measure(tree: ast.Module) -> Module:
    """Walk a syntax tree once and measure its functions, classes and imports."""
    module = Module()
    # A stack instead of recursion: a tree may be deeper than Python's own stack.
    pending: list[_Entry] = [(tree, "", None)]
    while pending:
        node, prefix, function = pending.pop()
        if function is not None:
            function.complexity += decisions(node)
        children: list[_Entry] = [(child, prefix, function) for child in ast.iter_child_nodes(node)]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            last_line = node.end_lineno or node.lineno
            inner = Function(prefix + node.name, node.lineno, last_line - node.lineno + 1)
            module.functions.append(inner)
            children = _enter(node, children, f"{inner.name}.<locals>.", inner)
        elif isinstance(node, ast.ClassDef):
            module.classes += 1
            children = _enter(node, children, f"{prefix}{node.name}.", function)
        elif isinstance(node, ast.Import):
            module.imports.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module.imports.add(node.module.partition(".")[0])
        pending.extend(children)
    module.functions.sort(key=lambda function: function.line)
    return module


def decisions(node: ast.AST) -> int:
    """Return how many decisions this node adds by itself, without its children."""
    if isinstance(node, _DECISIONS):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        return 0 if _always_matches(node) else 1
    return 0


def report(module: Module, source: str, path: str) -> Report:
    """Return the report of a file, small enough to be a result."""
    by_complexity = sorted(
        module.functions, key=lambda function: (-function.complexity, function.line)
    )
    most_complex = [
        FunctionComplexity(name=it.name, line=it.line, complexity=it.complexity)
        for it in by_complexity[:MOST_COMPLEX]
    ]
    longest = max(module.functions, key=lambda function: function.lines, default=None)
    total = sum(function.complexity for function in module.functions)
    return Report(
        path=path,
        # Newlines as Python reads them: \n, \r\n and \r.
        lines=sum(1 for _ in io.StringIO(source, newline=None)),
        functions=len(module.functions),
        classes=module.classes,
        total_complexity=total,
        average_complexity=total / len(module.functions) if module.functions else 0.0,
        most_complex=most_complex[0] if most_complex else None,
        most_complex_functions=most_complex,
        longest_function=(
            FunctionLength(name=longest.name, line=longest.line, lines=longest.lines)
            if longest
            else None
        ),
        imports=sorted(module.imports),
    )


def _enter(
    definition: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef,
    children: list[_Entry],
    prefix: str,
    function: Function | None,
) -> list[_Entry]:
    """Give the body of a definition its own scope; decorators and defaults stay outside."""
    body = set(map(id, definition.body))
    return [
        (child, prefix, function) if id(child) in body else (child, outer_prefix, outer)
        for child, outer_prefix, outer in children
    ]


def _always_matches(case: ast.match_case) -> bool:
    pattern = case.pattern
    return case.guard is None and isinstance(pattern, ast.MatchAs) and pattern.pattern is None
