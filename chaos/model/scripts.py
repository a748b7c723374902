"""The real scripts, with the model's time, and with the faults that a test plants."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pooltasks.broker import admission, delayed, reservations, session, watcher

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pooltasks.broker.scripts import Script

TIME_KEY = "model:time"
"""A hash with the fields ``s`` and ``us``: what the server's TIME would answer."""
RESERVED_KEY = "model:reserved"
"""A list of the messages that were reserved since the ledger last looked."""
SCRIPTS: Mapping[str, Script] = {
    "watch": watcher.WATCH,
    "join": session.JOIN,
    "state": session.STATE,
    "release": watcher.RELEASE,
    "reserve": reservations.RESERVE,
    "complete": reservations.COMPLETE,
    "give_back": reservations.GIVE_BACK,
    "start": reservations.START,
    "postpone": reservations.POSTPONE,
    "bury": reservations.UNLIMITED.bury,
    "admit": admission.ADMIT,
    **{f"limited {name}": its for name, its in reservations.LIMITED._asdict().items()},
    **{f"fair {name}": its for name, its in reservations.FAIR._asdict().items()},
    "publish_delayed": delayed._PUBLISH,  # noqa: SLF001  a producer's, which has no other name
}
_TIME = "redis.call('TIME')"
_UPTIME = "redis.call('INFO', 'server')"
_MODEL_UPTIME = "'uptime_in_seconds:1000'"
_UNTIL, _MODEL_UNTIL = "'PXAT', ARGV[at + 4]", "'PX', '99999999'"
"""Until when a lock lasts: the real server's clock is another one."""
_RESERVES = "entries[#entries + 1] = place .. 'r' .. message"
_MODEL_TIME = f"redis.call('HMGET', '{TIME_KEY}', 's', 'us')"


class Replacement:
    """A fault: a text of a script that is replaced by another.

    Args:
        script: Its name in :data:`SCRIPTS`.
        old: The text in the script, which has it once.
        new: The text in its place.
    """

    def __init__(self, script: str, old: str, new: str) -> None:
        self.script = script
        self.old = old
        self.new = new

    def apply(self, text: str) -> str:
        """Return the text with the fault.

        Raises:
            ValueError: The text is not there, or more than once.
        """
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.script}.lua has {text.count(self.old)} times {self.old!r}, not once. "
                f"The script has changed: the fault has to be planted anew."
            )
        return text.replace(self.old, self.new)


@contextmanager
def on_model_time(*faults: Replacement) -> Iterator[None]:
    """Have all scripts take the model's time for the server's, and plant faults.

    The server keeps which messages are reserved, until the ledger looks.
    """
    real = {script: script.text for script in SCRIPTS.values()}
    for fault in faults:
        script = SCRIPTS[fault.script]
        script.text = fault.apply(script.text)
    for script in SCRIPTS.values():
        text = script.text.replace(_TIME, _MODEL_TIME).replace(_UPTIME, _MODEL_UPTIME)
        script.text = text.replace(_UNTIL, _MODEL_UNTIL).replace(
            _RESERVES, f"{_RESERVES} redis.call('RPUSH', '{RESERVED_KEY}', message)"
        )
    try:
        yield
    finally:
        for script, text in real.items():
            script.text = text
