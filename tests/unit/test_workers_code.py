"""The measures of workers/code.py against complexities counted by hand."""

import ast
import json
import textwrap
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.code import (
    MOST_COMPLEX,
    UnparsableSourceError,
    analyze,
    decisions,
    measure,
    parse,
    report,
)


def analyzed(source, path="example.py"):
    source = textwrap.dedent(source)
    return report(measure(parse(source, path)), source, path)


def complexities(source):
    tree = parse(textwrap.dedent(source), "example.py")
    return {function.name: function.complexity for function in measure(tree).functions}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", 1),
        ("if a: pass", 2),
        ("if a: pass\nelse: pass", 2),
        ("if a: pass\nelif b: pass\nelif c: pass\nelse: pass", 4),
        ("for x in a: pass\nelse: pass", 2),
        ("while a: pass\nelse: pass", 2),
        ("try: pass\nexcept A: pass\nexcept (B, C): pass\nelse: pass\nfinally: pass", 3),
        ("try: pass\nexcept* A: pass", 2),
        ("try: pass\nfinally: pass", 1),
        ("with a, b: pass", 1),
        ("return a and b and c", 3),
        ("return a and b or c", 3),
        ("return not a", 1),
        ("return a < b < c", 1),
        ("return a if b else c", 2),
        ("assert a, b", 2),
        ("return [x for x in a]", 2),
        ("return {x for x in a if b if c}", 4),
        ("return {x: y for x in a for y in b}", 3),
        ("return sum(x for x in a if b)", 3),
        ("return lambda: a if b else c", 2),
        ("if a and b:\n    for x in c:\n        assert x", 5),
        ("match a:\n    case 1: pass\n    case 2 | 3: pass\n    case _: pass", 3),
        ("match a:\n    case 1: pass\n    case x: pass", 2),
        ("match a:\n    case [x]: pass\n    case _ if x: pass", 3),
        ("match a:\n    case int() as x: pass", 2),
    ],
)
def test_complexity_is_one_more_than_the_decisions(body, expected):
    function = "def f():\n" + textwrap.indent(body, "    ")
    assert complexities(function) == {"f": expected}


def test_async_statements_count_as_their_plain_forms():
    source = """
        async def f():
            async for x in a:
                pass
            async with b:
                pass
            return [x async for x in c if x]
    """
    assert complexities(source) == {"f": 4}


def test_nested_functions_and_methods_are_counted_on_their_own():
    source = """
        def outer():
            def inner():
                if a: pass
            class Local:
                x = 1 if a else 2
                def method(self):
                    while a: pass
            if b: pass

        class C:
            def method(self):
                return a or b
    """
    assert complexities(source) == {
        "outer": 3,  # its own if, and the class body that it runs
        "outer.<locals>.inner": 2,
        "outer.<locals>.Local.method": 2,
        "C.method": 2,
    }


def test_decorators_and_defaults_belong_to_the_function_around():
    source = """
        def outer():
            @(a or b)
            def inner(x=1 if a else 2) -> (c and d): pass
    """
    assert complexities(source) == {"outer": 4, "outer.<locals>.inner": 1}


def test_code_outside_functions_has_no_complexity():
    result = analyzed("if a and b: pass\nx = [y for y in z]\n")
    assert (result["functions"], result["total_complexity"], result["average_complexity"]) == (
        0,
        0,
        0,
    )
    assert result["most_complex"] is None
    assert result["longest_function"] is None
    assert result["most_complex_functions"] == []


def test_a_whole_file_is_reported():
    result = analyzed(
        '''\
        """A module."""
        import os.path, sys as system
        from collections.abc import Iterable
        from . import sibling
        from .package import other

        class C:
            @property
            def a(self):
                return 1

            async def b(self):
                import json
                if self:
                    return json

        f = lambda: 0
        def last(): return a or b
        '''
    )
    assert result == {
        "path": "example.py",
        "lines": 18,
        "functions": 3,
        "classes": 1,
        "total_complexity": 5,
        "average_complexity": 5 / 3,
        "most_complex": {"name": "C.b", "line": 12, "complexity": 2},
        "most_complex_functions": [
            {"name": "C.b", "line": 12, "complexity": 2},
            {"name": "last", "line": 18, "complexity": 2},
            {"name": "C.a", "line": 9, "complexity": 1},
        ],
        "longest_function": {"name": "C.b", "line": 12, "lines": 4},
        "imports": ["collections", "json", "os", "sys"],
    }


def test_only_the_ten_most_complex_functions_are_returned():
    source = "".join(
        f"def f{n}():\n    return {' or '.join('a' * (n + 1))}\n" for n in range(1, 13)
    )
    found = analyzed(source)["most_complex_functions"]
    assert [it["name"] for it in found] == [f"f{n}" for n in range(12, 2, -1)]
    assert len(found) == MOST_COMPLEX


@pytest.mark.parametrize(
    ("source", "lines"),
    [("", 0), ("x", 1), ("x\n", 1), ("x\ny", 2), ("x\r\ny\r\n", 2), ("x\ry", 2)],
)
def test_lines_end_as_python_ends_them(source, lines):
    assert analyzed(source)["lines"] == lines


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1\nprint 'old'\n", "bad.py:2: "),
        ("x = 1\0", "null bytes"),
        ("x = '\udcff'", "bad.py: the text is not valid Unicode"),
        ("-" * 200_000 + "1", "nested too deeply"),
        ("+".join("a" * 100_000), "nested too deeply"),
        ("(" * 500 + ")" * 500, "too many nested parentheses"),
        ("if a:\n\tx\n        y\n", "bad.py:3: "),
    ],
)
def test_what_is_not_python_is_one_clear_error(source, reason):
    with pytest.raises(UnparsableSourceError) as caught:
        parse(source, "bad.py")
    assert reason in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_the_error_can_be_rebuilt_from_its_arguments():
    error = UnparsableSourceError("bad.py:1: reason")
    assert str(type(error)(*error.args)) == str(error)


def test_warnings_about_the_source_do_not_leak():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        analyzed("x = '\\d'\nassert (1, 'always true')\ny = 1 is 1\n")
    assert caught == []


def test_a_tree_deeper_than_the_stack_is_measured():
    depth = 50_000
    tree = ast.parse("def f():\n    return x")
    value = ast.Name("x")
    for _ in range(depth):
        value = ast.IfExp(ast.Name("a"), value, ast.Name("b"))
    tree.body[0].body[0].value = value
    assert measure(tree).functions[0].complexity == depth + 1


def test_a_report_is_json():
    result = analyzed("def f(): pass\nclass C: pass\n")
    assert json.loads(json.dumps(result)) == result


@given(st.lists(st.integers(min_value=1, max_value=8), max_size=30))
def test_totals_agree_with_the_functions(operands):
    source = "\n".join(
        f"def f{number}(): return {' and '.join('a' * count)}"
        for number, count in enumerate(operands)
    )
    result = analyzed(source)
    assert result["functions"] == len(operands)
    assert result["total_complexity"] == sum(operands)
    assert result["most_complex_functions"] == [
        {"name": f"f{number}", "line": number + 1, "complexity": count}
        for number, count in sorted(enumerate(operands), key=lambda it: (-it[1], it[0]))[
            :MOST_COMPLEX
        ]
    ]


@given(st.text(max_size=200))
def test_any_text_is_measured_or_refused(source):
    try:
        result = analyzed(source)
    except UnparsableSourceError:
        return
    assert result["functions"] >= 0
    assert json.loads(json.dumps(result)) == result


def test_a_boolean_operator_has_one_decision_less_than_operands():
    assert decisions(ast.parse("a or b or c or d", mode="eval").body) == 3


def test_the_operation_belongs_to_the_pool_code():
    assert (analyze.name, analyze.pool) == ("workers.code.analyze", "code")
    assert analyze("def f(): pass\n", "one.py") == analyzed("def f(): pass\n", "one.py")
