"""``python -m pooltasks`` is the console script ``pooltasks``."""

from __future__ import annotations

from pooltasks.cli.main import main

main(prog_name="pooltasks")
