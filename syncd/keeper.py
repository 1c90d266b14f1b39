"""One root under one attempt, step by step: begin, push, clean up, finish. Owns no task, hears no signal."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from syncd.decide.push import ahead, behind, triage
from syncd.errors import Corrupt, Denied, NotFound, Refused, Superseded, Torn, Unreadable
from syncd.local.cache import drop_pages
from syncd.local.completion import State
from syncd.local.lock import identity
from syncd.local.pins import Pin
from syncd.local.root import Root
from syncd.local.scan import Seen
from syncd.local.threads import stoppable, whole
from syncd.local.tree import Fingerprint, fingerprint, mark
from syncd.local.trouble import Trouble
from syncd.model.attempt import Done, LineItem, Record
from syncd.model.checkpoint import Committed
from syncd.model.event import Say
from syncd.model.keys import Keys
from syncd.model.names import FINAL, family, is_final
from syncd.move import disk, retain
from syncd.move.close import close_own
from syncd.move.finish import finish
from syncd.move.objects import Owner, at_work, read_item, standing
from syncd.move.own import own
from syncd.move.push import Pusher
from syncd.move.restore import fetch, holds
from syncd.move.start import AlreadyDone, claim, start
from syncd.store import Gate, Store

EndWriter = Callable[[], Awaitable[None]]
FINAL_PAUSE = 2.0
"""Seconds until a result is tried again that moved, or could not be read."""


@dataclass(frozen=True, slots=True)
class Begun:
    """How the attempt began: `checkpoint` to resume (relative to the root), or None from zero; `how` for people.

    `goes_on`: the disk's attempt goes on, and so may a trainer that is at work.
    """

    attempt: int
    checkpoint: str | None
    step: int | None
    how: str
    goes_on: bool = False


@dataclass
class Keeper:
    """Everything that happens between one root and one task. Called by one task at a time.

    `keep`: commits of the line kept in the store; `backlog`: checkpoints that may wait beside the one under way;
    `seal`: the algorithm of their files' seals.
    `on_claim` is called when a new attempt is ours, before anything is told of it.
    """

    store: Store
    store_url: str
    keys: Keys
    root: Root
    node: str
    gate: Gate
    download_gate: Gate
    say: Say
    keep: int = 3
    backlog: int = 1
    group: str | None = None
    single_writer: bool = False
    seal: str | None = None
    on_claim: Callable[[], None] = lambda: None
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    owner: Owner | None = field(default=None, init=False)
    record: Record | None = field(default=None, init=False)
    restored: Committed | None = field(default=None, init=False)
    pushing: Pin | None = field(default=None, init=False)
    commits: list[Committed] = field(default_factory=list, init=False)
    _families: set[str] = field(default_factory=set, init=False)
    trouble: Trouble = field(init=False)
    """Is told how the writing of notes went."""
    _taken: dict[str, str] = field(default_factory=dict, init=False)
    _left: frozenset[str] = field(default=frozenset(), init=False)
    """Names that the trainer went back behind, as far as commits told."""
    _noted: tuple[dict[str, str], frozenset[str]] | None = field(default=None, init=False)
    """What of both is on the disk."""
    _noting: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _warm: str | None = field(default=None, init=False)
    _may_not_delete: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.trouble = Trouble(self.root.path, self.say)

    # ---- begin

    async def begin(self, *, writer_alive: bool = False, end_writer: EndWriter | None = None) -> Begun:
        """Go on with the disk's attempt, or claim, restore and record (with the disk's lock held).

        `writer_alive`: a trainer is at work here. If its attempt goes on, nothing local is moved under it; otherwise
        `end_writer` is awaited first. Raises `Superseded`, `AlreadyDone`.
        """
        if (await standing(self.store, self.keys)).done:
            raise AlreadyDone
        path = self.root.path
        found = await disk.resolve(self.store, self.keys, self.store_url, disk.read_note(path), identity(path))
        if writer_alive and end_writer and not isinstance(found, disk.GoOn):
            await end_writer()
            writer_alive = False
        if isinstance(found, disk.Overtaken):
            why = f"attempt {found.newest} has taken over from this disk's attempt {found.attempt}"
            if not found.again:
                await self.overtaken(why)
            if await at_work(self.store, self.keys, found.newest, self.now()):
                raise Superseded(f"{why}, and is at work; start again when it is silent, or end it")
            found = disk.ClaimAnew(f"attempt {found.newest} had taken over, and is silent")
        if isinstance(found, disk.GoOn):
            await asyncio.to_thread(self.root.place.clear)
            return await self._go_on(found, writer_alive=writer_alive)
        if found.beside and await at_work(self.store, self.keys, found.beside, self.now()):
            # Else nodes that start at once, and once more when they are overtaken, would evict each other for ever.
            raise Superseded(
                f"attempt {found.beside} has taken over, and is at work; start again when it is silent, or end it"
            )
        return await self._claim_anew(found.why)

    async def overtaken(self, why: str) -> None:
        """This disk is a zombie's: set its checkpoints aside, remember it, and raise `Superseded`.

        The trainer must have been stopped before.
        """
        path = self.root.path
        note = disk.read_note(path)
        pinned = [pin.name for pin in await asyncio.to_thread(self.root.pins.load)]
        ours = {family(name) for name in (*self.root.known, *self.root.refused, *pinned)}
        ours |= set(note.families if note else ())
        moved = await self.root.set_aside(lambda seen: family(seen.name) in ours)
        await self.root.clear_pins()
        if note:
            owner = Owner(Keys(note.task), note.attempt, note.nonce)
            disk.write_note(path, note.store, owner, superseded=True, families=ours)
        self.say("superseded", why=why, set_aside=moved)
        raise Superseded(f"{why}; its checkpoints are in {self.root.place.quarantine}, nothing more is pushed")

    async def adopt(self, leave: Callable[[], Awaitable[None]]) -> None:
        """Own the task without training: go on with this disk's attempt, else claim one whose line is not fetched.

        `leave` is awaited before a claim and may refuse it. Raises `Superseded`, `AlreadyDone`.
        """
        if (await standing(self.store, self.keys)).done:
            raise AlreadyDone
        path = self.root.path
        found = await disk.resolve(self.store, self.keys, self.store_url, disk.read_note(path), identity(path))
        if isinstance(found, disk.Overtaken):
            raise Superseded(f"attempt {found.newest} has taken over from this disk's attempt {found.attempt}")
        if isinstance(found, disk.GoOn):
            await self._take_up(found)
            await self._recognise()
            return
        await leave()
        await self.root.clear_pins()
        self.owner, started = await own(
            self.store, self.keys, node=self.node, now=self.now(), gate=self.gate, single_writer=self.single_writer
        )
        self.record = started.record
        await asyncio.to_thread(disk.write_note, path, self.store_url, self.owner)
        self._open_pusher(set(), set())

    async def _go_on(self, found: disk.GoOn, *, writer_alive: bool) -> Begun:
        await self._take_up(found)
        if not writer_alive:
            await self.root.set_aside_torn()
        await self._recognise()
        if not writer_alive:
            return await self.resume_point("same disk, same attempt")
        newest = await self._newest_here(writer_gone=False)
        return self._begun(newest, "same disk, same attempt")

    async def _take_up(self, found: disk.GoOn) -> None:
        self.owner, self.record, self.commits = found.owner, found.record, list(found.commits)
        self._families = set(found.families)
        await self.root.take_up({each.commit for each in found.commits})
        waiting = self.root.waiting
        used, number = found.taken({pin.commit: pin.commit_number or 0 for pin in waiting if pin.commit})
        self._open_pusher(used, found.begun, number)

    async def renew(self) -> None:
        """The root was emptied while its attempt is ours: the pins are gone, and the attempt's note is written again."""
        assert self.owner
        self.root.waiting.clear()
        await self.root.clear_pins()
        await asyncio.to_thread(disk.write_note, self.root.path, self.store_url, self.owner, families=self._families)
        self._noted = None
        await self._take({})

    async def lost(self) -> bool:
        """Whether no local checkpoint of this attempt's is left, though its line has some."""
        return bool(self.line) and await self._newest_here() is None

    @property
    def _kinds(self) -> set[str]:
        """Kinds of names that are this attempt's: committed, restored, or waiting to be."""
        return self._families | {family(pin.name) for pin in self.root.waiting}

    async def resume_point(self, how: str) -> Begun:
        """What a trainer that starts now resumes: the newest local checkpoint (nobody writes here now).

        Where the disk lost all of them, though the line has some, a new attempt is claimed after what waits is pushed:
        rules 3 to 7 then choose, and record what was really resumed.
        """
        if await self.lost():
            while self.root.waiting:
                await self.push_next()
            return await self._claim_anew("this disk lost its checkpoints")
        return self._begun(await self._newest_here(), how)

    async def _newest_here(self, *, writer_gone: bool = True) -> Seen | None:
        """The newest of this disk, in the order of saves, as far as commits and pins tell it: steps would prefer a branch that
        the trainer went back behind."""
        pins = [(pin.name, pin.step) for pin in self.root.waiting]
        left = self._left - {name for name, _ in pins} | behind([*self._saves, *pins])
        return await self.root.newest(writer_gone=writer_gone, families=self._kinds, without=left)

    @property
    def _saves(self) -> list[tuple[str, int | None]]:
        """Name and step of what is committed, in the order of saves, after what was restored."""
        stored = [each for each in (self.restored, *self.commits) if each and not is_final(each.commit)]
        return [(each.manifest.name, each.manifest.step) for each in stored]

    def _begun(self, newest: Seen | None, how: str) -> Begun:
        assert self.owner
        name, step = (newest.name, newest.verdict.step) if newest else (None, None)
        self.say("attempt_begun", attempt=self.owner.attempt, checkpoint=name, step=step, how=how)
        return Begun(self.owner.attempt, name, step, how, goes_on=True)

    async def _claim_anew(self, why: str) -> Begun:
        note = disk.read_note(self.root.path)
        foreign = note is not None and (note.store, note.task) != (self.store_url, self.keys.task)
        self.commits, self.restored, self.record, self._families, self._taken = [], None, None, set(), {}
        self._left, self._noted = frozenset(), None
        self.owner = await claim(
            self.store, self.keys, node=self.node, now=self.now(), group=self.group, single_writer=self.single_writer
        )
        self.on_claim()
        await asyncio.to_thread(disk.write_note, self.root.path, self.store_url, self.owner)
        self.say("attempt_claimed", attempt=self.owner.attempt, why=why)
        await self.root.clear_pins()

        async def clear(restored: Committed | None) -> None:
            await self._clear(restored, foreign=foreign)

        started = await start(self.store, self.owner, self._fetch, clear)
        await asyncio.to_thread(self.root.place.clear)
        self.record = started.record
        for skipped in started.skipped:
            self.say("checkpoint_damaged", key=skipped.key, why=skipped.why)
        self._open_pusher(set(), set())
        await self._note_restored(started.restored)
        await self._take(self.root.known)
        how = "from zero"
        if started.restored:
            await self._note_family(started.restored.manifest.name)
            how = f"restored {started.restored.item}"
        newest = await self.root.newest(writer_gone=True, families=self._kinds)
        if newest and not started.restored:
            how = "a checkpoint that was here already"
        return replace(self._begun(newest, how), goes_on=False)

    async def _clear(self, restored: Committed | None, *, foreign: bool) -> None:
        """Set aside what a trainer might take for this line's, and is not. Of other kinds nothing is touched.

        `foreign`: the disk served another task; its numbered checkpoints are none of ours.
        """
        await self.root.set_aside_torn()
        if restored:
            mine = restored.manifest.name
            await self.root.set_aside(lambda seen: seen.name != mine and family(seen.name) == family(mine))
        elif foreign:
            await self.root.set_aside(lambda seen: seen.verdict.step is not None)
        if restored or foreign:
            await self.root.set_aside_final()

    def _open_pusher(self, used: set[str], begun: set[str], number: int = 0) -> None:
        assert self.owner
        self.pusher = Pusher(
            self.store, self.owner, self.gate, number=number, used=used, begun=begun, seal=self.seal, say=self.say
        )

    async def _fetch(self, found: Committed) -> None:
        began, manifest = self.monotonic(), found.manifest
        self.say("restoring", checkpoint=manifest.name, step=manifest.step, bytes=manifest.bytes)
        await fetch(self.store, self.keys, found, self.root.place, self.download_gate)
        self.say("restored", checkpoint=manifest.name, bytes=manifest.bytes, seconds=round(self.monotonic() - began, 3))

    async def _note_restored(self, found: Committed | None) -> None:
        self.restored = found
        if found is None:
            return
        if any(entry.path == "_SUCCESS" for entry in found.manifest.files):
            self.root.families.add(family(found.manifest.name))
        for seen in await self.root.scan():
            if seen.name == found.manifest.name:
                self.root.took(seen)

    async def _recognise(self) -> None:
        """Which local checkpoints are stored already: compared byte for byte, for there is no local database.

        What was passed over, or is not in the store any more, is noted on the disk: pushed now, it would be the newest by
        its number. Where the note is lost steps tell, as well as they can; times of writing never do.
        """
        assert self.owner and self.record
        stored = {found.manifest.name: found for found in self.commits}
        for item in self.record.items(self.keys.record(self.owner.attempt))[:1]:
            with contextlib.suppress(NotFound, Corrupt):
                self.restored = await read_item(self.store, self.keys, item)
        if self.restored:
            stored.setdefault(self.restored.manifest.name, self.restored)
        newest = self.newest.manifest if self.newest else None
        taken = await asyncio.to_thread(disk.read_taken, self.root.path, self.owner)
        self._taken, self._left = (dict(taken.marks), frozenset(taken.left)) if taken else ({}, frozenset())
        self._noted = (self._taken, self._left)
        done = dict[str, Fingerprint]()
        for seen in await self.root.scan():
            twin = stored.get(seen.name)
            same = twin is not None and await stoppable(holds, self.root.path / seen.name, twin.manifest)
            behind = newest is not None and not ahead(seen.name, seen.verdict.step, newest.name, newest.step)
            late = self._taken.get(seen.name) == mark(seen.fingerprint) if taken is not None else behind
            if same or (late and seen.verdict.state in (State.COMPLETE, State.QUIET)):
                self.root.took(seen)
                done[seen.name] = seen.fingerprint
        await self._take(done)

    async def _take(self, done: Mapping[str, Fingerprint]) -> None:
        """Note on the disk what is done with: stored, or passed over. Before its pin goes."""
        assert self.owner
        async with self._noting:  # a look and a push may both have something to note
            self._taken = self._taken | {name: mark(content) for name, content in done.items()}
            taken, left = self._taken, self._left
            if (taken, left) == self._noted:
                return
            try:
                await asyncio.to_thread(disk.write_taken, self.root.path, self.owner, taken, left)
            except OSError as error:  # their pins must go all the same: they may be what fills the disk
                self.trouble.failed("taken", error)
            else:
                self._noted = (taken, left)
                self.trouble.worked("taken")

    # ---- push

    async def push_next(self) -> Committed | None:
        """Push the next waiting checkpoint; those that it supersedes are let go. None where nothing was committed."""
        pin, dropped = triage(self.root.waiting, self.backlog)
        if pin:
            self.root.waiting.remove(pin)  # before any await: a look may pin the same name anew
        await self.skip(dropped, "a newer one waits")
        return await self._push(pin) if pin else None

    async def skip_superseded(self) -> None:
        """Let go of what waits in vain: a push that takes long (a store that is away) must not let pins pile up (I8).
        Note what was passed over, and what the disk did not take before."""
        await self._take(self.root.passed)
        self.root.passed.clear()
        await self.skip(triage(self.root.waiting, self.backlog)[1], "a newer one waits")

    async def skip(self, dropped: Sequence[Pin], why: str) -> None:
        """Let go of pins that wait, told with the reason."""
        ours = [pin for pin in dropped if pin in self.root.waiting]
        for old in ours:
            self.root.waiting.remove(old)  # all of them before any await: nobody else skips them too
        await self._take({old.name: fingerprint(old.files) for old in ours})
        for old in ours:
            self.say("checkpoint_skipped", checkpoint=old.name, step=old.step, why=why)
            await self.root.let_go(old)

    async def _push(self, pin: Pin) -> Committed | None:
        began = self.monotonic()
        self.pushing = pin
        try:
            await self._note_family(pin.name)
            found = await self.pusher.push(pin, self._assign)
        except Unreadable as error:
            self.root.not_read(pin, str(error))
            await self.root.let_go(pin)
            return None
        except Torn as error:
            self.root.forget(pin)
            self.say("checkpoint_torn", checkpoint=pin.name, why=str(error))
            await self.root.let_go(pin)
            return None
        except Refused as error:
            self.root.refused[pin.name] = fingerprint(pin.files)
            self.say("checkpoint_refused", checkpoint=pin.name, why=str(error))
            await self.root.let_go(pin)
            return None
        except (asyncio.CancelledError, OSError):
            self.root.waiting.insert(0, self.pushing)  # with the name that was assigned meanwhile
            raise
        finally:
            self.pushing = None
        await whole(self._committed(pin, found, began))
        return found

    async def _committed(self, pin: Pin, found: Committed, began: float) -> None:
        """Cut short between commit and letting go, the pin would be in no list, and stay for good."""
        self.commits.append(found)
        self._left = self._left - {pin.name} | behind(self._saves)
        await self._take({pin.name: fingerprint(pin.files)})
        await self.root.let_go(pin)
        if self._warm not in (None, pin.name):
            await asyncio.to_thread(drop_pages, self.root.path / str(self._warm))
        self._warm = pin.name
        manifest = found.manifest
        self.say(
            "checkpoint_committed",
            checkpoint=pin.name,
            commit=manifest.commit,
            number=manifest.number,
            step=manifest.step,
            bytes=manifest.bytes,
            seconds=round(self.monotonic() - began, 3),
        )

    async def _note_family(self, name: str) -> None:
        """Keep on the disk which kinds of names are this attempt's."""
        assert self.owner
        if family(name) not in self._families:
            path, url, families = self.root.path, self.store_url, self._families | {family(name)}
            await asyncio.to_thread(disk.write_note, path, url, self.owner, families=families)
            self._families = families

    def _assign(self, pin: Pin, commit: str, number: int) -> Pin:
        self.pushing = self.root.pins.assign(pin, commit, number)
        return self.pushing

    @property
    def line(self) -> list[LineItem]:
        """Own commits, newest first, then the recorded line."""
        assert self.owner and self.record
        own = [found.item for found in reversed(self.commits) if not is_final(found.commit)]
        return own + list(self.record.items(self.keys.record(self.owner.attempt)))

    @property
    def newest(self) -> Committed | None:
        """The newest durable checkpoint: the last commit, else what was restored."""
        own = [found for found in self.commits if not is_final(found.commit)]
        return own[-1] if own else self.restored

    async def clean_up(self) -> int:
        """Retention: to be called after a commit. Returns the objects deleted. Raises `Superseded`, `AlreadyDone`.

        Keys that may not delete are no trouble of the commit's: told once, until a deletion works.
        """
        assert self.owner
        steps = await retain.plan(self.store, self.owner, self.line, self.keep)
        try:
            await retain.carry_out(self.store, steps)
        except Denied as error:
            if not self._may_not_delete:
                self.say(
                    "not_deleted",
                    objects=len(steps),
                    why=f"{error}; or keep more than SYNCD_KEEP, and see deploy/s3/README.md on lifecycle rules",
                )
            self._may_not_delete = True
            return 0
        if steps:
            self._may_not_delete = False
            self.say("deleted", objects=len(steps))
        return len(steps)

    # ---- finish

    async def finish(self, *, settle: bool = False) -> Done | None:
        """The trainer has finished: push what waits and `final/`, then name the result for good.

        `settle`: its end was only said (finished.json): it may still write `final/`, which must hold still first.
        None where nothing was ever committed: `syncd run -- true` must not mark a task as done that was never begun.
        """
        assert self.owner
        await self.root.look(writer_gone=True)
        for seen in await self.root.scan():
            if seen.verdict.state is State.TORN:
                self.say("checkpoint_torn", checkpoint=seen.name, why=f"{seen.verdict.reason}; it is not pushed")
        while self.root.waiting:
            await self.push_next()
        if settle:
            await self._until_final_is_still()
        result = await self._push_final()
        result = result or self.newest
        if result is None:
            self.say(
                "nothing_committed", why="no checkpoint and no final/ was found under the root; the task is not done"
            )
            return None
        await close_own(self.store, self.owner)
        step = self.newest.manifest.step if self.newest else None
        done = await finish(self.store, self.owner, result, step, self.now())
        self.say("task_done", attempt=done.attempt, result=done.result, ours=done.nonce == self.owner.nonce)
        return done

    async def _until_final_is_still(self) -> None:
        before = await self.root.final()
        while True:
            await asyncio.sleep(self.root.quiet)
            now = await self.root.final()
            if (now and now.fingerprint) == (before and before.fingerprint):
                return
            before = now

    async def _push_final(self) -> Committed | None:
        """None where there is none, or none that is ever carried. One that moves or cannot be read, both told, is waited for."""
        stored = [found for found in self.commits if is_final(found.commit)]
        while True:
            seen = await self.root.final()
            if seen is None or self.root.refused.get(FINAL) == seen.fingerprint:
                return None
            if seen.verdict.state is State.TORN:
                self.say("checkpoint_torn", checkpoint=FINAL, why=seen.verdict.reason)
                return None
            same = bool(stored) and await stoppable(holds, self.root.path / FINAL, stored[-1].manifest)
            if same:
                return stored[-1]
            pin = await self.root.pin(seen)
            if pin:
                self.root.waiting.remove(pin)
                if found := await self._push(pin):
                    return found
            if self.root.refused.get(FINAL) != seen.fingerprint:
                await asyncio.sleep(FINAL_PAUSE)
