"""The login of ``pooltasks up --login``, and the dashboard that asks for it."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from pooltasks.cli.login import kept_login
from pooltasks.cli.up import clients
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_login_is_made_once_and_only_its_user_reads_it(tmp_path: Path) -> None:
    login = kept_login(tmp_path)
    assert login == kept_login(tmp_path)
    assert stat.S_IMODE(login.path.stat().st_mode) == 0o600
    name, _, password = login.text.partition(":")
    assert name == "pooltasks"
    assert len(password) >= 20
    assert password not in repr(login)


def test_a_login_of_ones_own_is_kept(tmp_path: Path) -> None:
    (tmp_path / "login").write_text("ann:correct horse\n")
    assert kept_login(tmp_path).text == "ann:correct horse"


@pytest.mark.parametrize("text", ["", "ann", ":", "ann:", "ann:a,bob:b", "ann:a\nbob:b"])
def test_a_file_that_holds_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "login").write_text(text)
    with pytest.raises(ConfigurationError, match="holds no login"):
        kept_login(tmp_path)


def test_only_the_dashboard_is_told_and_not_in_its_arguments(tmp_path: Path) -> None:
    login = kept_login(tmp_path)
    programs = {
        its.name: its
        for its in clients(
            {},
            app="pooltasks",
            redis_url="redis://127.0.0.1:6379/0",
            data_dir=tmp_path,
            dashboard_port=5555,
            login=login,
        )
    }
    dashboard = programs.pop("dashboard")
    assert dashboard.env["FLOWER_BASIC_AUTH"] == login.text
    assert login.text not in " ".join(dashboard.argv) + str(dashboard.note)
    assert str(login.path) in str(dashboard.note)
    assert all(login.text not in its.env.values() for its in programs.values())
