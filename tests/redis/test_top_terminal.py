"""``pooltasks top`` on a pseudo-terminal: it fills it, hears keys, and outlives its server."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import pytest
import redis
from tcp_proxy import Proxy

import pooltasks
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.error_groups import RECORD, Example, Head, record_call
from pooltasks.metrics.sample import Sample
from pooltasks.metrics.samples import SampleStore
from pooltasks.pool_settings import Objective
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE = 30.0
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_HOME, _END = "\x1b[H", "\x1b[?1049l"
_LAST = "q quit"
"""At the end of each screen."""


class Terminal:
    """A terminal of some size, in which ``top`` runs."""

    def __init__(self, columns: int, lines: int, environment: dict[str, str]) -> None:
        self._own, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pooltasks", "top", "--interval", "0.5"],
            stdin=inside,
            stdout=inside,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
        )
        os.close(inside)
        self.output = ""

    def press(self, keys: str) -> None:
        os.write(self._own, keys.encode())

    def screen(self) -> list[str]:
        """Return the lines of the last whole screen."""
        whole = [its for its in self.output.split(_HOME) if _LAST in its]
        return _SEQUENCE.sub("", whole[-1] if whole else "").split("\r\n")

    def wait_for(self, text: str) -> list[str]:
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            lines = self.screen()
            if any(text in line for line in lines):
                return lines
            self._read()
        pytest.fail(f"not within {DEADLINE} s: {text!r} on\n{chr(10).join(self.screen())}")

    def close(self) -> int:
        """End it with a key; return its exit code."""
        self.press("q")
        end = time.monotonic() + DEADLINE
        # It has to be read for the process to end.
        while self.process.poll() is None and time.monotonic() < end:
            self._read()
        self._read()
        return self.process.wait(1)

    def _read(self) -> None:
        if select.select([self._own], [], [], 0.05)[0]:
            with suppress(OSError):  # the other side is closed
                self.output += os.read(self._own, 1 << 16).decode(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._own)


@pytest.fixture
def server(valkey_url: str) -> Iterator[Proxy]:
    """A pool's samples and errors on a server, and the way to it."""
    with redis.Redis.from_url(valkey_url) as client:
        store = SampleStore(client, "shop", ["pool.shop"], Objective())
        counts = Counts(outcomes=Counter({Outcome.SUCCESS: 9, Outcome.FAILURE: 1}), process=2.0)
        its = {"interval": 1.0, "size": 2, "warm": 2, "busy": 0, "reserved": 0, "reserved_age": 0.0}
        store.write("shop@host/1", Sample(0, counts=counts, **its))
        head = Head("shop.charge", "ValueError", "no stock for #", "", "python", "")
        example = Example("op-1", 1.0, "order=5", "Traceback: boom", [], 1, "shop@host", 7)
        names, arguments = record_call("shop", "a", 1, [(head, 1, 0, example)])
        client.eval(RECORD.text, len(names), *names, *arguments)
    with Proxy(urlsplit(valkey_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def environment(server: Proxy, tmp_path: Path) -> dict[str, str]:
    config = tmp_path / "pools.toml"
    config.write_text("[pools.shop]\n[pools.mail]\n")
    return {
        # Some library of the tests has set LINES and COLUMNS, which go before the terminal.
        **{
            name: its
            for name, its in os.environ.items()
            if not name.startswith("POOLTASKS_") and name not in {"LINES", "COLUMNS"}
        },
        "POOLTASKS_CONFIG": str(config),
        "POOLTASKS_REDIS_URL": f"redis://127.0.0.1:{server.port}/1",
        "PYTHONPATH": str(Path(pooltasks.__file__).parents[1]),
    }


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (200, 60)])
def test_it_fills_the_terminal_hears_keys_and_leaves_it_as_it_was(
    environment: dict[str, str], columns: int, lines: int
) -> None:
    with Terminal(columns, lines, environment) as terminal:
        screen = terminal.wait_for("mail")
        assert len(screen) == lines
        assert max(map(len, screen)) <= columns
        terminal.press("\r4")
        terminal.wait_for("shop.charge ValueError")  # in the table
        terminal.press("\r")
        terminal.wait_for("Traceback: boom")
        terminal.press("?")
        terminal.wait_for("sort the other way round")
        terminal.press("x")
        terminal.wait_for("Traceback: boom")
        assert terminal.close() == 0
        assert _END in terminal.output  # what was on the screen before is there again


def test_the_server_may_go_away_and_come_back(environment: dict[str, str], server: Proxy) -> None:
    with Terminal(100, 30, environment) as terminal:
        terminal.wait_for("mail")
        server.silence(new_too=True)
        lines = terminal.wait_for("has not answered since")
        assert any(line.startswith("mail") for line in lines)  # the last that was known
        terminal.press("\x1b[B")  # keys are heard meanwhile
        server.silence(new_too=False)  # new connections work again
        terminal.wait_for("3 pools")
        assert terminal.close() == 0


def test_without_a_terminal_it_says_what_to_use_instead(environment: dict[str, str]) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "pooltasks", "top"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert completed.returncode == 1
    assert completed.stderr.strip().splitlines()[-1] == (
        "Error: top needs a terminal. For a script: pooltasks status --json"
    )
