from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from hypothesis import given
from hypothesis import strategies as st

from distgan.explore.turns import OvertakenError, Turns


def test_one_at_a_time_and_the_newest_first():
    async def scenario() -> tuple[list[str], list[int]]:
        turns, said, busy = Turns(3), [], []
        free = asyncio.Event()

        async def ask(name: str) -> None:
            try:
                async with turns.turn():
                    busy.append(1)
                    said.append(name)
                    assert len(busy) == 1
                    await free.wait()
                    busy.pop()
            except OvertakenError:
                said.append(f"{name} gave way")

        tasks = []
        for name in "abcdef":
            tasks.append(asyncio.create_task(ask(name)))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        free.set()
        await asyncio.gather(*tasks)
        return said, busy

    said, busy = asyncio.run(scenario())
    assert said == ["a", "b gave way", "c gave way", "f", "e", "d"]
    assert not busy


def test_an_error_ends_a_turn():
    async def scenario() -> str:
        turns = Turns(1)
        try:
            async with turns.turn():
                raise ValueError
        except ValueError:
            pass
        async with turns.turn():
            return "next"

    assert asyncio.run(asyncio.wait_for(scenario(), 5)) == "next"


@given(st.lists(st.sampled_from(["ask", "step", "cancel first", "cancel last"]), max_size=30), st.integers(0, 3))
def test_who_gives_up_holds_nobody_up(deeds, most):
    async def scenario() -> None:
        turns, at_once = Turns(most), 0
        tasks: list[asyncio.Task[None]] = []

        async def ask() -> None:
            nonlocal at_once
            async with turns.turn():
                at_once += 1
                assert at_once == 1
                try:
                    await asyncio.sleep(0)
                finally:
                    at_once -= 1

        for deed in deeds:
            if deed == "ask":
                tasks.append(asyncio.create_task(ask()))
            elif deed == "step":
                await asyncio.sleep(0)
            elif tasks:
                tasks[0 if deed == "cancel first" else -1].cancel()
        ended: Awaitable[list[object]] = asyncio.gather(*tasks, return_exceptions=True)
        for error in await asyncio.wait_for(ended, 5):
            assert error is None or isinstance(error, OvertakenError | asyncio.CancelledError)
        async with turns.turn():
            pass

    asyncio.run(asyncio.wait_for(scenario(), 10))
