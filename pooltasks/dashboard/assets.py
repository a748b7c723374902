"""The files that the pages load: ours, and plotly's script out of its wheel."""

from __future__ import annotations

import gzip
import hashlib
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

_PLOTLY = "plotly.min.js"
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


class Assets:
    """Files by name, compressed once.

    Their address holds a digest of all of them, so that browsers may keep them
    for ever and never mix two releases.

    Args:
        folder: Of our own files.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = {path.name: path for path in sorted(folder.iterdir())}
        self._paths[_PLOTLY] = _plotly()
        self._compressed: dict[str, bytes] = {}

    @cached_property
    def version(self) -> str:
        """A digest of names and contents."""
        digest = hashlib.sha256()
        for name, path in self._paths.items():
            digest.update(name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    @property
    def modules(self) -> list[str]:
        """Names of our scripts, which load each other."""
        return [name for name in self._paths if name.endswith(".js") and name != _PLOTLY]

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Return a file's compressed content and its type; None if there is no such file."""
        path = self._paths.get(name)
        if path is None:
            return None
        if name not in self._compressed:
            self._compressed[name] = gzip.compress(path.read_bytes(), mtime=0)
        return self._compressed[name], _TYPES[path.suffix]


def _plotly() -> Path:
    """Return the script of plotly's wheel, without importing the package."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("plotly is not installed: pip install 'pooltasks[dashboard]'")
    return Path(spec.origin).with_name("package_data") / _PLOTLY
