"""The phases of a deployment, in which different things are to be true."""

from __future__ import annotations

from typing import Literal

Phase = Literal["before", "during", "after"]
PHASES: tuple[Phase, ...] = ("before", "during", "after")
