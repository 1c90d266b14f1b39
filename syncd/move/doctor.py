"""Asking a real store what it can do, below a prefix that no task has, of which nothing is left where it may be deleted."""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Self

from syncd.decide.doctor import QUESTIONS, STORE
from syncd.errors import Denied, Exists, NotFound, StoreError, SyncdError, Torn, Transient
from syncd.local.digest import sum_bytes
from syncd.local.threads import all_of
from syncd.model.answer import Answer
from syncd.model.keys import scratch
from syncd.move.link import LANES, Link, memory
from syncd.move.objects import create_once
from syncd.store import Entry, Gate, Source
from syncd.store.wrap import Retrying

RIVALS = 4
"""Create-only puts of one key at once."""
ASKING, CLEANING = 95.0, 25.0
"""Seconds for all questions together, and to remove what was tried: a link that stalls must not hold anybody up."""
LATE = f"no answer within the {ASKING:.0f} s that all questions have"

Question = Callable[[], Awaitable[Answer]]


class Doctor:
    """The questions to one store. What it writes is removed at the end of its context; `left`: what is there even so,
    by the last listing that was answered; `not_cleaned`: why, where the store did not say.

    `most`: bytes that may be moved each way to measure the link, `largest`: that one file may have. `away`: the store
    stopped answering, and nothing more was asked; `owing`: it did not answer something that a run needs. When `ASKING`
    seconds are over, each question that is left has no answer.
    """

    def __init__(self, store: Retrying, up: Gate, down: Gate, *, most: int, largest: int, token: str) -> None:
        self.store, self.top = store, scratch(token)
        self._link = Link(store, self.top, up, down, most=most, largest=largest)
        self.away = self.owing = False
        self.left: list[Entry] = []
        self.not_cleaned: str | None = None
        self._gate_up = up
        self._reached, self._may_delete, self._may_write = False, True, True
        self._until = 0.0

    async def __aenter__(self) -> Self:
        self._until = asyncio.get_running_loop().time() + ASKING
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reached:
            try:
                async with asyncio.timeout(CLEANING):
                    await self._clean()
            except TimeoutError:
                self.not_cleaned = f"the store did not remove it within {CLEANING:.0f} s"
            except SyncdError as failed:
                self.not_cleaned = str(failed)

    async def about(self) -> Mapping[str, str]:
        """What the store says of itself; nothing where it says nothing."""
        telling = self.store.telling
        if telling is None:
            return {}
        try:
            async with asyncio.timeout_at(self._until):
                return await self.store.ask(telling.about)
        except TimeoutError:
            return {"about": LATE}
        except StoreError as error:
            return {"about": str(error)}

    async def ask(self) -> AsyncIterator[tuple[str, Answer]]:
        """The answers, by the questions' keys. Ends where the store cannot be reached, or is no longer."""
        own: Mapping[str, Question] = {
            "reach": self._reach, "put": self._put, "delete": self._delete, "gone": self._gone, "create": self._create,
            "list": self._list, "replace": self._replace, "ranges": self._ranges, "held": self._held,
            "latency": self._latency, "up": self._link.up, "down": self._link.down, "upload": self._upload,
            "resume": self._resumes,
        }  # fmt: skip
        for key in STORE:
            if (QUESTIONS[key].offered and not self._tells(key)) or (key in own and not self._may_write):
                continue
            answer = await self._answered(key, own[key]) if key in own else await self._told(key)
            yield key, answer
            if self.away or not self._reached:
                return
            if key == "put" and not answer.yes:
                self._may_write = False

    async def _answered(self, key: str, question: Question) -> Answer:
        try:
            async with asyncio.timeout_at(self._until):
                return await question()
        except TimeoutError:
            self.owing = self.owing or QUESTIONS[key].needed
            return Answer(None, LATE)
        except Transient as error:
            self.owing = self.owing or QUESTIONS[key].needed
            self.away = not await self._answers()
            return Answer(None, str(error))
        except (Torn, OSError) as error:
            return Answer(None, str(error))
        except SyncdError as error:
            return Answer(False, str(error))

    async def _answers(self) -> bool:
        """Whether the store is still there, so that the next question is worth asking."""
        try:
            async with asyncio.timeout_at(self._until):
                await self.store.list(self.top, shallow=True)
        except (Transient, TimeoutError):
            return False
        except SyncdError:
            pass
        return True

    async def _told(self, key: str) -> Answer:
        """The store's own answer; one that it has no right to ask for is none."""
        telling = self.store.telling
        probe = telling.probes().get(key) if telling else None
        if probe is None:
            return Answer(None, "this store does not tell")

        async def question() -> Answer:
            try:
                return await self.store.ask(partial(probe, self.top + key))
            except Transient:
                raise
            except StoreError as error:
                return Answer(None, str(error))

        return await self._answered(key, question)

    # ---- small objects

    async def _reach(self) -> Answer:
        await self.store.list(self.top, shallow=True)
        self._reached = True
        return Answer(True)

    async def _put(self) -> Answer:
        data = os.urandom(4096)
        await self.store.put(self.top + "put", data)
        return Answer(await self.store.get(self.top + "put") == data)

    async def _delete(self) -> Answer:
        await self.store.put(self.top + "delete", b"x")
        try:
            await self.store.delete(self.top + "delete")
        except Denied as error:
            self._may_delete = False
            return Answer(False, str(error))
        return Answer(True)

    async def _gone(self) -> Answer:
        if not self._may_delete:
            return Answer(None, "nothing may be deleted")
        listed = [entry.key for entry in await self.store.list(self.top)]
        try:
            await self.store.get(self.top + "delete")
        except NotFound:
            return Answer(
                self.top + "delete" not in listed, "" if self.top + "delete" not in listed else "it is listed"
            )
        return Answer(False, "it can still be read")

    async def _create(self) -> Answer:
        """One after another, then some at once: exactly one may win, and what it wrote stands."""
        key = self.top + "create"
        first = os.urandom(32)
        if not await create_once(self.store, key, first):
            return Answer(False, "a new object was refused")
        try:
            await self.store.create(key, os.urandom(32))
        except Exists:
            if await self.store.get(key) != first:
                return Answer(False, "it was refused, and replaced what was there")
        else:
            return Answer(False, "it was not refused")

        rivals = [os.urandom(32) for _ in range(RIVALS)]
        won = await all_of((partial(create_once, self.store, key + "-race", rival) for rival in rivals), RIVALS)
        if won.count(True) != 1:
            return Answer(False, f"of {RIVALS} at once {won.count(True)} were taken")
        return Answer(await self.store.get(key + "-race") == rivals[won.index(True)])

    async def _list(self) -> Answer:
        below = self.top + "list/"
        for name in ("a", "b/c"):
            await self.store.put(below + name, name.encode())
        deep, shallow = await self.store.list(below), await self.store.list(below, shallow=True)
        if deep != [Entry(below + "a", 1), Entry(below + "b/c", 3)]:
            return Answer(False, f"{len(deep)} of 2 objects are listed as they are")
        if shallow != [Entry(below + "a", 1), Entry(below + "b/", 0)]:
            return Answer(False, "a shallow listing shows other things")
        return Answer(True)

    async def _replace(self) -> Answer:
        key, data = self.top + "put", os.urandom(5000)
        await self.store.put(key, data)
        got, listed = await self.store.get(key), await self.store.list(self.top)
        return Answer(got == data and Entry(key, len(data)) in listed)

    async def _ranges(self) -> Answer:
        key, data = self.top + "put", os.urandom(5000)
        await self.store.put(key, data)
        with memory() as fd:
            piece = await self.store.get(key, 1000, 500)
            came = [await self.store.fetch(key, 0, 2000, fd), await self.store.fetch(key, 2000, 9000, fd)]
            whole = os.pread(fd, 6000, 0)
        if [each.nbytes for each in came] != [2000, 3000]:
            return Answer(False, f"{[each.nbytes for each in came]} bytes came of [2000, 3000]")
        return Answer(piece == data[1000:1500] and whole == data)

    async def _held(self) -> Answer:
        """The client's half and, where sums are sent, the server's: I6 hangs on it."""
        data = os.urandom(64 << 10)
        with memory(data) as fd:
            try:
                wrong = Source(fd, len(data), sum_bytes(data[:-1] + bytes([data[-1] ^ 1])))
                await self.store.upload(self.top + "held", wrong, self._gate_up)
            except Torn:
                return Answer(True)
        return Answer(False, "it was taken")

    async def _latency(self) -> Answer:
        took = []
        for _ in range(3):
            began = time.monotonic()
            await self.store.put(self.top + "put", b"x" * 500)
            took.append(time.monotonic() - began)
        return Answer(True, f"{1000 * statistics.median(took):.0f} ms", round(statistics.median(took), 4))

    def _tells(self, key: str) -> bool:
        telling = self.store.telling
        return telling is not None and key in telling.probes()

    async def _upload(self) -> Answer:
        return await self._link.upload(partial(self._told, "resume") if self._tells("resume") else None)

    async def _resumes(self) -> Answer:
        if self._link.resumed is None and self._tells("resume"):
            return await self._told("resume")
        return self._link.resumed or Answer(None, "no file of several ranges was sent")

    # ---- the end

    async def _clean(self) -> None:
        """Remove everything; what may not be removed is emptied, so that it weighs nothing."""
        if self._link.interrupted and self.store.telling:
            await self.store.ask(partial(self.store.telling.tidy, self._link.interrupted))
        self.left = await self.store.list(self.top)
        if self._may_delete:
            await all_of((partial(self.store.delete, entry.key) for entry in self.left), LANES)
        else:
            for entry in self.left:
                if entry.size:
                    await self.store.put(entry.key, b"")
        self.left = await self.store.list(self.top)
