"""What many tasks of a loop want at once is done in one go."""

from __future__ import annotations

import asyncio

import pytest

from pooltasks.gathering import Gathering


def test_what_is_put_in_one_turn_goes_together_and_what_comes_meanwhile_next():
    async def main():
        runs, gate = [], asyncio.Event()

        async def run(items):
            runs.append(items)
            await gate.wait()
            return [item * 10 for item in items]

        gathering = Gathering(run)
        first = [gathering.put(number) for number in range(3)]
        await asyncio.sleep(0)
        later = [gathering.put(number) for number in (3, 4)]
        gate.set()
        return runs, await asyncio.gather(*first, *later)

    runs, answers = asyncio.run(main())
    assert runs == [[0, 1, 2], [3, 4]]
    assert answers == [0, 10, 20, 30, 40]


def test_an_error_of_one_is_its_own_and_one_that_is_raised_is_everybodys():
    async def main():
        async def run(items):
            if "all" in items:
                raise ValueError("all")
            return [KeyError(item) if item == "one" else item for item in items]

        gathering = Gathering(run)
        one = await asyncio.gather(*map(gathering.put, ["one", "other"]), return_exceptions=True)
        two = await asyncio.gather(*map(gathering.put, ["all", "other"]), return_exceptions=True)
        return *one, *two, await gathering.put("goes on")

    first, other, *both, last = asyncio.run(main())
    assert isinstance(first, KeyError)
    assert other == "other"
    assert [str(error) for error in both] == ["all", "all"]
    assert last == "goes on"


def test_who_is_cancelled_takes_nobody_along():
    async def main():
        async def run(items):
            await asyncio.sleep(0)
            return items

        gathering = Gathering(run)
        gone, staying = gathering.put(1), gathering.put(2)
        gone.cancel()
        assert await staying == 2
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(main())
