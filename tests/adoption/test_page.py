"""What docs/adopting.md shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import Project, files_of
from test_projects import FLASK

PAGE = Path(__file__).parents[2] / "docs" / "adopting.md"
BOX = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@pytest.fixture
def boxes():
    return [text for _, text in BOX.findall(PAGE.read_text("utf-8"))]


def test_the_examples_run(tmp_path, boxes):
    pytest.importorskip("fastapi")
    celery, pools, images, django, flask, web, tests = boxes
    files = {
        "shop/__init__.py": "",
        "shop/celery.py": celery,
        "config/pools.toml": pools,
        "shop/images.py": images,
        "web.py": web,
    }
    with Project(tmp_path, files) as project:
        assert project.python(tests) == []
        lines = project.python(
            "from fastapi.testclient import TestClient\n"
            "from pooltasks.testing import inline\n"
            "from shop.celery import app\n"
            "from web import web\n"
            "with inline(app), TestClient(web) as client:\n"
            "    print(client.get('/def/3').json(), client.get('/async/4').json())"
        )
        assert lines == ["a.png at 3 a.png at 4"]
    # That of Django is the one that a whole project runs with.
    assert _statements(django) == [
        line
        for line in _statements(files_of("django")["shop/celery.py"])
        if not line.startswith('"""')
    ]
    shown = flask.partition("def celery_init_app")[2]
    assert shown in FLASK["shop/__init__.py"].replace("\n\n\n", "\n\n")


def _statements(code):
    lines = (line.partition("#")[0].strip() for line in code.splitlines())
    return [line for line in lines if line]
