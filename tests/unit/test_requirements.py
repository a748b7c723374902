"""The page of requirements: every name on it exists, and every line of the document has a row."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import click
import pytest
import yaml

from pooltasks.cli.main import main
from pooltasks.metrics.families import families
from pooltasks.pool_settings import PoolSettings
from pooltasks.settings import Settings
from pooltasks.telemetry import EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "requirements.md"
HEADINGS = ["requirement", "lines", "place", "shown by", "difference"]
LINES = 896
"""Of the document."""
PACKAGES = ("pooltasks", "workers", "benchmarks", "chaos")
MISSING = "missing"


class Row(NamedTuple):
    """A requirement."""

    requirement: str
    lines: str
    where: str
    shown_by: str
    difference: str

    @property
    def places(self) -> range:
        """The lines of the document."""
        first, _, last = self.lines.partition("–")
        return range(int(first), int(last or first) + 1)


def rows() -> Iterator[list[str]]:
    """Yield the cells of each row of the page's tables, without rules and headings."""
    for line in PAGE.read_text("utf-8").splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


TABLE = [Row(*cells) for cells in rows() if len(cells) == len(HEADINGS) and cells != HEADINGS]
NAMES = sorted({name for row in TABLE for name in re.findall(r"`([^`]+)`", row.where)})
TESTS = sorted({name for row in TABLE for name in re.findall(r"`([^`]+)`", row.shown_by)})


@cache
def metrics() -> frozenset[str]:
    return frozenset(
        family.name + ("_total" if family.type == "counter" else "")
        for family in families({}, {}, up=None)
    )


@cache
def alerts() -> frozenset[str]:
    text = (ROOT / "config/prometheus/rules/alerts.yml").read_text("utf-8")
    groups = yaml.safe_load(text)["groups"]
    return frozenset(rule["alert"] for group in groups for rule in group["rules"])


def is_setting(name: str) -> bool:
    """Return whether a pool or an application has a setting, ``table.key`` in a table."""
    first, *others = name.split(".")
    for model in (PoolSettings, Settings):
        field: Any = model.model_fields.get(first)
        for key in others:
            tables = [field.annotation, *get_args(field.annotation)] if field else []
            fields = [getattr(table, "model_fields", {}).get(key) for table in tables]
            field = next(filter(None, fields), None)
        if field is not None:
            return True
    return False


def is_attribute(name: str) -> bool:
    """Return whether a dotted name leads to a module, or to something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            owner: Any = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            # A field without a default is no attribute of its class.
            if not hasattr(owner, part):
                return part == parts[-1] and part in getattr(owner, "__annotations__", {})
            owner = getattr(owner, part)
        return True
    return False


def exists(name: str) -> bool:
    """Return whether there is what a name on the page stands for."""
    if name in EVENTS:
        return True
    if "/" in name:
        return (ROOT / name).exists()
    if name.startswith("pooltasks "):
        return name.removeprefix("pooltasks ") in main.list_commands(click.Context(main))
    if name.startswith("pooltasks_"):
        return name in metrics()
    if name.startswith("Pooltasks"):
        return name in alerts()
    return is_attribute(name) if name.split(".", maxsplit=1)[0] in PACKAGES else is_setting(name)


@cache
def functions_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, functions))


def test_every_line_of_the_document_has_a_row() -> None:
    covered = {line for row in TABLE for line in row.places}
    assert covered == set(range(1, LINES + 1))


def test_every_table_of_the_page_is_read() -> None:
    assert [cells for cells in rows() if len(cells) != len(HEADINGS)] == []
    headings = [cells for cells in rows() if cells == HEADINGS]
    assert len(headings) == PAGE.read_text("utf-8").count("\n## ")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.lines} {row.requirement}")
def test_a_row_has_a_place_and_a_test_or_is_missing(row: Row) -> None:
    assert row.requirement
    assert re.fullmatch(r"[1-9]\d*(–[1-9]\d*)?", row.lines)
    assert len(row.places) > 0
    assert re.fullmatch(r"`[^`]+`( `[^`]+`)*", row.where)
    assert row.shown_by == MISSING or re.fullmatch(
        r"`tests/[^`]+::test_[^`]+`( `tests/[^`]+::test_[^`]+`)*", row.shown_by
    )
    assert re.fullmatch(r"–|[A-Z`].*\.", row.difference)
    assert row.difference != "–" or row.shown_by != MISSING, "why it is missing"


@pytest.mark.parametrize("name", NAMES)
def test_what_a_row_names_exists(name: str) -> None:
    assert exists(name)


@pytest.mark.parametrize("name", TESTS)
def test_the_test_that_a_row_names_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert (ROOT / path).is_file()
    assert function in functions_in(path)


@pytest.mark.parametrize(
    "name",
    [
        "pooltasks/nothing.py",
        "pooltasks.pools.Pool.nothing",
        "pooltasks.nothing",
        "pooltasks.metrics.view.Quantiles.mean.more",
        "pooltasks nothing",
        "pooltasks_nothing",
        "PooltasksNothing",
        "nothing",
        "warmup.nothing",
        "worker.nothing",
    ],
)
def test_what_does_not_exist_is_found_out(name: str) -> None:
    assert not exists(name)
