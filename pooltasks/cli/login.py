"""The login of the dashboard that ``pooltasks up --login`` runs."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "pooltasks"


@dataclass(frozen=True)
class Login:
    """A name and a password, and the file in which they are kept."""

    path: Path
    text: str = field(repr=False)
    """``NAME:PASSWORD``, as Flower's ``--basic-auth`` has it."""


def kept_login(folder: Path) -> Login:
    """Return the login that is kept in a folder; one is made at the first call.

    Only the user who runs this can read the file. Another name or password may be
    written there.

    Raises:
        ConfigurationError: The file cannot be read or made, or holds no login.
    """
    path = folder / "login"
    try:
        try:
            text = path.read_text("utf-8").strip()
        except FileNotFoundError:
            text = f"{_NAME}:{secrets.token_urlsafe(18)}"
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(f"{text}\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The login in {path} cannot be read or made: {error}") from error
    name, _, password = text.partition(":")
    # Flower takes a comma for the end of one login of several.
    if not name or not password or "," in text or "\n" in text:
        raise ConfigurationError(f"{path} holds no login. It is one line: NAME:PASSWORD.")
    return Login(path, text)
