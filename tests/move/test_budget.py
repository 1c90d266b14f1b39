"""The byte budget: what may be under way at once."""

import asyncio
import random

import pytest

from syncd.move.budget import Budget


async def held(budget: Budget, nbytes: int, release: asyncio.Event, log: list[str], name: str) -> None:
    async with budget(nbytes):
        log.append(f"in {name}")
        await release.wait()
    log.append(f"out {name}")


async def test_never_more_pieces_or_bytes_than_allowed(rng: random.Random) -> None:
    budget = Budget(concurrency=3, memory=100)
    under_way: list[int] = []
    most = [0, 0]

    async def piece(nbytes: int) -> None:
        async with budget(nbytes):
            under_way.append(nbytes)
            most[0], most[1] = max(most[0], len(under_way)), max(most[1], sum(under_way))
            await asyncio.sleep(0)
            under_way.remove(nbytes)

    await asyncio.gather(*(piece(rng.randrange(1, 60)) for _ in range(300)))
    assert most[0] <= 3
    assert most[1] <= 100
    assert budget.moved > 0


async def test_a_piece_larger_than_the_budget_goes_alone_and_nothing_waits_for_ever() -> None:
    budget = Budget(concurrency=8, memory=10)
    log: list[str] = []
    first, second = asyncio.Event(), asyncio.Event()
    one = asyncio.create_task(held(budget, 5, first, log, "small"))
    await asyncio.sleep(0)
    two = asyncio.create_task(held(budget, 1000, second, log, "huge"))
    await asyncio.sleep(0)
    three = asyncio.create_task(held(budget, 5, second, log, "late"))
    await asyncio.sleep(0)
    assert log == ["in small"], "the huge one waits alone at the head; the late one does not pass it"
    first.set()
    await one
    await asyncio.sleep(0)
    assert "in huge" in log
    assert "in late" not in log
    second.set()
    await asyncio.gather(two, three)
    assert log[-1].startswith("out")


async def test_a_cancelled_wait_or_piece_gives_its_bytes_back() -> None:
    budget = Budget(concurrency=1, memory=10)
    never = asyncio.Event()
    log: list[str] = []
    running = asyncio.create_task(held(budget, 5, never, log, "a"))
    waiting = asyncio.create_task(held(budget, 5, never, log, "b"))
    await asyncio.sleep(0)
    for task in (waiting, running):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(1):
        async with budget(10):
            pass


async def test_the_rate_is_kept_and_the_drain_lifts_it() -> None:
    clock = [0.0]

    async def sleep(seconds: float) -> None:
        clock[0] += seconds

    budget = Budget(concurrency=4, memory=10**9, rate=100.0, clock=lambda: clock[0], sleep=sleep)
    for _ in range(10):
        async with budget(100):
            pass
    assert 8.0 <= clock[0] <= 10.0
    before = clock[0]
    async with budget.unpaced(10**6):
        pass
    assert clock[0] == before, "the limit is for uploads alone"
    budget.hurry()
    async with budget(10**6):
        pass
    assert clock[0] == before
