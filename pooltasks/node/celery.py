"""Celery's program with the one command that a node needs.

``celery`` imports all its commands, those of plugins such as Flower, and an editor for lines of a
terminal. They stay in memory, and in that of each worker, which is forked: 20 MB that a node
never uses. So a node that ``celery`` started begins again as this program. The process stays
the same: its id, environment, options, working directory and terminal.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import threading
from contextlib import contextmanager
from importlib import import_module, reload
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from pooltasks.node import docstrings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PROGRAM: Final = "pooltasks.node.celery"
_PLUGINS: Final = "celery.commands"
_COMMANDS: Final = (
    *("amqp", "call", "control", "events", "graph", "list", "logtool"),
    *("migrate", "multi", "purge", "result", "shell", "upgrade"),
)
"""The modules of Celery's commands, but for those of ``worker`` and ``beat``."""
_UNUSED: Final = ("cffi", "opentelemetry", "psutil", "pygments", "yaml")
"""Modules that Celery, kombu, billiard and redis-py import where they are installed, and do
without where they are not. Billiard calls the kernel by ctypes as well. Redis-py's own metrics
need OpenTelemetry; a program that is instrumented has imported it before. Colors are for
commands. The other two are imported by the code that needs them, see :func:`_load_later`."""
_NOBODY: Final = (None, ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)
_WITH_VALUE: Final = ("-X", "-W")
_OTHER_PROGRAM: Final = ("-m", "-c")
_LOADING: Final = threading.RLock()
_BEGUN: Final = "__begun__"


def begin_again() -> None:
    """Become this program, if this process is ``celery``; else return.

    It stays what it is under a debugger or another program that runs Celery's, whose work would
    end, and where an option has been carried out that cannot be carried out twice.
    """
    options = _interpreter_options()
    if options is None or any(map(_is_once, _contexts())):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command(*options, arguments=sys.argv[1:]))  # noqa: S606  itself


def command(*options: str, arguments: Sequence[str]) -> list[str]:
    """Return the command of this program.

    Args:
        *options: Of the interpreter.
        arguments: Those of ``celery``.
    """
    return [sys.executable, *options, "-m", _PROGRAM, *arguments]


def _contexts() -> Iterator[click.Context]:
    context = click.get_current_context(silent=True)
    while context is not None:
        yield context
        context = context.parent


def _is_once(context: click.Context) -> bool:
    """Return whether options took the rights of root away, or led to another folder."""
    sources = map(context.get_parameter_source, ("uid", "gid", "workdir"))
    return any(source not in _NOBODY for source in sources)


def _interpreter_options() -> list[str] | None:
    """Return the interpreter's options, None if it was not asked to run ``celery``."""
    program = sys.modules["__main__"]
    spec = getattr(program, "__spec__", None)
    its_name = spec.name if spec else getattr(getattr(program, "main", None), "__module__", None)
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    # Another script may have prepared something before it called Celery's function.
    script = [sys.argv[0]] if Path(sys.argv[0]).name == "celery" else []
    asked = ["-m", "celery"] if spec else script
    options = before[: len(before) - len(asked)]
    flags = [
        option
        for place, option in enumerate(options)
        if not (place and options[place - 1] in _WITH_VALUE)
    ]
    is_plain = all(flag.startswith("-") and flag not in _OTHER_PROGRAM for flag in flags)
    is_celery = its_name == "celery.__main__" and asked == before[-len(asked) :]
    return options if is_celery and is_plain else None


class _Later(ModuleType):
    """A package that is run when somebody asks for what it defines; its modules are there."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if spec is None or spec.loader is None or name.startswith("__"):
            raise AttributeError(name)
        with _LOADING:  # other threads wait until it has run
            if isinstance(self, _Later) and _BEGUN not in vars(self):
                vars(self)[_BEGUN] = True
                spec.loader.exec_module(self)
                self.__class__ = ModuleType  # type: ignore[assignment]
        try:
            return vars(self)[name]
        except KeyError:
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}") from None


def _add_later(package: str, name: str) -> None:
    """Make a package within another one known that redis-py imports and a node does not use."""
    outer = PathFinder.find_spec(package)
    spec = outer and PathFinder.find_spec(f"{package}.{name}", outer.submodule_search_locations)
    if spec is not None and package not in sys.modules:
        module = module_from_spec(spec)
        module.__class__ = _Later
        sys.modules[spec.name] = module


class _Command(ModuleType):
    """Stands for a module with a command of Celery's that nobody runs here."""

    def __getattr__(self, name: str) -> click.Command:
        if name.startswith("__"):
            raise AttributeError(name)
        return click.Command(name, hidden=True)


@contextmanager
def _hidden() -> Iterator[None]:
    """Have imports find no plugin of Celery's program, no command of no use, no unused module."""
    found = importlib.metadata.entry_points

    def others(**chosen: Any) -> Any:
        return () if chosen.get("group") == _PLUGINS else found(**chosen)

    unused = [name for name in _UNUSED if name not in sys.modules]
    commands = {f"celery.bin.{name}": _Command(name) for name in _COMMANDS}
    importlib.metadata.entry_points = others
    hidden: dict[str, Any] = {**commands, **dict.fromkeys(unused)}  # None: there is no such one
    sys.modules.update(hidden)
    try:
        yield
    finally:
        importlib.metadata.entry_points = found
        for name in hidden:
            del sys.modules[name]


def _load_later() -> None:
    """Have Celery and kombu load what they did not find once somebody needs it."""
    from celery.utils import debug  # noqa: PLC0415  not before they are hidden
    from kombu.serialization import registry  # noqa: PLC0415

    if find_spec("psutil"):
        debug.Process = lambda *of: import_module("psutil").Process(*of)  # inspect memsample
    if find_spec("yaml"):
        registry.register(
            "yaml",
            lambda data: import_module("yaml").safe_dump(data),
            lambda text: import_module("yaml").safe_load(
                text if isinstance(text, str) else bytes(text)
            ),
            content_type="application/x-yaml",
            content_encoding="utf-8",
        )


def main() -> None:
    """Run Celery's program."""
    _add_later("redis", "asyncio")
    with _hidden(), docstrings.left_out():
        from celery.bin.celery import celery  # noqa: PLC0415

        import_module("celery.apps.worker")
        reload(sys.modules["pooltasks"])  # now with all that is in it
        import_module("pooltasks.settings")
    _load_later()
    # Applications ask for it whether they run under Celery, and SIGHUP starts it again.
    sys.argv[0] = str(Path(sys.executable).with_name("celery"))
    sys.exit(celery(auto_envvar_prefix="CELERY", prog_name="celery"))


if __name__ == "__main__":
    main()
