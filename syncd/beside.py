"""What runs beside the trainer's life: looking, pushing, beating, telling. Its tasks belong to the daemon's group."""

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syncd.decide.push import auto_rate, auto_reserve, relieve
from syncd.errors import ConfigError, Superseded, SyncdError, UsageError
from syncd.keeper import Keeper
from syncd.local.files import write_small
from syncd.local.lock import Held
from syncd.local.pins import Pin
from syncd.local.tree import OWN
from syncd.local.trouble import Trouble, free_bytes
from syncd.local.watch import Nudge, watching
from syncd.model import canonical
from syncd.move.budget import Budget
from syncd.move.loose import SEGMENT_AGE, Loose, OutputLog
from syncd.move.start import AlreadyDone, fence
from syncd.show.events import EventLog
from syncd.show.status import Board, Reporter, read_beat
from syncd.stopping import Stop, race
from syncd.store.wrap import Retrying

log = logging.getLogger("syncd")
Listener = Callable[[str, Mapping[str, object]], Awaitable[None]]
STARTING_STATES = ("starting", "restoring")
PUSHING_STATES = ("training", "restarting", "draining")
DISK_PAUSE = 5.0
"""Seconds before a push is tried again that our own disk refused."""
NO_ROOM = "the disk lacks room for the trainer's next save"
BEAT_EVERY, STATUS_EVERY = 2.0, 10.0
"""Seconds between looks at the trainer's beat, and at most between two status files."""
LAST_WORDS = 2.0
"""Seconds for the last heartbeat and status: nothing depends on them."""


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
    auto_rate: bool = False
    disk_reserve: int | None = 0
    """Bytes; None: by the last save."""


class Beside:
    """The loops beside a trainer's life, and the state that they share with it."""

    def __init__(
        self,
        *,
        keeper: Keeper,
        store: Retrying,
        budget: Budget,
        events: EventLog,
        output: OutputLog,
        pace: Pace,
        tell: Listener,
        stop: Stop,
        session: str,
    ) -> None:
        """`tell(hook, body)`: passes events and heartbeats on to observers; `session`: new in each life of the daemon."""
        self.keeper, self.store, self.budget, self.events, self.output = keeper, store, budget, events, output
        self.pace, self.tell, self.stop = pace, tell, stop
        self.board = Board()
        self.reporter = Reporter(self.board, keeper, budget, store.health, session, pace.heartbeat, lambda: store.way)
        self.nudge = Nudge()
        self.root_lock, self.push_lock, self._files_lock = asyncio.Lock(), asyncio.Lock(), asyncio.Lock()
        self.last_upload: float | None = None
        self.progress_at = time.monotonic()
        self.signs = False
        """Whether the trainer ever gave a sign of progress: without any there is nothing to judge a stall by."""
        self._new_checkpoint = False
        self._saved_at: float | None = None
        self._save_interval: float | None = None
        self._save_bytes: int | None = None
        self.held: Held | None = None
        """The root's lock, once it is ours: tells whether the root is still the directory that it was."""
        self.disk = events.disk = output.disk = keeper.trouble = Trouble(keeper.root.path, events)
        self.disk.silent = True
        self._give_up, self._given_up, self._low = asyncio.Event(), 0, False
        self._loose: Loose | None = None
        self._told: asyncio.Queue[dict[str, object]] = asyncio.Queue(maxsize=10_000)
        self._to_push, self._refresh, self._changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        events.listeners.append(self._heard)
        store.health.listeners.append(self._store_changed)
        keeper.on_claim = self._claimed

    @property
    def root(self) -> Path:
        return self.keeper.root.path

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All loops run while the context lasts. What crashes in one ends the context (and the process)."""
        loops: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self._watch_loop,
            self._push_loop,
            self._beat_loop,
            self._store_loop,
            self._files_loop,
            self._tell_loop,
            self._status_loop,
        ]
        with watching(self.root, self.nudge, enabled=self.pace.watch_events):
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(loop(), name=loop.__name__) for loop in loops]
                try:
                    yield
                finally:
                    for task in running:
                        task.cancel()

    # ---- what the trainer's life asks for

    def enter(self, state: str) -> None:
        """Change the state that is shown, and by which the loops go."""
        self.board.enter(state, time.time())
        self.disk.silent = state in STARTING_STATES
        if self.pace.auto_rate and state != "training":
            self.budget.pace(0)
        self._refresh.set()
        self._changed.set()

    def _claimed(self) -> None:
        """From now on we never exit for the store's sake; the attempt's log begins."""
        self.store.patient = True
        self.events.begin_attempt()

    def begun(self) -> None:
        """The attempt goes on from here: its loose files have a place, and the store's errors are waited out."""
        assert self.keeper.owner
        self.store.patient = True
        self._loose = Loose(self.store, self.keeper.owner, self.root, self.pace.extra, self.keeper.gate)
        if self.keeper.newest:
            self.board.durable_at = self.keeper.newest.manifest.time

    def progress(self) -> None:
        """The trainer got on."""
        self.progress_at = time.monotonic()

    def on_output(self, data: bytes) -> None:
        """The trainer printed something: kept, and (where it never says its step) taken for progress."""
        self.output.write(data)
        self.signs = True
        if self.board.beat.step is None:
            self.progress()

    def took_new_checkpoint(self) -> bool:
        """Whether a new checkpoint was seen since this was last asked."""
        new, self._new_checkpoint = self._new_checkpoint, False
        return new

    async def look(self, *, writer_gone: bool = False) -> None:
        """Scan and pin; what cannot be read is told and seen again later."""
        try:
            async with self.root_lock:
                await self.settle_root()
                new = await self.keeper.root.look(writer_gone=writer_gone)
            await self.keeper.skip_superseded()
            await self._hold_reserve(new)
        except OSError as error:
            self.disk.failed("look", error)
            return
        self.disk.worked("look")
        if new:
            self.progress()
            self.signs = self._new_checkpoint = True
            now = time.monotonic()
            self._save_interval = now - self._saved_at if self._saved_at is not None else None
            self._saved_at = now
        if self.keeper.root.waiting:
            self._to_push.set()

    def _same_root(self) -> None:
        """Raise OSError where the root is not the directory any more whose lock we hold. Blocks."""
        if self.held and self.held.lost():
            raise FileNotFoundError(
                errno.ENOENT, "this is not the directory any more that syncd watches", str(self.root)
            )

    async def settle_root(self) -> None:
        """See that the root is ours still, and take it anew where somebody emptied it under us; with `root_lock` held.

        Raises OSError where it is another directory: what is below a mount that went is none of ours.
        """
        held = self.held
        if held is None or not await asyncio.to_thread(held.lost):
            return
        if not await asyncio.to_thread(held.emptied):
            await asyncio.to_thread(self._same_root)
            return  # it is back
        try:
            await asyncio.to_thread(self.keeper.root.place.make)
            await asyncio.to_thread(held.renew)
        except (ConfigError, UsageError) as error:
            raise FileNotFoundError(errno.ENOENT, str(error), str(self.root)) from None
        self.output.open()
        await self.keeper.renew()
        self.events(
            "root_renewed", why=f"{self.root} was emptied, or made anew; syncd goes on with what is saved there now"
        )

    async def _hold_reserve(self, new: list[Pin]) -> None:
        """Let go of pins before they leave the trainer no room for its next save (I8). Raises OSError."""
        if new:
            self._save_bytes = new[-1].bytes
        newest = self.keeper.newest
        last = self._save_bytes or (newest.manifest.bytes if newest else None)
        reserve = auto_reserve(last) if self.pace.disk_reserve is None else self.pace.disk_reserve
        if not reserve or self.board.state not in PUSHING_STATES:
            return
        free = await asyncio.to_thread(free_bytes, self.root)
        pushing = self.keeper.pushing
        pins = [*self.keeper.root.waiting, *([pushing] if pushing else [])]  # what is under way is missed most
        alone = self.keeper.root.pins.held_alone
        doomed = [pins[n] for n in relieve(reserve - free, [await asyncio.to_thread(alone, pin) for pin in pins])]
        if not doomed:
            return
        if not self._low:
            self._low = True
            why = (
                f"{free} bytes are free on the disk of {self.root}, {reserve} are held free for the trainer's next save"
            )
            names = [pin.name for pin in doomed]
            hint = "rotated checkpoints are not kept for their upload: a larger disk, a faster link or fewer saves help"
            self.events("disk_low", why=f"{why}; {hint}", checkpoints=names, free_bytes=free, reserve_bytes=reserve)
        await self.keeper.skip(doomed, NO_ROOM)
        if pushing and pushing in doomed:
            self._given_up = pushing.number
            self._give_up.set()

    async def push_waiting(self) -> None:
        """Push until nothing waits. To be called with `push_lock` held."""
        while self.keeper.root.waiting and self.board.state in PUSHING_STATES:
            await self._push_one()

    async def _push_one(self) -> None:
        began = time.monotonic()
        self._pace_upload()
        self._give_up.clear()
        before = len(self.keeper.commits)
        try:
            await race(self.keeper.push_next(), self._give_up)
        except OSError as error:  # our own notes cannot be written: the pin waits until they can
            self.disk.failed("push", error)
            await asyncio.sleep(DISK_PAUSE)
            return
        self.disk.worked("push")
        if len(self.keeper.commits) == before:
            if self._give_up.is_set():
                waiting = self.keeper.root.waiting
                await self.keeper.skip([pin for pin in waiting if pin.number == self._given_up], NO_ROOM)
            return
        self._low = False
        self.last_upload = time.monotonic() - began
        self.board.durable_at = time.time()
        self._refresh.set()
        try:
            await self.keeper.clean_up()
        except Superseded as error:
            self.stop.ask("superseded", str(error))
        except AlreadyDone:
            self.stop.ask("done", "the task has its result")

    def _pace_upload(self) -> None:
        """Spread what waits over the time until the next save, while there is a trainer that saves."""
        if self.pace.auto_rate:
            waiting = sum(pin.bytes for pin in self.keeper.root.waiting)
            self.budget.pace(auto_rate(waiting, self._save_interval) if self.board.state == "training" else 0)

    async def store_files(self, *, closing: bool = False) -> None:
        """Events, output and extra files into the store; `closing`: the growing segments too."""
        if self._loose is None:
            return
        async with self._files_lock:  # segments are numbered: two rounds at once would store them twice
            try:
                self.output.close_segment(0.0 if closing else SEGMENT_AGE)
                await self._loose.events(self.events.path)
                await self._loose.output(self.output)
                await self._loose.extras()
            except OSError as error:
                self.disk.failed("files", error)
            else:
                self.disk.worked("files")

    async def last_words(self) -> None:
        """The last status and heartbeat, best effort."""
        with contextlib.suppress(TimeoutError, SyncdError, OSError):
            async with asyncio.timeout(LAST_WORDS):
                await asyncio.to_thread(self._write_status)
                while not self._told.empty():
                    await self.tell("event", self._told.get_nowait())
                body = self.reporter.heartbeat()
                if body and self.keeper.owner:
                    await self.tell("heartbeat", canonical.builtins(body))
                    await self.store.put(self.keeper.keys.heartbeat(self.keeper.owner.attempt), canonical.encode(body))

    # ---- the loops

    async def _watch_loop(self) -> None:
        while True:
            every = self.pace.scan_interval
            await self.nudge.wait(min(every, 1.0) if self.keeper.root.settling else every)
            if self.board.state in PUSHING_STATES:
                began = time.monotonic()
                await self.look()
                # A busy writer nudges without end: scans take at most a sixth of the time.
                await asyncio.sleep(min(every, 5 * (time.monotonic() - began)))

    async def _push_loop(self) -> None:
        while True:
            await self._to_push.wait()
            self._to_push.clear()
            async with self.push_lock:
                await self.push_waiting()

    async def _beat_loop(self) -> None:
        """Heartbeats to observers, regularly and at each change of state; the store may be away."""
        while True:
            self._changed.clear()
            body = self.reporter.heartbeat()
            if body:
                await self.tell("heartbeat", canonical.builtins(body))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.pace.heartbeat if body else 0.5):
                    await self._changed.wait()

    async def _store_loop(self) -> None:
        """What the store is asked and told regularly: are we still the owner, the heartbeat."""
        while True:
            if self.keeper.owner:
                await self._ask_store()
            await asyncio.sleep(self.pace.heartbeat if self.keeper.owner else 0.5)

    async def _ask_store(self) -> None:
        owner = self.keeper.owner
        assert owner
        try:
            await fence(self.store, owner)
        except Superseded as error:
            self.stop.ask("superseded", str(error))
        except AlreadyDone:
            if self.board.state not in ("finishing", "done"):
                self.stop.ask("done", "the task has its result")
        if body := self.reporter.heartbeat():
            await self.store.put(self.keeper.keys.heartbeat(owner.attempt), canonical.encode(body))

    async def _files_loop(self) -> None:
        """Loose files by themselves: a large one must not hold up the heartbeat."""
        while True:
            await asyncio.sleep(self.pace.heartbeat if self._loose else 0.5)
            await self.store_files()

    async def _tell_loop(self) -> None:
        while True:
            await self.tell("event", await self._told.get())

    async def _status_loop(self) -> None:
        """Read the trainer's beat every two seconds; write our status when something happened, else every ten, or as often
        as a heartbeat is due."""
        due = 0.0
        while True:
            happened = self._refresh.is_set()
            self._refresh.clear()
            if await self._read_beat() or happened or time.monotonic() >= due:
                due = time.monotonic() + min(STATUS_EVERY, self.pace.heartbeat)
                try:
                    await asyncio.to_thread(self._write_status)
                    self.disk.worked("status")
                except OSError as error:
                    self.disk.failed("status", error)
                self.events.write_back()
            with contextlib.suppress(TimeoutError):  # not wait_for: on 3.11 it can swallow a cancellation
                async with asyncio.timeout(BEAT_EVERY):
                    await self._refresh.wait()

    async def _read_beat(self) -> bool:
        """Whether the trainer said something new."""
        beat = await asyncio.to_thread(read_beat, self.root)
        if beat is None or beat == self.board.beat:
            return False
        moved = (beat.step, beat.phase) != (self.board.beat.step, self.board.beat.phase)
        self.board.beat, self.signs = beat, True
        if moved:
            self.progress()
        return True

    # ---- small things

    def _write_status(self) -> None:
        self._same_root()
        write_small(self.root / OWN / "status.json", canonical.encode(self.reporter.status()), durable=False)

    def _heard(self, line: dict[str, object]) -> None:
        if not self._told.full():
            self._told.put_nowait(line)
        self._refresh.set()

    def _store_changed(self, error: str | None) -> None:
        if error:
            self.events("store_away", why=error)
        else:
            self.events("store_back")
