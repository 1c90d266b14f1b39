"""The daemon: owns every task. Begins, cares for the trainer, pushes, beats, drains, ends with a code that means something."""

import asyncio
import contextlib
import logging
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from syncd.decide.life import Restarts, stalled, trainer_share, verdict
from syncd.errors import Superseded, SyncdError
from syncd.keeper import Keeper
from syncd.local.files import write_small
from syncd.local.lock import locked
from syncd.local.tree import OWN
from syncd.local.watch import Nudge, watching
from syncd.model import canonical
from syncd.model.local import Ready
from syncd.move.budget import Budget
from syncd.move.loose import SEGMENT_AGE, Loose, OutputLog
from syncd.move.start import AlreadyDone, fence
from syncd.show.events import EventLog
from syncd.show.status import Board, Reporter, read_beat
from syncd.store.wrap import Retrying
from syncd.trainer_care import Exit
from syncd.trainer_care.modes import Care

log = logging.getLogger("syncd")
LEAVE, SPENT, SUPERSEDED = 75, 76, 77
Listener = Callable[[str, Mapping[str, object]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pace:
    """The settings that the daemon goes by, in seconds; see `syncd.config` for their meaning."""

    grace: float = 30.0
    stall_after: float = 3600.0
    max_restarts: int = 3
    scan_interval: float = 10.0
    heartbeat: float = 30.0
    watch_events: bool = True
    extra: tuple[str, ...] = ()


@dataclass
class Stop:
    """Why the daemon is to end: the first reason stands."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    now: asyncio.Event = field(default_factory=asyncio.Event)
    reason: Literal["signal", "superseded", "done"] | None = None
    text: str = ""
    number: int = 0

    def ask(self, reason: Literal["signal", "superseded", "done"], text: str) -> None:
        if self.reason is None:
            self.reason, self.text = reason, text
        self.asked.set()


@dataclass
class Daemon:
    """One life of syncd beside one trainer. `run()` returns the exit code."""

    keeper: Keeper
    store: Retrying
    budget: Budget
    events: EventLog
    output: OutputLog
    care: Care
    pace: Pace
    env: Mapping[str, str]
    attach: Callable[[int], contextlib.AbstractAsyncContextManager[None]]
    tell: Listener
    rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self.board = Board()
        self.stop = Stop()
        self.session = secrets.token_hex(8)
        self.reporter = Reporter(
            self.board, self.keeper, self.budget, self.store.health, self.session, self.pace.heartbeat
        )
        self._told: asyncio.Queue[dict[str, object]] = asyncio.Queue(maxsize=10_000)
        self._root_lock = asyncio.Lock()
        self._push_lock = asyncio.Lock()
        self._to_push = asyncio.Event()
        self._refresh = asyncio.Event()
        self._progress_at = time.monotonic()
        self._signs = False
        self._restarts = Restarts(self.pace.max_restarts)
        self._last_upload: float | None = None
        self._loose: Loose | None = None
        self.events.listeners.append(self._heard)
        self.store.health.listeners.append(self._store_changed)

    # ---- the whole life

    async def run(self) -> int:
        """Live until the trainer has finished, the node is left, or another attempt takes over."""
        self.nudge = Nudge()
        with self._signals(), locked(self.keeper.root.path), self._watching():
            async with AsyncExitStack() as stack, self._helpers(stack):
                code = await self._unless_now(self._live(stack))
            await self._last_words()
        return code

    def outcome(self, code: int) -> dict[str, object]:
        """How it ended, for programs."""
        keeper = self.keeper
        durable = keeper.newest.manifest if keeper.newest else None
        return {
            "exit_code": code,
            "task": keeper.keys.task,
            "attempt": keeper.owner.attempt if keeper.owner else None,
            "durable": durable.name if durable else None,
            "durable_step": durable.step if durable else None,
            "state": self.board.state,
        }

    async def _live(self, stack: AsyncExitStack) -> int:
        adopted = await self.care.prepare()
        try:
            begun = await self._unless_asked(self._begin(adopted))
            if begun is None:
                return await self._leave(LEAVE, "left")
            assert self.keeper.owner
            self._loose = Loose(self.store, self.keeper.owner, self.keeper.root.path, self.pace.extra, self.keeper.gate)
            await stack.enter_async_context(self.attach(self.keeper.owner.attempt))
            return await self._care(adopted=adopted)
        except AlreadyDone:
            self.events("already_done", task=self.keeper.keys.task)
            if self.care.trainer.alive:
                await self.care.trainer.stop(self.pace.grace)
            return await self._leave(0, "done")
        except Superseded as error:
            self._enter("superseded")
            if self.care.trainer.alive:
                await self.care.trainer.stop(min(10.0, self.pace.grace))
            await self._quarantine(str(error))
            log.error("superseded: %s", error)  # noqa: TRY400 - one line for a person, no traceback
            return await self._leave(SUPERSEDED, "superseded")

    async def _begin(self, adopted: bool) -> bool:
        self._enter("restoring")
        async with self._root_lock:
            begun = await self.keeper.begin(
                writer_alive=adopted and self.care.trainer.alive, end_writer=self._end_writer
            )
        self.store.patient = True
        if self.keeper.newest:
            self.board.durable_at = self.keeper.newest.manifest.time
        ready = Ready(
            attempt=begun.attempt, checkpoint=begun.checkpoint, step=begun.step, session=self.session, time=time.time()
        )
        await asyncio.to_thread(write_small, self.keeper.root.path / OWN / "ready.json", canonical.encode(ready))
        return True

    async def _end_writer(self) -> None:
        """A trainer of an overtaken or unknown attempt lives: it must not go on writing here."""
        await self.care.trainer.stop(min(10.0, self.pace.grace))

    async def _quarantine(self, why: str) -> None:
        """Set a zombie's checkpoints aside, unless `begin` has done so already."""
        if self.keeper.record is None:
            return
        with contextlib.suppress(Superseded):
            async with self._root_lock:
                await self.keeper.overtaken(why)

    async def _leave(self, code: int, state: str) -> int:
        self._enter(state)
        await self.care.leave(code)
        return code

    # ---- the trainer

    async def _care(self, *, adopted: bool) -> int:
        trainer = self.care.trainer
        if not adopted:
            await self._start()
        self._enter("training")
        while True:
            ended = await self._life()
            if self.stop.reason == "superseded":
                raise Superseded(self.stop.text)
            if self.stop.reason == "done":
                raise AlreadyDone
            if self.stop.reason == "signal":
                return await self._drain(LEAVE)
            assert ended
            said = verdict(ended.code, requested=ended.requested)
            self.events("trainer_ended", code=ended.code, verdict=said, seen=ended.seen)
            if said == "finished":
                return await self._finish()
            if said == "left":
                return await self._drain(LEAVE)
            again = self._restarts.after_failure()
            if again is None:
                self.events("budget_spent", restarts=self._restarts.used, code=ended.code)
                log.error(
                    "the trainer failed %d times without a new checkpoint (last exit code %d); not starting it again:"
                    " mend it, then start syncd anew",
                    self._restarts.used + 1,
                    ended.code,
                )
                return await self._drain(SPENT)
            self._restarts = again
            self.board.restarts += 1
            self.events("trainer_failed", code=ended.code, restart=again.used, budget=again.budget)
            self._enter("restarting")
            await self._wait_asked(again.pause * self.rng.uniform(0.5, 1.0))
            if not self.stop.asked.is_set():
                async with self._root_lock:
                    await self.keeper.root.look(writer_gone=not trainer.alive)
                    await self.keeper.root.set_aside_torn()
                await self._start()
                self._enter("training")

    async def _start(self) -> None:
        self.board.lives += 1
        self._progress()
        await self.care.trainer.start(self.env)
        self.events("trainer_started", life=self.board.lives)

    async def _life(self) -> Exit | None:
        """Until the trainer ends, hangs (then it is stopped), or we are asked to stop (None)."""
        ended = asyncio.ensure_future(self.care.trainer.wait())
        asked = asyncio.ensure_future(self.stop.asked.wait())
        hung = asyncio.ensure_future(self._stall())
        try:
            await asyncio.wait({ended, asked, hung}, return_when=asyncio.FIRST_COMPLETED)
            if self.stop.asked.is_set():
                return None
            if ended.done():
                return ended.result()
            self.events("trainer_stalled", after=round(time.monotonic() - self._progress_at, 1))
            gone = await self.care.trainer.stop(min(10.0, self.pace.grace))
            return Exit(gone.code or 1, False, gone.time, gone.seen)
        finally:
            for task in (ended, asked, hung):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def _stall(self) -> None:
        """Return when there was no sign of progress for too long. Without any sign there is nothing to judge by."""
        while True:
            await asyncio.sleep(max(0.2, min(5.0, self.pace.stall_after / 10 or 5.0)))
            if self._signs and stalled(time.monotonic(), self._progress_at, self.pace.stall_after):
                return

    def _progress(self) -> None:
        self._progress_at = time.monotonic()

    def on_output(self, data: bytes) -> None:
        """The trainer printed something: kept, and (where it never says its step) taken for progress."""
        self.output.write(data)
        self._signs = True
        if self.board.beat.step is None:
            self._progress()

    # ---- the ends

    async def _drain(self, code: int) -> int:
        """Let the trainer save and leave, push the newest, all within the grace."""
        deadline = time.monotonic() + self.pace.grace
        self._enter("draining")
        if self.care.trainer.alive:
            ended = await self.care.trainer.stop(trainer_share(self.pace.grace, self._last_upload))
            self.events("trainer_left", code=ended.code, seen=ended.seen)
        self.budget.hurry()
        self.keeper.backlog = 1
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(0.0, deadline - time.monotonic())):
                await self._look(writer_gone=True)
                async with self._push_lock:
                    while self.keeper.root.waiting:
                        await self._push_one()
                await self._store_files(closing=True)
        except TimeoutError:
            left = [pin.name for pin in self.keeper.root.waiting]
            self.events("not_durable", checkpoints=left, why="the grace is over")
        return await self._leave(code, "left")

    async def _finish(self) -> int:
        """The trainer has finished: everything is pushed and named, however long it takes, unless we are asked to stop."""
        self._enter("finishing")
        done = await self._unless_asked(self._push_result())
        if done is None:
            return await self._drain(LEAVE)
        return await self._leave(0, "done")

    async def _push_result(self) -> bool:
        async with self._push_lock, self._root_lock:
            await self.keeper.finish()
        await self._store_files(closing=True)
        return True

    # ---- helpers that run beside

    @asynccontextmanager
    async def _helpers(self, stack: AsyncExitStack) -> AsyncIterator[None]:
        loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._watch_loop, self._push_loop, self._beat_loop, self._store_loop, self._tell_loop, self._status_loop
        ]  # fmt: skip
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(loop(), name=loop.__name__) for loop in loops]
            try:
                yield
            finally:
                for task in running:
                    task.cancel()

    async def _watch_loop(self) -> None:
        while True:
            await self.nudge.wait(
                min(self.pace.scan_interval, 1.0) if self.keeper.root.settling else self.pace.scan_interval
            )
            if self.board.state in ("training", "restarting"):
                await self._look()

    async def _look(self, *, writer_gone: bool = False) -> None:
        try:
            async with self._root_lock:
                new = await self.keeper.root.look(writer_gone=writer_gone)
        except OSError as error:
            self.events("disk_error", why=str(error))
            return
        if new:
            self._progress()
            self._signs = True
            self._restarts = self._restarts.after_checkpoint()
        if self.keeper.root.waiting:
            self._to_push.set()

    async def _push_loop(self) -> None:
        while True:
            await self._to_push.wait()
            self._to_push.clear()
            async with self._push_lock:
                while self.keeper.root.waiting and self.board.state in ("training", "restarting", "draining"):
                    await self._push_one()

    async def _push_one(self) -> None:
        began = time.monotonic()
        if not await self.keeper.push_next():
            return
        self._last_upload = time.monotonic() - began
        self.board.durable_at = time.time()
        self._refresh.set()
        try:
            await self.keeper.clean_up()
        except Superseded as error:
            self.stop.ask("superseded", str(error))
        except AlreadyDone:
            self.stop.ask("done", "the task has its result")

    async def _beat_loop(self) -> None:
        """Heartbeats to whoever listens; independent of the store."""
        while True:
            if body := self.reporter.heartbeat():
                await self.tell("heartbeat", canonical.builtins(body))
            await asyncio.sleep(self.pace.heartbeat if body else 0.5)

    async def _store_loop(self) -> None:
        """What the store is told and asked regularly: are we still the owner, the heartbeat, loose files."""
        while True:
            owner = self.keeper.owner
            if owner:
                try:
                    await fence(self.store, owner)
                except Superseded as error:
                    self.stop.ask("superseded", str(error))
                except AlreadyDone:
                    if self.board.state != "finishing":
                        self.stop.ask("done", "the task has its result")
                if body := self.reporter.heartbeat():
                    await self.store.put(self.keeper.keys.heartbeat(owner.attempt), canonical.encode(body))
                await self._store_files()
            await asyncio.sleep(self.pace.heartbeat if owner else 0.5)

    async def _store_files(self, *, closing: bool = False) -> None:
        if self._loose is None:
            return
        try:
            self.output.close_segment(0.0 if closing else SEGMENT_AGE)
            await self._loose.events(self.events.path)
            await self._loose.output(self.output)
            await self._loose.extras()
        except OSError as error:
            self.events("disk_error", why=str(error))

    async def _status_loop(self) -> None:
        path = self.keeper.root.path / OWN / "status.json"
        while True:
            self._refresh.clear()
            beat = await asyncio.to_thread(read_beat, self.keeper.root.path)
            if beat and beat != self.board.beat:
                moved = (beat.step, beat.phase) != (self.board.beat.step, self.board.beat.phase)
                self.board.beat, self._signs = beat, True
                if moved:
                    self._progress()
            try:
                await asyncio.to_thread(write_status, path, self.reporter.status())
            except OSError as error:
                log.debug("status.json: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._refresh.wait(), 2.0)

    async def _tell_loop(self) -> None:
        while True:
            line = await self._told.get()
            await self.tell("event", line)

    # ---- small things

    def _heard(self, line: dict[str, object]) -> None:
        if not self._told.full():
            self._told.put_nowait(line)
        self._refresh.set()

    def _store_changed(self, error: str | None) -> None:
        if error:
            self.events("store_away", why=error)
        else:
            self.events("store_back")

    def _enter(self, state: str) -> None:
        self.board.enter(state, time.time())
        self._refresh.set()

    def _watching(self) -> contextlib.AbstractContextManager[bool]:
        return watching(self.keeper.root.path, self.nudge, enabled=self.pace.watch_events)

    async def _wait_asked(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.asked.wait(), seconds)

    async def _unless_asked(self, work: Coroutine[Any, Any, bool]) -> bool | None:
        """The work's result, or None when we were asked to stop first (it is then cancelled)."""
        result: bool | None = await _race(work, self.stop.asked)
        return result

    async def _unless_now(self, work: Coroutine[Any, Any, int]) -> int:
        """The work's result; a second signal ends it at once with 128 + n."""
        code: int | None = await _race(work, self.stop.now)
        if code is not None:
            return code
        await self.care.trainer.kill()
        self.events("not_durable", checkpoints=[pin.name for pin in self.keeper.root.waiting], why="a second signal")
        return 128 + self.stop.number

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def heard(number: signal.Signals) -> None:
            self.stop.number = int(number)
            if self.stop.asked.is_set() and self.stop.reason == "signal":
                self.stop.now.set()
            self.stop.ask("signal", number.name)
            self.events("asked_to_stop", signal=number.name)

        numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        for number in numbers:
            loop.add_signal_handler(number, heard, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    async def _last_words(self) -> None:
        """The last heartbeat and status: best effort, for a second, since nothing depends on them."""
        with contextlib.suppress(TimeoutError, SyncdError, OSError):
            async with asyncio.timeout(2.0):
                await asyncio.to_thread(
                    write_status, self.keeper.root.path / OWN / "status.json", self.reporter.status()
                )
                body = self.reporter.heartbeat()
                if body and self.keeper.owner:
                    await self.tell("heartbeat", canonical.builtins(body))
                    await self.store.put(self.keeper.keys.heartbeat(self.keeper.owner.attempt), canonical.encode(body))


def write_status(path: Path, status: Mapping[str, object]) -> None:
    """Replace status.json. Raises OSError."""
    write_small(path, canonical.encode(status), durable=False)


async def _race(work: Coroutine[Any, Any, Any], event: asyncio.Event) -> Any:
    """The work's result, or None when the event came first; the work is then cancelled and awaited."""
    doing = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        return None
    finally:
        for task in (doing, waiting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
