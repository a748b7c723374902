"""The files that the pages load: ours, and plotly's script out of its wheel."""

from __future__ import annotations

import gzip
import hashlib
from importlib.util import find_spec
from pathlib import Path

_PLOTLY = "plotly.min.js"
_GZIP_LEVEL = 6  # half the time of the default for 1 % more bytes
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


class Assets:
    """Files by their path, compressed at the start: no visitor waits for the compression.

    Their address holds a digest of all of them, so that browsers may keep them
    for ever and never mix two releases.

    Args:
        folder: Of our own files.
    """

    def __init__(self, folder: Path) -> None:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        paths = {path.relative_to(folder).as_posix(): path for path in files}
        paths[_PLOTLY] = _plotly()
        digest = hashlib.sha256()
        self._files: dict[str, tuple[bytes, str]] = {}
        for name, path in paths.items():
            content = path.read_bytes()
            digest.update(name.encode() + content)
            self._files[name] = gzip.compress(content, _GZIP_LEVEL, mtime=0), _TYPES[path.suffix]
        self.version = digest.hexdigest()[:16]
        """A digest of names and contents."""

    @property
    def modules(self) -> list[str]:
        """Names of our scripts, which load each other."""
        return [name for name in self._files if name.endswith(".js") and name != _PLOTLY]

    def get(self, name: str) -> tuple[bytes, str] | None:
        """Return a file's compressed content and its type; None if there is no such file."""
        return self._files.get(name)


def _plotly() -> Path:
    """Return the script of plotly's wheel, without importing the package."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("plotly is not installed: pip install 'pooltasks[dashboard]'")
    return Path(spec.origin).with_name("package_data") / _PLOTLY
