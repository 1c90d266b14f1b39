"""The daemon: one life of syncd beside one trainer, from the lock to an exit code that means something."""

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from syncd.beside import DISK_PAUSE, Beside, Listener, Pace
from syncd.decide.life import Restarts, stalled, trainer_share, verdict
from syncd.errors import ConfigError, Superseded
from syncd.keeper import Begun, Keeper
from syncd.local.files import write_small
from syncd.local.lock import locked
from syncd.local.tree import OWN
from syncd.local.trouble import OWN_DISK, RIGHTS
from syncd.local.trouble import said as disk_said
from syncd.model import canonical
from syncd.model.local import Notice, Ready
from syncd.move.budget import Budget
from syncd.move.loose import OutputLog
from syncd.move.start import AlreadyDone
from syncd.show.events import EventLog
from syncd.stopping import Stop, race
from syncd.store.wrap import Retrying
from syncd.trainer_care import Exit
from syncd.trainer_care.modes import Care

log = logging.getLogger("syncd")
LEAVE, SPENT, SUPERSEDED = 75, 76, 77
SAME_SIGNAL = 0.3
"""Seconds in which our own SIGTERM may follow a trainer that got the platform's first and ended with 0 after its save."""
DISK_PATIENCE = 300.0
"""Seconds that a trainer which ended waits for a disk that refuses what its start needs; then the node is left."""
FENCED_GRACE = 10.0
"""Seconds that an overtaken trainer gets: what it saves is not wanted."""
STOOD_STILL = 1.0
"""Seconds by which a pause is longer than meant where the whole machine was paused, the trainer too."""
Attach = Callable[[int], AbstractAsyncContextManager[None]]


class Daemon:
    """`run()` returns the exit code. To be made within the event loop that runs it."""

    def __init__(
        self,
        *,
        keeper: Keeper,
        store: Retrying,
        budget: Budget,
        events: EventLog,
        output: OutputLog,
        care: Care,
        pace: Pace,
        env: Mapping[str, str],
        attach: Attach,
        tell: Listener,
        rng: random.Random | None = None,
    ) -> None:
        """`env`: the trainer's environment; `attach(attempt)`: the plugins' context; `tell`: events to observers."""
        self.keeper, self.budget, self.events = keeper, budget, events
        self.care, self.pace, self.env, self.attach = care, pace, env, attach
        self.session = secrets.token_hex(8)
        self._own = keeper.root.path / OWN
        self.stop = Stop()
        self.beside = Beside(
            keeper=keeper,
            store=store,
            budget=budget,
            events=events,
            output=output,
            pace=pace,
            tell=tell,
            stop=self.stop,
            session=self.session,
        )
        self.lives = 0
        self._begun: Begun | None = None
        self._restarts = Restarts(pace.max_restarts)
        self._rng = rng or random.Random()

    def outcome(self, code: int) -> dict[str, object]:
        """How it ended, for programs."""
        durable = self.keeper.newest.manifest if self.keeper.newest else None
        return {
            "exit_code": code,
            "task": self.keeper.keys.task,
            "attempt": self.keeper.owner.attempt if self.keeper.owner else None,
            "durable": durable.name if durable else None,
            "durable_step": durable.step if durable else None,
            "state": self.beside.board.state,
        }

    # ---- the whole life

    async def run(self) -> int:
        """Live until the trainer has finished, the node is left, or another attempt takes over."""
        with self.stop.on_signals(self._asked), locked(self.keeper.root.path) as held:
            self.beside.held = held
            with self._starting():
                self.beside.output.open()
            async with AsyncExitStack() as stack:
                async with self.beside.running():
                    code = await self._unless_now(self._live(stack))
                await self.beside.last_words()
        return code

    def _asked(self, name: str) -> None:
        self.events("asked_to_stop", signal=name)

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        """Until a trainer depends on us, a disk that refuses is the operator's to mend: `ConfigError`."""
        try:
            yield
        except OSError as error:
            if error.errno not in OWN_DISK | RIGHTS:
                raise
            raise ConfigError(disk_said(error, self.keeper.root.path)) from None

    async def _live(self, stack: AsyncExitStack) -> int:
        try:
            with self._starting():
                adopted = await self.care.prepare()
                begun = await self._unless_asked(self._begin(adopted))
            if not begun:
                return await self._asked_before_begun()
            assert self._begun
            await stack.enter_async_context(self.attach(self._begun.attempt))
            return await self._care(adopted=adopted and self._begun.goes_on)
        except AlreadyDone:
            self.events("already_done", task=self.keeper.keys.task, hint="'syncd reset' gives the task up")
            await self._end_writer()
            return await self._leave(0, "done")
        except Superseded as error:
            self.beside.enter("superseded")
            await self._end_writer()
            await self._quarantine(str(error))
            log.error("superseded: %s", error)  # noqa: TRY400 - one line for a person, no traceback
            return await self._leave(SUPERSEDED, "superseded")

    async def _asked_before_begun(self) -> int:
        """The heartbeat's look at the store may see before the start does that another took over, or has finished."""
        if self.stop.overtaken:
            raise Superseded(self.stop.overtaken)
        self._see_overtaken()
        if self.care.trainer.alive:  # an adopted one: it may save, and the next daemon pushes that
            await self.care.trainer.stop(self.pace.grace)
        return await self._leave(LEAVE, "left")

    async def _begin(self, adopted: bool) -> bool:
        self.beside.enter("restoring")
        async with self.beside.root_lock:
            alive = adopted and self.care.trainer.alive
            await self._ready(await self.keeper.begin(writer_alive=alive, end_writer=self._end_writer))
        return True

    async def _ready(self, begun: Begun) -> None:
        """Say what to resume: again before each start of the trainer, for what was restored may be rotated away."""
        self._begun = begun
        self.beside.begun()
        ready = Ready(
            attempt=begun.attempt, checkpoint=begun.checkpoint, step=begun.step, session=self.session, time=time.time()
        )
        (self._own / "notice.json").unlink(missing_ok=True)
        await asyncio.to_thread(write_small, self._own / "ready.json", canonical.encode(ready))

    async def _end_writer(self) -> None:
        """A trainer that must not go on writing here: its attempt was overtaken, or is unknown, or the task is done."""
        if self.care.trainer.alive:
            await self.care.trainer.stop(min(FENCED_GRACE, self.pace.grace))

    async def _quarantine(self, why: str) -> None:
        """Set a zombie's checkpoints aside, unless `begin` has done so already."""
        if self.keeper.record is None:
            return
        try:
            async with self.beside.root_lock:
                await self.keeper.overtaken(why)
        except Superseded:
            return
        except OSError as error:
            self.beside.disk.failed("quarantine", error)

    async def _leave(self, code: int, state: str) -> int:
        self.beside.enter(state)
        try:
            await self.care.leave(code)
        except OSError as error:  # the other container has its own exit code then
            self.beside.disk.failed("leave", error)
        return code

    # ---- the trainer

    async def _care(self, *, adopted: bool) -> int:
        if not adopted:
            with self._starting():
                await self._start()
        self.beside.enter("training")
        while True:
            ended = await self._life()
            if ended is None:
                return await self._asked_to_end()
            said = verdict(ended.code, requested=ended.requested)
            self.events("trainer_ended", code=ended.code, verdict=said, seen=ended.seen)
            if said == "finished":
                await self.stop.wait(SAME_SIGNAL)
                return await (self._asked_to_end() if self.stop.asked.is_set() else self._finish())
            if said == "left":
                return await self._drain(LEAVE)
            await self.beside.look(writer_gone=not self.care.trainer.alive)  # what it saved last counts as progress
            if not self._may_restart(ended):
                return await self._drain(SPENT)
            if not await self._restart():
                return await self._drain(LEAVE)

    async def _asked_to_end(self) -> int:
        self._see_overtaken()
        return await self._drain(LEAVE)

    def _see_overtaken(self) -> None:
        """Raise `Superseded` or `AlreadyDone` where that, and nobody's signal, is why we end."""
        if self.stop.reason == "superseded":
            raise Superseded(self.stop.text)
        if self.stop.reason == "done":
            raise AlreadyDone

    def _may_restart(self, ended: Exit) -> bool:
        if self.beside.took_new_checkpoint():
            self._restarts = self._restarts.after_checkpoint()
        again = self._restarts.after_failure()
        if again:
            self._restarts = again
            self.events("trainer_failed", code=ended.code, restart=again.used, budget=again.budget)
            return True
        self.events("budget_spent", restarts=self._restarts.used, code=ended.code)
        log.error(
            "the trainer failed %d times without a new checkpoint (last exit code %d); not starting it again:"
            " mend it, then start syncd anew",
            self._restarts.used + 1,
            ended.code,
        )
        return False

    async def _restart(self) -> bool:
        """Start the trainer again, once our disk takes what that needs; False where it did not for too long."""
        self.beside.board.restarts += 1
        self.beside.enter("restarting")
        await self.stop.wait(self._restarts.pause * self._rng.uniform(0.5, 1.0))
        began = time.monotonic()
        while not self.stop.asked.is_set():
            try:
                await self._start_again()
            except OSError as error:
                self.beside.disk.failed("start", error)
                if time.monotonic() - began > DISK_PATIENCE:
                    log.error(  # noqa: TRY400 - a line for a person
                        "the trainer could not be started again for %d s: this node is left", DISK_PATIENCE
                    )
                    return False
                await self.stop.wait(DISK_PAUSE)
            else:
                self.beside.disk.worked("start")
                return True
        return True

    async def _start_again(self) -> None:
        await self.beside.look(writer_gone=not self.care.trainer.alive)
        async with self.beside.root_lock:
            await self.beside.settle_root()
            await self.keeper.root.set_aside_torn()
            await asyncio.to_thread(self.keeper.root.place.probe)
            lost = await self.keeper.lost()
        if not await self._unless_asked(self._point_trainer(lost=lost)):
            return
        await self._start()
        self.beside.enter("training")

    async def _point_trainer(self, *, lost: bool) -> bool:
        """Renew ready.json. `lost`: no local checkpoint is left, so the line may have to be fetched again."""
        async with AsyncExitStack() as held:
            if lost:  # what waits is pushed first: nobody else may push meanwhile
                await held.enter_async_context(self.beside.push_lock)
            await held.enter_async_context(self.beside.root_lock)
            await self._ready(await self.keeper.resume_point("the trainer is started again"))
        return True

    async def _start(self) -> None:
        self.lives += 1
        self.beside.progress()
        await self.care.trainer.start(self.env)
        self.events("trainer_started", life=self.lives)

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
            hung.result()
            self.events("trainer_stalled", after=round(time.monotonic() - self.beside.progress_at, 1))
            gone = await self.care.trainer.stop(min(FENCED_GRACE, self.pace.grace))
            return Exit(1 if gone.code in (0, LEAVE) else gone.code, False, gone.time, gone.seen)
        finally:
            for task in (ended, asked, hung):
                task.cancel()
            await asyncio.gather(ended, asked, hung, return_exceptions=True)

    async def _stall(self) -> None:
        """Return when there was no sign of progress for too long, while we could have seen one."""
        pause = max(0.2, min(5.0, self.pace.stall_after / 10 or 5.0))
        while True:
            before = time.monotonic()
            await asyncio.sleep(pause)
            if time.monotonic() - before > 2 * pause + STOOD_STILL:
                self.beside.progress()
            if self.beside.signs and stalled(time.monotonic(), self.beside.progress_at, self.pace.stall_after):
                return

    # ---- the ends

    async def _drain(self, code: int) -> int:
        """Let the trainer save and leave, push the newest, all within the grace."""
        deadline = asyncio.get_running_loop().time() + self.pace.grace
        self.beside.enter("draining")
        await self._give_notice()
        if self.care.trainer.alive:
            ended = await self.care.trainer.stop(trainer_share(self.pace.grace, self.beside.last_upload))
            self.events("trainer_left", code=ended.code, seen=ended.seen)
        self.budget.hurry()
        self.keeper.backlog = 1
        try:
            async with asyncio.timeout_at(deadline):
                await self.beside.look(writer_gone=True)
                async with self.beside.push_lock:
                    await self.beside.push_waiting()
                await self.beside.store_files(closing=True)
        except TimeoutError:
            self._not_durable("the grace is over")
        if self.stop.overtaken:
            raise Superseded(self.stop.overtaken)
        return await self._leave(code, "left")

    async def _give_notice(self) -> None:
        """Tell a trainer that looks (contract: notice.json) when all must be over."""
        notice = Notice(at=time.time() + self.pace.grace, reason=self.stop.text or None, time=time.time())
        with contextlib.suppress(OSError):  # a full disk must not keep us from draining
            await asyncio.to_thread(write_small, self._own / "notice.json", canonical.encode(notice), durable=False)

    async def _finish(self) -> int:
        """The trainer has finished: all is pushed and named, however long it takes, unless we are asked to stop."""
        self.beside.enter("finishing")
        if await self._unless_asked(self._push_result()):
            return await self._leave(0, "done")
        return await self._asked_to_end()

    async def _push_result(self) -> bool:
        while True:
            try:
                async with self.beside.push_lock, self.beside.root_lock:
                    await self.beside.settle_root()
                    await self.keeper.finish(settle=self.care.may_write_on())
            except OSError as error:
                self.beside.disk.failed("finish", error)
                await asyncio.sleep(DISK_PAUSE)
            else:
                self.beside.disk.worked("finish")
                break
        await self.beside.store_files(closing=True)
        return True

    # ---- small things

    async def _unless_asked(self, work: Coroutine[Any, Any, bool]) -> bool:
        """Whether the work came to its end; False when we were asked to stop first (it is then cancelled)."""
        return bool(await race(work, self.stop.asked))

    async def _unless_now(self, work: Coroutine[Any, Any, int]) -> int:
        """The work's result; a second signal ends it at once with 128 + n."""
        code: int | None = await race(work, self.stop.now)
        if code is not None:
            return code
        await self.care.trainer.kill()
        self._not_durable("a second signal")
        return 128 + self.stop.number

    def _not_durable(self, why: str) -> None:
        waiting = [pin.name for pin in self.keeper.root.waiting]
        if self.keeper.pushing:
            waiting.insert(0, self.keeper.pushing.name)
        if waiting:
            self.events("not_durable", checkpoints=waiting, why=why)
