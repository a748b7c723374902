"""What a user reads when a command fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import pytest
from celery.bin.base import CLIContext
from click.testing import CliRunner
from redis import exceptions

from pooltasks.cli.commands import Commands
from pooltasks.cli.durations import duration, in_words
from pooltasks.cli.faults import load_application, server_fault
from pooltasks.cli.main import main
from pooltasks.cli.notices import WarmUpNotice
from pooltasks.errors import DeadLetterNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pooltasks.app import PoolApp


CONTEXT, OPTION = click.Context(main), click.Option(["--pause"])


def run(*words: str, **options: Any) -> Any:
    return CliRunner().invoke(main, words, **options)


@pytest.mark.usefixtures("bare_environment")
def test_an_application_that_does_not_exist_is_a_line_and_a_fault_of_usage() -> None:
    result = run("-A", "no_such_application", "status")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: The application 'no_such_application' cannot be loaded: ")
    assert "-A MODULE" in line


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("x = 1\ny = 1 / 0\n", "ZeroDivisionError: division by zero (broken_{}.py, line 2)"),
        ("x = (\n", "SyntaxError: '(' was never closed (broken_{}.py, line 1)"),
        ("\nimport not_there\n", "No module named 'not_there' (broken_{}.py, line 2)"),
    ],
)
def test_an_application_that_fails_at_import_names_the_file_and_the_line(
    bare_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    text: str,
) -> None:
    number = abs(hash(code))
    (bare_environment / f"broken_{number}.py").write_text(code)
    monkeypatch.syspath_prepend(bare_environment)
    result = run("-A", f"broken_{number}", "status")
    assert result.exit_code == 2
    assert text.format(number) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_command_that_is_misspelled_is_named() -> None:
    group = Commands("pooltasks", places={"status": "pooltasks.cli.status:status"})
    result = CliRunner().invoke(group, ["stauts"])
    assert result.exit_code == 2
    assert "Did you mean 'status'?" in result.stderr


@pytest.mark.usefixtures("bare_environment")
def test_in_another_folder_a_command_says_that_nothing_is_up_there() -> None:
    pooltasks = load_application("pooltasks")
    error = exceptions.ConnectionError("Error 111.")
    fault = server_fault(pooltasks, error)
    assert "Is it running? No `pooltasks up` runs in this folder." in fault


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            exceptions.ConnectionError("Error 111."),
            "does not answer: Error 111. Is it",
        ),
        (
            exceptions.AuthenticationError("WRONGPASS"),
            "redis://:**@h:1/0 refuses the login: WRONGPASS.",
        ),
        (exceptions.ResponseError("OOM"), "redis://:**@h:1/0 refuses the command: OOM."),
        (DeadLetterNotFoundError("no such letter"), "Error: no such letter"),
    ],
)
def test_whatever_a_command_meets_on_the_server_is_a_line(
    make_app: Callable[..., PoolApp], error: Exception, text: str
) -> None:
    @click.group(cls=Commands, places={})
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise error

    app = make_app(redis_url="redis://:secret@h:1/0")
    context = CLIContext(app=app, no_color=False, workdir=None)
    result = CliRunner().invoke(group, ["fail"], obj=context)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert text in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("text", "seconds", "words"),
    [("90", 90, "90 s"), ("30s", 30, "30 s"), ("10m", 600, "10 min"), ("1h", 3600, "1 h")],
)
def test_durations(text: str, seconds: float, words: str) -> None:
    found = duration(CONTEXT, OPTION, text)
    assert found == seconds
    assert in_words(found) == words


@pytest.mark.parametrize("text", ["0", "-1", "ten", "10 days", "0.5"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 30s, 10m or 1h"):
        duration(CONTEXT, OPTION, text)


LOG = """\
[2026-11-28 19:38:37,541: ERROR/Main] pool shop: the warm-up of worker 66 failed in shop.load:
Traceback (most recent call last):
  File "/lib/pooltasks/node/worker/warmup.py", line 114, in run_commands
    task()
  File "/srv/shop.py", line 23, in load
    raise FileNotFoundError("model.bin")
FileNotFoundError: model.bin

[2026-11-28 19:38:37,541: ERROR/MainProcess] Process 'ForkPoolWorker-1' exited
"""


def test_a_warm_up_that_fails_is_said_once_with_its_file_and_line() -> None:
    notice = WarmUpNotice("shop")
    said = [text for line in LOG.splitlines() * 3 if (text := notice(line))]
    (text,) = said
    assert text.startswith(
        "shop is not up: its warm-up fails in shop.load: FileNotFoundError: model.bin "
        "(/srv/shop.py, line 23)."
    )
    other = LOG.replace("model.bin", "words.txt")
    said = [text for line in other.splitlines() if (text := notice(line))]
    assert len(said) == 1
