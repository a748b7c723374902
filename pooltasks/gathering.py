"""Gathering: requests that many tasks of an event loop make at once are done in one go.

A thousand requests that publish in the same turn of the loop cost one write to the server
and one answer. While that answer is awaited, the next are gathered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MOST = 500
"""Items that go at once; more would keep the loop from others for longer than a millisecond
or two."""


IN_A_TURN = 10
"""Tasks that are woken in one turn of the loop: each goes on at once, and others have theirs."""


class Gathering(Generic[Item, Answer]):
    """Gathers items; one task at a time takes them along.

    Args:
        run: Carries the items out, and returns the answer of each: a value, or an error. An error
            that it raises is the answer of all items that were gathered meanwhile, too.
    """

    def __init__(
        self, run: Callable[[list[Item]], Awaitable[Sequence[Answer | BaseException]]]
    ) -> None:
        self._run = run
        self._items: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, item: Item) -> asyncio.Future[Answer]:
        """Have an item go with the others; return the future of its answer."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._items.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._go())
        return future

    async def _go(self) -> None:
        while self._items:
            answers: Sequence[Answer | BaseException]
            batch, self._items = self._items[:_MOST], self._items[_MOST:]
            try:
                answers = await self._run([item for item, _ in batch])
            except asyncio.CancelledError:
                for _, future in [*batch, *self._items]:
                    future.cancel()
                self._items = []
                raise
            except Exception as error:  # noqa: BLE001  the waiting task gets it
                batch, self._items = [*batch, *self._items], []
                answers = [error] * len(batch)
            for number, ((_, future), answer) in enumerate(zip(batch, answers, strict=True)):
                if number % IN_A_TURN == IN_A_TURN - 1:
                    await asyncio.sleep(0)
                if future.done():  # the task that waited for it was cancelled
                    continue
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
