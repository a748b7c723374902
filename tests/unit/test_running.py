"""What ``pooltasks up`` says of itself in its folder, and who believes it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest
from click.testing import CliRunner

from pooltasks import settings as settings_module
from pooltasks.cli.main import main
from pooltasks.running import STATE_FILE, announced, running
from pooltasks.settings import Settings

URL = "redis://:secret@127.0.0.1:7123/0"


pytestmark = pytest.mark.usefixtures("bare_environment")


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(settings_module, "_said", set())


def url_of(settings):
    return settings.redis_url.get_secret_value()


def test_a_running_server_is_found_in_its_folder_and_said_once(caplog):
    with announced(URL):
        assert running() == (os.getpid(), URL, "pooltasks")
        assert stat.S_IMODE(STATE_FILE.stat().st_mode) == 0o600
        assert url_of(Settings.load()) == url_of(Settings.load(pools={"a": {}})) == URL
    assert running() is None
    assert not STATE_FILE.exists()
    said = [r.getMessage() for r in caplog.records if "pooltasks up" in r.getMessage()]
    assert len(said) == 1
    assert "redis://127.0.0.1:7123/0" in said[0]
    assert "secret" not in caplog.text
    assert url_of(Settings.load()) == "redis://127.0.0.1:6379/0"


def test_a_server_that_is_named_comes_first(monkeypatch, bare_environment):
    with announced(URL):
        assert url_of(Settings.load(redis_url="redis://argument")) == "redis://argument"
        monkeypatch.setenv("POOLTASKS_REDIS_URL", "redis://environment")
        assert url_of(Settings.load()) == "redis://environment"
        monkeypatch.delenv("POOLTASKS_REDIS_URL")
        (bare_environment / "config").mkdir()
        (bare_environment / "config" / "pools.toml").write_text("redis_url = 'redis://file'")
        assert url_of(Settings.load()) == "redis://file"


def test_commands_are_for_the_application_that_up_runs(monkeypatch):
    asked = []

    def find(name):
        asked.append(name)
        raise SystemExit(0)

    monkeypatch.setattr("pooltasks.cli.faults.find_app", find)
    with announced(URL, "shop"):
        CliRunner().invoke(main, ["status"])
        CliRunner().invoke(main, ["-A", "other", "status"])
    CliRunner().invoke(main, ["status"])
    assert asked == ["shop", "other", "pooltasks"]


def test_up_itself_does_not_take_another_ups_server():
    with announced(URL):
        assert "redis_url" not in Settings.read().model_fields_set


def test_a_process_that_is_gone_is_not_believed():
    code = (
        "import os; from pooltasks.running import announced\n"
        "with announced('redis://x'): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert STATE_FILE.exists()
    assert running() is None


def test_another_process_of_the_same_number_is_not_believed():
    with announced(URL):
        state = json.loads(STATE_FILE.read_text())
        STATE_FILE.write_text(json.dumps({**state, "started": state["started"] - 1}))
        assert running() is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"pid": "x"}', "\0", '{"pid": -1}'])
def test_a_file_of_something_else_is_nothing(text):
    STATE_FILE.parent.mkdir()
    STATE_FILE.write_text(text)
    assert running() is None


def test_a_file_that_others_may_write_is_not_believed():
    with announced(URL):
        STATE_FILE.chmod(0o666)
        assert running() is None
        STATE_FILE.chmod(0o600)
        assert running() is not None


def test_where_no_pools_are_configured_it_is_said_where_they_were_looked_for(
    caplog, bare_environment, monkeypatch
):
    Settings.load()
    Settings.load()
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1
    assert f"there is no {bare_environment / 'config' / 'pools.toml'}" in said[0]
    assert "POOLTASKS_CONFIG" in said[0]
    caplog.clear()
    monkeypatch.setattr(settings_module, "_said", set())
    Settings.load(pools={"code": {}})
    (bare_environment / "config").mkdir()
    (bare_environment / "config" / "pools.toml").write_text("")
    Settings.load()
    assert not caplog.records
