"""Observers cannot hurt the daemon or each other; gates can stop it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from syncd import hookimpl
from syncd.config import Settings
from syncd.errors import ConfigError
from syncd.hooks import Attach, Heartbeat, TaskDone
from syncd.hooks.emit import attached, emit, gate
from syncd.hooks.loading import Plugins, load

BEAT = Heartbeat({"seq": 1})


class Recorder:
    """Notes the heartbeats that it hears."""

    def __init__(self) -> None:
        self.heard: list[Heartbeat] = []

    @hookimpl
    def heartbeat(self, event: Heartbeat) -> None:
        self.heard.append(event)


class AsyncRecorder:
    def __init__(self) -> None:
        self.heard: list[Heartbeat] = []

    @hookimpl
    async def heartbeat(self, event: Heartbeat) -> None:
        await asyncio.sleep(0)
        self.heard.append(event)


class Deaf:
    """Takes no argument."""

    def __init__(self) -> None:
        self.heard: list[Heartbeat] = []

    @hookimpl
    def heartbeat(self) -> None:
        self.heard.append(BEAT)


class Raising:
    @hookimpl
    def heartbeat(self, event: Heartbeat) -> None:
        raise ZeroDivisionError("oh")


class AsyncRaising:
    @hookimpl
    async def heartbeat(self, event: Heartbeat) -> None:
        raise ZeroDivisionError("oh")


class Hanging:
    @hookimpl
    async def heartbeat(self, event: Heartbeat) -> None:
        await asyncio.Event().wait()


class Stubborn:
    """Swallows its cancellation, for a while."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    @hookimpl
    async def heartbeat(self, event: Heartbeat) -> None:
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            await self.released.wait()


class SelfCancelling:
    @hookimpl
    async def heartbeat(self, event: Heartbeat) -> None:
        raise asyncio.CancelledError


class Blocking:
    @hookimpl
    def heartbeat(self, event: Heartbeat) -> None:
        time.sleep(0.3)


def plugged(**plugins: object) -> Plugins:
    return load(extra=plugins, entry_points=False)


@pytest.mark.parametrize("bad", [Raising, AsyncRaising, Hanging, SelfCancelling])
async def test_one_bad_observer_keeps_no_other_from_hearing(bad: type, caplog: pytest.LogCaptureFixture) -> None:
    before, after = Recorder(), AsyncRecorder()
    plugins = plugged(before=before, bad=bad, after=after)
    await emit(plugins, "heartbeat", BEAT, timeout=0.05)
    await emit(plugins, "heartbeat", BEAT, timeout=0.05)
    assert before.heard == after.heard == [BEAT, BEAT]
    assert plugins.failures == {("bad", "heartbeat"): 2}
    told = [record for record in caplog.records if record.message == "plugin_failed"]
    assert [record.fields["plugin"] for record in told] == ["bad", "bad"]  # type: ignore[attr-defined]


async def test_an_observer_that_swallows_its_cancellation_is_left_behind() -> None:
    stubborn, after = Stubborn(), Recorder()
    plugins = plugged(after=after, stubborn=stubborn)
    async with asyncio.timeout(2):
        await emit(plugins, "heartbeat", BEAT, timeout=0.05)
    assert after.heard == [BEAT]
    stubborn.released.set()


async def test_an_argument_need_not_be_taken() -> None:
    deaf = Deaf()
    await emit(plugged(deaf=deaf), "heartbeat", BEAT)
    assert deaf.heard == [BEAT]


async def test_a_plain_hook_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    await emit(plugged(slow=Blocking), "heartbeat", BEAT)
    (record,) = caplog.records
    assert (record.message, record.levelno) == ("plugin_blocks", logging.WARNING)


async def test_observers_are_called_in_pluggys_order() -> None:
    order: list[str] = []

    class Early:
        @hookimpl
        def task_done(self) -> None:
            order.append("early")

    class Late:
        @hookimpl
        async def task_done(self) -> None:
            order.append("late")

    class First:
        @hookimpl(tryfirst=True)
        def task_done(self) -> None:
            order.append("first")

    await emit(plugged(first=First, early=Early, late=Late), "task_done", TaskDone(1, None, None))
    assert order == ["first", "late", "early"]


async def test_a_cancelled_emit_cancels_the_hook_and_is_cancelled() -> None:
    ended = asyncio.Event()

    class Waiting:
        @hookimpl
        async def heartbeat(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    task = asyncio.create_task(emit(plugged(waiting=Waiting), "heartbeat", BEAT))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(1):
        await ended.wait()


async def test_a_hook_that_does_not_exist_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(AttributeError):
        await emit(plugged(), "hartbeat", BEAT)


async def test_a_gate_passes_on_what_a_plugin_raises() -> None:
    heard = Recorder()

    class Refusing:
        @hookimpl
        async def heartbeat(self) -> None:
            raise ConfigError("not on this node")

    with pytest.raises(ConfigError, match="not on this node"):
        await gate(plugged(heard=heard, refusing=Refusing), "heartbeat", BEAT)
    assert not heard.heard


async def test_a_gate_ends_with_its_time() -> None:
    with pytest.raises(TimeoutError):
        await gate(plugged(hanging=Hanging), "heartbeat", BEAT, timeout=0.05)


async def test_a_gate_gives_the_answers_with_their_plugins() -> None:
    class Answering:
        @hookimpl
        async def heartbeat(self) -> int:
            return 7

    assert await gate(plugged(silent=Recorder, answering=Answering), "heartbeat", BEAT) == [("answering", 7)]


# ---- attach


class Connected:
    """Keeps a context for as long as the attempt lasts; `fault` is raised at that place."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.steps: list[str] = []

    @hookimpl
    def attach(self, event: Attach) -> AbstractAsyncContextManager[None]:
        return self._attached()

    @asynccontextmanager
    async def _attached(self) -> AsyncIterator[None]:
        self._at("enter")
        if self.fault == "hang":
            await asyncio.Event().wait()
        async with asyncio.TaskGroup() as inner:
            inner.create_task(self._crash())
            try:
                yield
                self._at("leave")
                if self.fault == "linger":
                    await asyncio.Event().wait()
            finally:
                self.steps.append("closed")

    async def _crash(self) -> None:
        if self.fault == "crash":
            raise ZeroDivisionError("in the background")

    def _at(self, step: str) -> None:
        self.steps.append(step)
        if self.fault == step:
            raise ZeroDivisionError(step)


@pytest.fixture
def event() -> Attach:
    return Attach(Settings(store="memory:"), "task", 1, "node")


async def test_contexts_are_entered_and_left(event: Attach) -> None:
    one, two = Connected(), Connected()
    async with attached(plugged(one=one, two=two), event):
        assert one.steps == two.steps == ["enter"]
    assert one.steps == two.steps == ["enter", "leave", "closed"]


async def test_contexts_are_left_when_the_daemon_fails(event: Attach) -> None:
    one = Connected()
    with pytest.raises(ConfigError):
        async with attached(plugged(one=one), event):
            raise ConfigError("x")
    assert one.steps[-1] == "closed"


@pytest.mark.parametrize("fault", ["enter", "leave", "crash", "hang", "linger"])
async def test_a_context_that_fails_anywhere_reaches_neither_the_daemon_nor_another(event: Attach, fault: str) -> None:
    good, bad = Connected(), Connected(fault)
    plugins = plugged(good=good, bad=bad)
    async with asyncio.timeout(5):
        async with attached(plugins, event, timeout=0.2):
            await asyncio.sleep(0.02)
    assert good.steps == ["enter", "leave", "closed"]
    if fault != "linger":
        assert plugins.failures["bad", "attach"] == 1


async def test_a_plugin_may_attach_nothing(event: Attach) -> None:
    class Nothing:
        @hookimpl
        def attach(self) -> None:
            return None

    plugins = plugged(nothing=Nothing)
    async with attached(plugins, event):
        pass
    assert not plugins.failures
