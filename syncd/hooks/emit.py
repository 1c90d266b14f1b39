"""Call hooks from asyncio: each implementation alone, with a time limit of its own.

Plain pluggy calls do not serve here: one that raises keeps the rest from running and leaves coroutines unawaited, and
`firstresult` takes a coroutine for an answer.
"""

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from pluggy import HookImpl

from syncd.hooks.events import Attach
from syncd.hooks.loading import Plugins, told

log = logging.getLogger("syncd")
SLOW = 0.25
"""Seconds after which a plain hook is reported: the event loop stood still for so long."""


async def emit(plugins: Plugins, hook: str, event: object, *, timeout: float = 5.0) -> None:
    """Tell all observers, one after another; what one does wrong is logged and counted, and reaches nobody else.

    `timeout`: seconds for each.
    """
    for impl in plugins.implementations(hook):
        try:
            await _call(impl, hook, event, timeout)
        except Exception as error:
            _failed(plugins, impl.plugin_name, hook, error)


async def gate(plugins: Plugins, hook: str, event: object, *, timeout: float | None = None) -> list[tuple[str, Any]]:
    """Ask all plugins, one after another: (plugin, answer) for each answer that is not None.

    Whatever an implementation raises passes, `TimeoutError` after `timeout` seconds included; the rest is not asked.
    """
    answers = [(impl.plugin_name, await _call(impl, hook, event, timeout)) for impl in plugins.implementations(hook)]
    return [(plugin, answer) for plugin, answer in answers if answer is not None]


async def first(plugins: Plugins, hook: str, event: object) -> tuple[str, Any] | None:
    """Ask plugins until one gives an answer: (plugin, answer). Whatever an implementation raises passes."""
    for impl in plugins.implementations(hook):
        answer = await _call(impl, hook, event, None)
        if answer is not None:
            return impl.plugin_name, answer
    return None


@asynccontextmanager
async def attached(plugins: Plugins, event: Attach, *, timeout: float = 5.0) -> AsyncIterator[None]:
    """Enter what the `attach` hooks return, and leave it at the end, however this ends.

    Each context lives in a task of its own: what crashes inside a plugin's task group cancels that plugin, not the
    daemon. These tasks are ours, not a task group's, because one that does not end within `timeout` seconds is left
    behind.
    """
    stop = asyncio.Event()
    tasks = []
    try:
        for impl in plugins.implementations("attach"):
            entered = asyncio.Event()
            tasks.append(asyncio.create_task(_attach(plugins, impl, event, entered, stop), name=impl.plugin_name))
            if not await _within(timeout, entered, tasks[-1]):
                late = TimeoutError(f"not entered after {timeout:g} s; it may still be")
                _failed(plugins, impl.plugin_name, "attach", late)
        yield
    finally:
        stop.set()
        await _end(tasks, timeout)


async def _attach(plugins: Plugins, impl: HookImpl, event: Attach, entered: asyncio.Event, stop: asyncio.Event) -> None:
    try:
        context: AbstractAsyncContextManager[None] | None = await _call(impl, "attach", event, None)
        if context is not None:
            async with context:
                entered.set()
                await stop.wait()
    except Exception as error:
        _failed(plugins, impl.plugin_name, "attach", error)
    finally:
        entered.set()


async def _within(seconds: float, event: asyncio.Event, task: asyncio.Task[None]) -> bool:
    """Whether the event came, or the task that would set it ended."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({waiting, task}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    return event.is_set()


async def _end(tasks: list[asyncio.Task[None]], seconds: float) -> None:
    """Wait for tasks that were asked to stop, then cancel the rest; a cancelled one has a tenth of the time."""
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            log.warning("plugin_late", extra={"fields": {"plugin": task.get_name(), "hook": "attach"}})
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=seconds / 10)


async def _call(impl: HookImpl, hook: str, event: object, timeout: float | None) -> Any:
    began = time.monotonic()
    answer = impl.function(*(event for _ in impl.argnames))
    if not inspect.isawaitable(answer):
        if time.monotonic() - began > SLOW:
            fields = {"plugin": impl.plugin_name, "hook": hook, "seconds": round(time.monotonic() - began, 3)}
            log.warning("plugin_blocks", extra={"fields": fields})
        return answer
    return await _bounded(answer, timeout)


async def _bounded(work: Awaitable[Any], seconds: float | None) -> Any:
    """Await in a task of its own: one that swallows its cancellation is left behind instead of waited for."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
        task.add_done_callback(_retrieve)
    if not done:
        raise TimeoutError(f"no answer after {seconds:g} s")
    if task.cancelled():  # by the plugin itself: passed on it would look like a cancellation of the daemon
        raise RuntimeError("it cancelled itself")
    return task.result()


def _retrieve(task: "asyncio.Future[Any]") -> None:
    """Look at the outcome, so that asyncio does not report it again."""
    if not task.cancelled():
        task.exception()


def _failed(plugins: Plugins, plugin: str, hook: str, error: Exception) -> None:
    plugins.failures[plugin, hook] += 1
    fields = {"plugin": plugin, "hook": hook, "error": told(error), "failures": plugins.failures[plugin, hook]}
    log.warning("plugin_failed", extra={"fields": fields}, exc_info=error if log.isEnabledFor(logging.DEBUG) else None)
