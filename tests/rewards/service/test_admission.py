"""So many at a time, none after closing, and a wait for the last."""

from __future__ import annotations

import asyncio

import pytest

from rewards.service.admission import Admission, Closed, Full, Room


def test_there_is_room_for_as_many_as_said_and_again_when_one_leaves() -> None:
    admission = Admission(2)
    with admission.enter():
        with admission.enter(), pytest.raises(Full), admission.enter():
            pass
        with admission.enter():
            pass


def test_a_place_is_free_again_when_its_holder_fails() -> None:
    admission = Admission(1)
    with pytest.raises(OSError, match="gone"), admission.enter():
        raise OSError("gone")
    with admission.enter():
        pass


def test_nobody_enters_after_closing_and_the_wait_ends_with_the_last() -> None:
    async def drain() -> list[str]:
        admission, seen = Admission(2), []
        await admission.emptied()  # nobody has come yet

        async def visit() -> None:
            with admission.enter():
                await asyncio.sleep(0.05)
                seen.append("left")

        visits = [asyncio.create_task(visit()) for _ in range(2)]
        await asyncio.sleep(0)
        admission.close()
        with pytest.raises(Closed), admission.enter():
            pass
        await admission.emptied()
        seen.append("empty")
        await asyncio.gather(*visits)
        return seen

    assert asyncio.run(drain()) == ["left", "left", "empty"]


def test_room_is_given_in_order_and_what_is_too_large_gets_it_alone() -> None:
    async def fill() -> list[str]:
        room, seen, leave = Room(10), [], {name: asyncio.Event() for name in "abcd"}

        async def hold(name: str, amount: int) -> None:
            async with room.take(amount):
                seen.append(f"+{name}")
                await leave[name].wait()
            seen.append(f"-{name}")

        async def settle() -> None:
            for _ in range(10):
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(hold(*each)) for each in (("a", 6), ("b", 4), ("c", 99), ("d", 1))]
        for name in "abcd":
            await settle()
            leave[name].set()
        await asyncio.gather(*tasks)
        return seen

    assert asyncio.run(fill()) == ["+a", "+b", "-a", "-b", "+c", "-c", "+d", "-d"]


def test_room_is_free_again_when_its_holder_or_one_who_waits_is_cancelled() -> None:
    async def cancel() -> None:
        room = Room(10)

        async def hold() -> None:
            async with room.take(10):
                await asyncio.sleep(60)

        holder, waiting = asyncio.create_task(hold()), asyncio.create_task(hold())
        await asyncio.sleep(0.01)
        waiting.cancel()
        holder.cancel()
        async with asyncio.timeout(1), room.take(10):
            pass

    asyncio.run(cancel())
