"""Blocking work off the event loop."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_its_end(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run in a thread; a cancelled caller goes on only when the thread has ended.

    A thread cannot be cancelled, and whoever closes a descriptor under it sends its bytes into the next file that gets
    that number.
    """
    return await whole(asyncio.to_thread(work, *args, **kwargs))


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Await what must not be done by half; a cancelled caller goes on when it is over. What it raises then is lost."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await outlast(running)
        if not running.cancelled():
            running.exception()  # seen: nobody else will ask
        raise


class Stopped(Exception):
    """Raised in a thread whose caller was cancelled: it goes no further."""


async def stoppable(work: Callable[..., T], *args: object) -> T:
    """`to_its_end` for what may take minutes: `work` gets a last argument more, a function that it calls often, and that
    raises once the caller was cancelled. A drain cannot wait until 100 GB are summed."""
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    running = asyncio.ensure_future(asyncio.to_thread(work, *args, check))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await outlast(running)
        running.exception()  # seen: nobody else will ask
        raise


async def outlast(running: "asyncio.Future[T]") -> None:
    """Wait until it has ended, however often the caller is cancelled meanwhile: a sibling that fails cancels again."""
    while not running.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({running})


@asynccontextmanager
async def descriptor(open_: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[int]:
    """The file descriptor that `open_` gives in a thread, closed with the context.

    A caller that is cancelled while the thread opens has no descriptor to close yet: it is closed here.
    """
    running = asyncio.ensure_future(asyncio.to_thread(open_, *args, **kwargs))
    try:
        fd = await asyncio.shield(running)
    except asyncio.CancelledError:
        await outlast(running)
        if running.exception() is None:
            os.close(running.result())
        raise
    try:
        yield fd
    finally:
        os.close(fd)


async def all_of(works: Iterable[Callable[[], Awaitable[T]]], at_once: int) -> list[T]:
    """The results of all, in order, `at_once` at a time. The first failure cancels the rest and is raised as itself.

    Takes functions, not coroutines, and starts each when its turn comes: 100,000 files are not 100,000 tasks.
    """
    results: dict[int, T] = {}
    left = iter(enumerate(works))

    async def worker() -> None:
        for n, work in left:
            results[n] = await work()

    async def workers() -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(worker())

    try:
        await alone(workers)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    return [results[n] for n in sorted(results)]


async def alone(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of what uses a TaskGroup, in a task of its own.

    In Python 3.11 and 3.12 a group that fails leaves the task that waited for it marked as being cancelled
    (`Task.cancelling()`), for good. aiohttp looks there, and would end a later request by a cancellation that nobody asked
    for.
    """
    return await asyncio.create_task(work())
