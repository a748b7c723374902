"""The message that a user reads when a command fails: what happened, where, and what to do."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click
from celery.app.utils import find_app
from redis.exceptions import AuthenticationError, ResponseError

from pooltasks.app import app as own
from pooltasks.remote import server_name

if TYPE_CHECKING:
    from celery import Celery

_OWN = str(Path(__file__).parents[1])
_USAGE = 2


class UsageFault(click.ClickException):
    """The command was called in a way that cannot work: exit code 2, and no more than a line."""

    exit_code = _USAGE


def server_fault(app: Celery, error: Exception) -> str:
    """Return what is wrong with the server, which one it is, and what to do."""
    name, setting, up = server_name(app), "its broker_url", ""
    if app is own:
        # In the folder of a project it may be the wrong one.
        setting = "POOLTASKS_REDIS_URL, or name your application with -A"
        if "redis_url" not in app.pooltasks.settings.model_fields_set:
            up = " No `pooltasks up` runs in this folder."
    if isinstance(error, AuthenticationError):
        return f"The server {name} refuses the login: {error}. See {setting}."
    if isinstance(error, ResponseError):
        return f"The server {name} refuses the command: {str(error).rstrip('.')}."
    return (
        f"The server {name} of the application {app.main or app!r} does not answer: "
        f"{str(error).rstrip('.')}. Is it running?{up} See {setting}."
    )


def load_application(name: str) -> Celery:
    """Return the Celery application that ``-A`` names.

    Raises:
        UsageFault: There is no such application, or importing it fails.
    """
    try:
        app: Celery = find_app(name)
    except click.ClickException:
        raise
    except Exception as error:
        # The user's module may raise any error at its import; the user has to read where.
        raise UsageFault(
            f"The application {name!r} cannot be loaded: {described(error)}. "
            f"It must be installed or lie in {Path.cwd()}; "
            "name it with -A MODULE or -A MODULE:NAME."
        ) from error
    return app


def described(error: BaseException) -> str:
    """Return an exception in a line, with the file and the line of the user's code it came from."""
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
    name, place = type(error).__name__, place_of(error)
    return f"{name}{f': {text}' if text else ''}{f' ({place})' if place else ''}"


def place_of(error: BaseException) -> str | None:
    """Return the file and the line of the user's code that raised; None if it was not theirs."""
    if isinstance(error, SyntaxError):
        return _place(error.filename, error.lineno)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and not _is_ours(frame.filename)
    ]
    return _place(frames[-1].filename, frames[-1].lineno) if frames else None


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OWN) or any(
        f"{os.sep}{package}{os.sep}" in filename for package in ("celery", "kombu", "importlib")
    )


def _place(filename: str | None, line: int | None) -> str:
    path = Path(filename or "?")
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return f"{path}, line {line}"
