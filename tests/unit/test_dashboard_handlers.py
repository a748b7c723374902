"""Who may see what the dashboard answers."""

from __future__ import annotations

import inspect

import pytest

pytest.importorskip("flower", reason="the extra 'dashboard' is not installed")

from pooltasks.dashboard import handlers

METHODS = ("get", "post", "put", "delete", "patch", "head", "options")


def test_every_handler_asks_who_is_there() -> None:
    ours = [
        (its, method)
        for its in vars(handlers).values()
        if inspect.isclass(its) and its.__module__ == handlers.__name__
        for method in METHODS
        if method in vars(its)
    ]
    assert len(ours) >= 8
    # tornado.web.authenticated is the only decorator here, and it leaves this behind.
    assert [its for its, method in ours if not hasattr(vars(its)[method], "__wrapped__")] == []
