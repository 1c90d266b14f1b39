"""Pushing one pinned checkpoint: upload, check, commit (I1, I6)."""

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial

from syncd.decide.push import Check, Commit, Upload, free_name, plan_push
from syncd.errors import Corrupt, NotFound, Refused, Torn, Unreadable
from syncd.local.digest import GoOn, seal_file, sum_file
from syncd.local.pins import Pin
from syncd.local.threads import all_of, descriptor, stoppable, to_its_end
from syncd.local.tree import Identity
from syncd.local.trouble import OWN_DISK, unreadable
from syncd.model import canonical
from syncd.model.checkpoint import Committed, FileEntry, Manifest, parse_manifest
from syncd.model.event import Say, silent
from syncd.model.names import step_of
from syncd.move.objects import Owner, create_once, read_manifest
from syncd.store import Gate, Source, Store

FILES_AT_ONCE = 16
SUMS_AT_ONCE = 4
LONGEST = 10.0
"""Seconds between two tries to store what is not there afterwards."""
Assign = Callable[[Pin, str, int], Pin]


class Pusher:
    """Commits one checkpoint after another for one attempt. Used by one task at a time: numbers grow."""

    def __init__(
        self,
        store: Store,
        owner: Owner,
        gate: Gate,
        *,
        number: int,
        used: set[str],
        begun: set[str],
        seal: str | None = None,
        say: Say = silent,
    ) -> None:
        """`number`: the highest given so far; `used`: commit names taken; `begun`: directories with other objects;
        `seal`: the algorithm of the files' seals, None for none; `say`: told of events."""
        self.store, self.owner, self.gate, self.seal = store, owner, gate, seal
        self.number, self.used, self.begun = number, used, begun
        self.say, self.sleep = say, asyncio.sleep

    async def push(self, pin: Pin, assign: Assign, *, kept: bool = False) -> Committed:
        """Commit a pin. `assign` notes its name and number in the store before bytes are sent under them: a commit that
        took effect unanswered, and is let go, shares its number with no other.

        Raises `Torn` when the source did not hold still, `Unreadable` where its disk fails: nothing is then committed, and
        the name is not used again. `Refused` for what nobody could read back.
        """
        if pin.commit is None:
            name = free_name(pin.name, self.used, self.begun)
            self.used.add(name)
            self.number += 1
            pin = await to_its_end(assign, pin, name, self.number)
        with _reading(pin):
            entries = await all_of(
                (partial(stoppable, self._sum, pin, path) for path in sorted(pin.files)), SUMS_AT_ONCE
            )
        manifest = self._manifest(pin, tuple(entries), kept)
        await to_its_end(_readable, manifest)
        steps = plan_push(manifest)
        uploads = [step for step in steps if isinstance(step, Upload)]
        await self._uploads(pin, manifest, uploads)
        for step in steps[len(uploads) :]:
            if isinstance(step, Check):
                await self._check(pin, manifest, uploads)
            elif isinstance(step, Commit):
                return await self._commit(pin, step.manifest)
        raise AssertionError("a plan ends in a commit")

    def _manifest(self, pin: Pin, entries: tuple[FileEntry, ...], kept: bool) -> Manifest:
        assert pin.commit is not None
        assert pin.commit_number is not None
        return Manifest(
            task=self.owner.keys.task, attempt=self.owner.attempt, number=pin.commit_number, name=pin.name, commit=pin.commit,
            kind="directory", step=pin.step if pin.step is not None else step_of(pin.name), rule=pin.rule,
            time=pin.written / 1e9, files=entries, kept=kept,
        )  # fmt: skip

    def _sum(self, pin: Pin, path: str, check: GoOn) -> FileEntry:
        fd = pin.open(path)
        try:
            size = pin.files[path].size
            seal = seal_file(fd, size, self.seal, check) if self.seal else None
            return FileEntry(path, size, pin.files[path].mode & 0o777, sum_file(fd, size, check), seal)
        finally:
            os.close(fd)

    async def _uploads(self, pin: Pin, manifest: Manifest, uploads: list[Upload]) -> None:
        await all_of((partial(self._upload, pin, manifest, step.entry) for step in uploads), FILES_AT_ONCE)

    async def _upload(self, pin: Pin, manifest: Manifest, entry: FileEntry) -> None:
        async with AsyncExitStack() as stack:
            with _reading(pin):
                fd = await stack.enter_async_context(descriptor(pin.open, entry.path))
                before = Identity.of(os.fstat(fd))
            key = self.owner.keys.file(manifest.attempt, manifest.commit, entry.path)
            await self.store.upload(key, Source(fd, entry.size, entry.sum), self.gate)
            with _reading(pin):
                await stoppable(_held_still, fd, before, entry, pin.name)

    async def _check(self, pin: Pin, manifest: Manifest, uploads: list[Upload]) -> None:
        """Every file is stored with its size, and the source is as it was: else upload again, or `Torn`."""
        prefix = self.owner.keys.files(manifest.attempt, manifest.commit)
        for tries in itertools.count():
            there = {entry.key: entry.size for entry in await self.store.list(prefix)}
            lacking = [step for step in uploads if there.get(prefix + step.entry.path) != step.entry.size]
            if not lacking:
                break
            if tries:  # somebody deletes them, or the store says other sizes than it was sent: no reason to press it
                first, size = prefix + lacking[0].entry.path, lacking[0].entry.size
                self.say("not_as_sent", key=first, bytes=size, listed=there.get(first), files=len(lacking))
                await self.sleep(min(LONGEST, 2.0 ** min(tries, 10)))
            await self._uploads(pin, manifest, lacking)
        with _reading(pin):
            await to_its_end(_all_still, pin)

    async def _commit(self, pin: Pin, manifest: Manifest) -> Committed:
        key = self.owner.keys.manifest(manifest.attempt, manifest.commit)
        data = canonical.encode(manifest)
        if await create_once(self.store, key, data):
            return Committed(manifest, canonical.digest(data))
        # A put of an earlier process of this attempt took effect late. Of the same bytes it is this commit.
        try:
            there = await read_manifest(self.store, self.owner.keys, manifest.attempt, manifest.commit)
        except (NotFound, Corrupt) as error:
            raise Torn(f"{key}: {error}") from None
        self.number = max(self.number, there.manifest.number)
        if there.manifest.files == manifest.files:
            return there
        raise Torn(f"{pin.name}: {manifest.commit} was committed with other content by an earlier process")


def _readable(manifest: Manifest) -> None:
    """Raise `Refused` for a manifest that no restore would take: better now than when it is needed."""
    try:
        parse_manifest(canonical.encode(manifest), manifest.name)
    except Corrupt as error:
        raise Refused(f"{error}; {manifest.name} is not pushed, since it could not be restored") from None


@contextmanager
def _reading(pin: Pin) -> Iterator[None]:
    """An error of the source's disk: what cannot be read cannot be committed. Not around the store, whose disk may fail."""
    try:
        yield
    except OSError as error:
        if error.errno in OWN_DISK:
            raise Unreadable(unreadable(pin.place, error)) from None
        raise Torn(f"{pin.name}: {error}") from None


def _held_still(fd: int, before: Identity, entry: FileEntry, name: str, check: GoOn) -> None:
    """Raise `Torn` unless the file is what was sent.

    The change time alone moves when a rotation unlinks the trainer's own name of the file: then the bytes decide.
    """
    after = Identity.of(os.fstat(fd))
    if not after.same_content(before) or (after != before and sum_file(fd, entry.size, check) != entry.sum):
        raise Torn(f"{name}/{entry.path} was written to while it was uploaded")


def _all_still(pin: Pin) -> None:
    for path in pin.files:
        os.close(pin.open(path))
