"""The reference pages of the site explain everything that the code has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import pytest
from pydantic import BaseModel, Field

from pooltasks import errors, telemetry
from pooltasks.cli.main import main
from pooltasks.errors import PooltasksError
from pooltasks.metrics.families import families
from pooltasks.pool_settings import PoolSettings
from pooltasks.settings import Settings
from website import reference
from website.commands import _command
from website.markdown import Undocumented
from website.settings import _models, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def leaves(model: type[BaseModel]) -> Iterator[tuple[type[BaseModel], str]]:
    for key, field in model.model_fields.items():
        yield model, key
        for table in _models(field.annotation):
            yield from leaves(table)


def each_click(group: click.Group, *before: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from each_click(command, *before, name)
        else:
            yield " ".join([*before, name]), command


def test_every_setting_has_a_row_with_its_type_its_default_and_its_meaning() -> None:
    page = reference.settings()
    for model, key in (*leaves(Settings), *leaves(PoolSettings)):
        rows = [line for line in page.splitlines() if line.startswith(f"| `{key}` | ")]
        assert rows, f"{model.__name__}.{key}"
        assert all(all(cell.strip() for cell in row.strip("| ").split(" | ")) for row in rows)


def test_a_setting_that_nobody_explains_is_found_out() -> None:
    class Bare(BaseModel):
        told: int = Field(default=1, description="is told")
        bare: int = 1

    with pytest.raises(Undocumented, match=r"Bare\.bare"):
        settings_of(Bare)


def test_every_command_has_its_usage_and_every_option_its_meaning() -> None:
    page = reference.commands()
    for path, command in each_click(main):
        (section,) = re.findall(rf"## `pooltasks {path}`\n(.*?)(?=\n## |\Z)", page, re.DOTALL)
        for option in command.params:
            if isinstance(option, click.Option):
                assert max(option.opts, key=len) in section, (path, option.opts)


def test_a_command_that_nobody_explains_is_found_out() -> None:
    with pytest.raises(Undocumented, match="silent"):
        _command("silent", click.Command("silent"))
    bare = click.Command("bare", help="Do it.", params=[click.Option(["--how"])])
    with pytest.raises(Undocumented, match="--how"):
        _command("bare", bare)


def test_every_event_has_a_row() -> None:
    page = reference.events()
    assert sorted(it.name for it in reference.each_event()) == sorted(telemetry.EVENTS)
    assert all(f"| `{event}` | " in page for event in telemetry.EVENTS)


def test_every_metric_has_a_row_with_its_labels() -> None:
    page = reference.metrics()
    for family in families({}, {}, up=None):
        ending = "_total" if family.type == "counter" else ""
        (row,) = [it for it in page.splitlines() if it.startswith(f"| `{family.name}{ending}` |")]
        assert family.documentation in row
        of_the_server = {"pooltasks_up", "pooltasks_server_memory_ratio"}
        assert "`pool`" in row or family.name in of_the_server


def test_every_error_says_what_to_do() -> None:
    page = reference.errors()
    kinds = [
        it
        for it in vars(errors).values()
        if isinstance(it, type) and issubclass(it, PooltasksError) and it is not PooltasksError
    ]
    assert kinds
    for kind in kinds:
        assert f"## `{kind.__name__}`" in page
        meaning, remedy = reference.meaning_and_remedy(kind)
        assert meaning
        assert remedy.endswith(".")
    for category in errors.Category:
        assert f"| `{category}` | " in page


def test_an_error_without_a_remedy_is_found_out() -> None:
    class HopelessError(PooltasksError):
        """Nothing can be done."""

    with pytest.raises(Undocumented, match="HopelessError"):
        reference.meaning_and_remedy(HopelessError)


def test_every_key_is_explained() -> None:
    page = reference.keys()
    channels = page.partition("Channels")[2]
    for function, key in reference.each_key().items():
        where = channels if function in ("alive", "due") else page
        # A place may stand for one of several names, each of which has its line.
        pattern = re.sub(r"<.+?>", "[^`]+", re.sub(r"([{}().*+?])", r"\\\1", key))
        assert re.search(f"`{pattern}`", where), function
