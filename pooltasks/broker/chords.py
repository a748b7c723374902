"""Chords: the body outlives the worker that was about to publish it.

The last part of a chord claims the body before it publishes it, so that two workers do not
publish it twice. Celery's claim outlives a worker that dies in between by seconds or minutes;
a pool runs the part again at once, and Celery would then leave the body to the dead worker.
So the server notes which part has the claim. When that part returns again, its earlier run
is dead, and the claim is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 300
"""Seconds for which the server keeps the note of a claim: longer than Celery keeps the claim."""
_PART, _ORDER, _TOKEN = 0, 3, -1
"""Places in the arguments of Celery's script: the part's id, its place in the chord, the claim."""
_CLAIM = -1
"""Place of the claim among the keys of Celery's script."""
_FREE = """
if redis.call('GET', KEYS[2]) == ARGV[1] and redis.call('GET', KEYS[1]) ~= 'done' then
  redis.call('DEL', KEYS[1], KEYS[2])
end
"""
_NOTE = """
if redis.call('GET', KEYS[1]) == ARGV[2] then
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[3])
end
"""


class ChordPart:
    """Calls Celery's script for a part of a chord that returns, in one step with the note.

    Args:
        script: Celery's.
    """

    def __init__(self, script: Any) -> None:
        self._script = script

    def __call__(self, keys: Sequence[Any], args: Sequence[Any], client: Any) -> Any:
        """Return the answer of Celery's script.

        Raises:
            redis.RedisError: The server does not answer, or refuses.
        """
        part, token = f"{args[_PART]}:{args[_ORDER]}", args[_TOKEN]
        noted = 2, keys[_CLAIM], f"{_text(keys[_CLAIM])}:part"
        with client.pipeline(transaction=False) as pipe:
            pipe.eval(_FREE, *noted, part)
            self._script(keys=keys, args=args, client=pipe)
            pipe.eval(_NOTE, *noted, part, token, _SECONDS)
            _, answer, _ = pipe.execute()
        return answer


def _text(key: Any) -> str:
    return key.decode() if isinstance(key, bytes) else str(key)
