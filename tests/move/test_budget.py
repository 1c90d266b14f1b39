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


async def test_what_waits_follows_another_rate_at_once() -> None:
    clock, rates = [0.0], [1.0, 100.0]

    async def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] >= 5.0 and budget.rate == rates[0]:
            budget.pace(rates[1])

    budget = Budget(concurrency=4, memory=10**9, rate=rates[0], clock=lambda: clock[0], sleep=sleep)
    for _ in range(2):
        async with budget(500):
            pass
    assert 9.0 <= clock[0] <= 11.0, "500 s at the first rate; 5 s at it and 495 bytes at the second"
    budget.hurry()
    budget.pace(1.0)
    assert budget.rate == 0, "nothing slows the drain"


async def test_a_store_that_asks_for_less_gets_half_at_once_and_then_one_more_a_round() -> None:
    now = 0.0
    budget = Budget(concurrency=8, memory=1000, clock=lambda: now)

    async def pieces(count: int) -> None:
        for _ in range(count):
            async with budget(1):
                pass

    budget.slow_down()
    budget.slow_down()  # the same storm, heard by another request
    assert budget.at_once == 4
    now = 5.0
    budget.slow_down()
    assert budget.at_once == 2
    await pieces(3)
    assert budget.at_once == 3
    for _ in range(3):
        now += 10.0
        budget.slow_down()
    assert budget.at_once == 1, "never none"
    await pieces(200)
    assert budget.at_once == 8, "and never more than was allowed"


async def test_what_failed_allows_no_more() -> None:
    budget = Budget(concurrency=8, memory=1000)
    budget.slow_down()
    for _ in range(50):
        with pytest.raises(RuntimeError):
            async with budget(1):
                raise RuntimeError
    assert budget.at_once == 4


async def test_the_drain_makes_pieces_urgent() -> None:
    budget = Budget(concurrency=8, memory=1000)
    async with budget(1) as urgent:
        assert not urgent
    budget.hurry()
    async with budget(1) as urgent:
        assert urgent


async def test_on_a_slow_link_one_large_upload_runs_at_a_time_and_the_drain_has_all_lanes() -> None:
    now, size = 0.0, 16 << 20
    budget = Budget(concurrency=4, memory=1 << 30, clock=lambda: now)
    left = iter(range(24))

    async def lane() -> None:
        nonlocal now
        for _ in left:
            async with budget(size):
                await asyncio.sleep(0)
                now += size / 2_500_000  # however many there are: the link is full

    await asyncio.gather(*(lane() for _ in range(4)))
    assert budget.at_once == 1
    order: list[str] = []
    async with budget(size):
        up = asyncio.create_task(held(budget, size, asyncio.Event(), order, "second"))
        await asyncio.sleep(0)
        assert order == []
        budget.hurry()
        await asyncio.sleep(0)
        assert order == ["in second"], "the drain has all lanes at once"
        up.cancel()
    assert budget.at_once == 4


@pytest.mark.parametrize("kind", ["small", "down"])
async def test_what_is_small_or_comes_down_has_all_lanes(kind: str) -> None:
    now = 0.0
    budget = Budget(concurrency=4, memory=1 << 30, clock=lambda: now)
    budget._lanes.at_once = 1
    release = asyncio.Event()
    order: list[str] = []

    async def fetched() -> None:
        async with budget.unpaced(16 << 20):
            order.append("down")
            await release.wait()

    async with budget(16 << 20):
        more = [
            asyncio.create_task(held(budget, 1000, release, order, "small") if kind == "small" else fetched())
            for _ in range(3)
        ]
        await asyncio.sleep(0)
        assert len(order) == 3
        release.set()
        await asyncio.gather(*more)


async def test_what_a_rate_allows_says_nothing_of_the_link() -> None:
    now, size = 0.0, 16 << 20

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        await asyncio.sleep(0)

    budget = Budget(concurrency=4, memory=1 << 30, rate=2_500_000.0, clock=lambda: now, sleep=sleep)
    left = iter(range(60))

    async def lane() -> None:
        for _ in left:
            async with budget(size):
                await asyncio.sleep(0)

    await asyncio.gather(*(lane() for _ in range(4)))
    assert now > 300
    assert budget.at_once == 4


def test_another_rate_ends_a_trial() -> None:
    budget = Budget(concurrency=4, memory=1 << 30)
    for number in range(8):
        budget._lanes.finished(16 << 20, 10.0 * number, full=True)
    assert budget.at_once == 3
    budget.pace(1000.0)
    assert budget.at_once == 4


async def test_a_large_upload_that_waits_for_a_lane_holds_nothing_else_up() -> None:
    budget = Budget(concurrency=4, memory=1 << 30)
    budget._lanes.at_once = 1
    log: list[str] = []
    release = asyncio.Event()
    async with budget(16 << 20):
        second = asyncio.create_task(held(budget, 16 << 20, release, log, "large"))
        await asyncio.sleep(0)
        small = asyncio.create_task(held(budget, 10, release, log, "small"))
        await asyncio.sleep(0)
        assert log == ["in small"]
    await asyncio.sleep(0)
    assert log == ["in small", "in large"], "a small one takes no lane"
    release.set()
    await asyncio.gather(second, small)
