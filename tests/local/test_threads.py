"""Blocking work off the event loop: to its end, a few at once."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from syncd.local.threads import all_of, descriptor, stoppable, to_its_end


async def test_a_cancelled_caller_goes_on_only_when_the_thread_has_ended() -> None:
    started, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        release.wait(10)
        ended.set()

    task = asyncio.create_task(to_its_end(work))
    while not started.is_set():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_descriptor_outlives_neither_its_context_nor_a_cancelled_open(tmp_path: Path) -> None:
    started, release = threading.Event(), threading.Event()
    opened: list[int] = []

    def slowly() -> int:
        started.set()
        release.wait(10)
        opened.append(os.open(tmp_path, os.O_RDONLY))
        return opened[-1]

    async def use() -> None:
        async with descriptor(slowly) as fd:
            os.fstat(fd)

    task = asyncio.create_task(use())
    while not started.is_set():
        await asyncio.sleep(0)
    task.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await use()
    assert len(opened) == 2
    for fd in opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


async def test_results_come_in_order_and_never_too_many_at_once() -> None:
    under_way, most = 0, 0

    async def square(n: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return n * n

    assert await all_of((lambda n=n: square(n) for n in range(50)), 4) == [n * n for n in range(50)]
    assert most <= 4


async def test_the_first_failure_is_raised_as_itself_and_ends_the_rest() -> None:
    async def work(n: int) -> None:
        if n == 3:
            raise ValueError("three")
        await asyncio.sleep(0 if n < 3 else 60)

    with pytest.raises(ValueError, match="three"):
        await all_of((lambda n=n: work(n) for n in range(10)), 5)


async def test_a_caller_that_is_cancelled_twice_still_waits_for_its_thread() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(10)
        ended.set()

    task = asyncio.create_task(to_its_end(work))
    await asyncio.to_thread(begun.wait)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done(), "whoever closes the descriptor now closes it under the thread"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_failure_of_many_leaves_no_mark_of_a_cancellation() -> None:
    """aiohttp takes such a mark for a cancellation of its request: a torn checkpoint would end the next one's push."""

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("torn")

    async def waits() -> None:
        await asyncio.Event().wait()

    task = asyncio.current_task()
    assert task
    for _ in range(3):
        with pytest.raises(ValueError, match="torn"):
            await all_of([waits, fails, waits], 3)
        assert task.cancelling() == 0


async def test_who_cancels_many_cancels_each() -> None:
    ended: list[int] = []

    async def waits(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    task = asyncio.create_task(all_of([lambda n=n: waits(n) for n in range(3)], 3))  # type: ignore[misc]
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == [0, 1, 2]


async def test_long_work_is_over_soon_after_its_caller_was_cancelled() -> None:
    """Before the caller goes on: what it holds may be closed then."""
    began, ended = threading.Event(), threading.Event()

    def work(name: str, check: Callable[[], None]) -> None:
        began.set()
        try:
            while True:
                check()
        finally:
            ended.set()

    running = asyncio.create_task(stoppable(work, "sums"))
    await asyncio.to_thread(began.wait)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


async def test_long_work_that_comes_to_its_end_gives_its_result() -> None:
    def work(number: int, check: Callable[[], None]) -> int:
        check()
        return number + 1

    assert await stoppable(work, 1) == 2
