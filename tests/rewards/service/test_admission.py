"""So many at a time, none after closing, and a wait for the last."""

from __future__ import annotations

import asyncio

import pytest

from rewards.service.admission import Admission, Closed, Full


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
