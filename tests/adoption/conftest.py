"""Projects of other people, with and without pools."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def bare_environment(monkeypatch, tmp_path):
    """A working directory without settings, and an environment without them."""
    for name in [name for name in os.environ if name.upper().startswith("POOLTASKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path
