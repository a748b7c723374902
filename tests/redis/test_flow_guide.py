"""docs/flow-control.md: its examples run as they stand."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pooltasks import extension
from pooltasks.app import Extension, PoolApp
from pooltasks.broker.client import redis_client
from pooltasks.settings import Settings

GUIDE = Path(__file__).parents[2] / "docs/flow-control.md"


def blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )


@pytest.fixture
def app(valkey_url):
    (toml,) = blocks("toml")
    settings = Settings.load(redis_url=valkey_url, **tomllib.loads(toml))
    app = PoolApp("guide", set_as_current=False)
    app._extension = Extension(settings)
    with extension.preferred(app):
        yield app
    app.close()


def test_the_examples_run_one_after_the_other(app):
    examples = blocks("python")
    server = redis_client(app)
    assert len(examples) >= 4
    names = {"__name__": "shop"}
    for number, example in enumerate(examples):
        if server.llen("pool.reports") >= 200:
            server.delete("pool.reports")  # as if it had been served
        exec(compile(example, f"example {number} of {GUIDE.name}", "exec"), names)  # noqa: S102
