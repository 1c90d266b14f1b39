"""The checkpoints under one root: seen, pinned, waiting, set aside. Knows no store."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from syncd.errors import Refused, Torn, Unreadable, brief
from syncd.local.completion import CORE_RULES, Rule, State, Verdict
from syncd.local.pins import Pin, Pins
from syncd.local.place import Place
from syncd.local.scan import Seen, in_order, scan
from syncd.local.tree import UNREADABLE, Fingerprint, files_below, fingerprint, open_beneath, opened
from syncd.local.trouble import ONE_USER, OWN_DISK, hides, unreadable
from syncd.model.event import Say
from syncd.model.names import FINAL, family, step_of

FIRST_PAUSE, LONGEST_PAUSE = 60.0, 1800.0
"""Seconds until a checkpoint that the disk could not read is tried again: such disks do not mend by themselves."""


@dataclass(frozen=True, slots=True)
class _Later:
    """Content that could not be read, and when (monotonic) it is tried again."""

    content: Fingerprint
    due: float
    pause: float


class Root:
    """One watched directory. Used by one task at a time; what blocks runs in threads."""

    def __init__(
        self,
        path: Path,
        say: Say,
        *,
        globs: Sequence[str] = ("*",),
        rules: Sequence[Rule] = CORE_RULES,
        quiet: float = 10.0,
        reserve: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`globs` choose checkpoints by relative name; `quiet`: seconds unchanged that stand for a missing marker;
        `reserve`: bytes of the disk that a restore leaves free."""
        self.path, self.say, self.globs, self.rules, self.quiet = path, say, globs, rules, quiet
        self.place = Place(path, reserve)
        self.pins = Pins(path)
        self.waiting: list[Pin] = []
        """Pinned and not yet pushed, in the order in which they were seen: clocks jump, discovery does not."""
        self.known: dict[str, Fingerprint] = {}
        """Content that is pinned or stored already: the same is not taken again."""
        self.refused: dict[str, Fingerprint] = {}
        """Content that is never carried, and was told: as soon as it is another it is looked at again."""
        self.families: set[str] = set()
        self._unchanged: dict[str, tuple[Fingerprint, float]] = {}
        self._troubles: dict[str, str] = {}
        self._later: dict[str, _Later] = {}
        self._stale: list[Pin] = []
        self._told_unlinked = False
        self._newest: dict[str, Seen] = {}
        """Of each kind of names, the newest that was taken."""
        self.passed: dict[str, Fingerprint] = {}
        """What was passed over, and is to be noted by whoever keeps notes."""
        self._monotonic = monotonic

    def scan_now(self) -> list[Seen]:
        """What is there, by the rules, oldest save first. Blocks."""
        return scan(self.path, self.rules, self.globs, frozenset(self.families))

    async def scan(self) -> list[Seen]:
        return await asyncio.to_thread(self.scan_now)

    async def look(self, *, writer_gone: bool = False) -> list[Pin]:
        """Scan, and pin what is newly complete. `writer_gone`: nobody writes, so quiet need not be waited for.

        Raises OSError where our own disk refuses.
        """
        for stale in self._stale[:]:
            with suppress(OSError):  # one that cannot go yet keeps nothing else from being seen
                await asyncio.to_thread(self.pins.drop, stale)
                self._stale.remove(stale)
        new = []
        found = await self.scan()
        links = await asyncio.to_thread(self._links_out)
        for name, to in links.items():
            if self._troubles.get(name) != to:
                self._troubles[name] = to
                why = f"{brief(name)} is a link to {brief(to)}; links are not followed: save into {self.path} itself"
                self.say("checkpoint_refused", checkpoint=name, why=why)
        names = {seen.name for seen in found}
        self._unchanged = {name: since for name, since in self._unchanged.items() if name in names}
        self._troubles = {name: why for name, why in self._troubles.items() if name in names | set(links)}
        self._later = {name: later for name, later in self._later.items() if name in names}
        for seen in found:
            if seen.verdict.state is State.HIDDEN:
                self._tell_unreadable(seen.name, await asyncio.to_thread(self._what_hides, seen))
                continue
            if seen.verdict.state is State.COMPLETE and seen.rule == "_SUCCESS":
                self.families.add(family(seen.name))
            # Only files of what is known, but not all of them: a rotation is removing it, this is no new save.
            if seen.name == FINAL or self.refused.get(seen.name) == seen.fingerprint:
                continue
            known = self.known.get(seen.name, ())
            if seen.fingerprint == known or (known and set(seen.fingerprint) <= set(known)):
                continue
            if self._is_passed(seen):
                continue
            if not writer_gone and self._is_for_later(seen):
                continue
            if self._ready(seen, writer_gone) and (pin := await self.pin(seen)):
                new.append(pin)
        return new

    def _links_out(self) -> dict[str, str]:
        """Links in the root that have a checkpoint's name and lead elsewhere, with their targets. Blocks.

        Nothing is followed: what lies behind may be a mount that does not answer."""
        kinds = {family("checkpoint-0"), *self.families, *map(family, self.known)}
        with os.scandir(self.path) as children:
            links = [child.name for child in children if child.is_symlink() and family(child.name) in kinds]
        targets = {}
        for name in links:
            with suppress(OSError):
                targets[name] = str((self.path / name).readlink())
        return {name: to for name, to in targets.items() if "/" in to}

    def _ready(self, seen: Seen, writer_gone: bool) -> bool:
        if seen.complete(writer_gone=writer_gone):
            return True
        if seen.verdict.state is not State.QUIET:
            self._unchanged.pop(seen.name, None)
            return False
        before, since = self._unchanged.get(seen.name, (None, 0.0))
        if before != seen.fingerprint:
            self._unchanged[seen.name] = (seen.fingerprint, self._monotonic())
            return False
        return self._monotonic() - since >= self.quiet

    @property
    def settling(self) -> bool:
        """Whether something is whole by structure and only has to stay quiet."""
        return bool(self._unchanged)

    async def pin(self, seen: Seen) -> Pin | None:
        """Pin what was seen and let it wait; None, and told, when it cannot be. Raises OSError where our own disk refuses."""
        try:
            pin = await asyncio.to_thread(self.pins.take, seen)
        except Unreadable as error:
            self._tell_unreadable(seen.name, str(error))
            return None
        except Torn:
            return None  # it moved while we looked: the next look sees it as it then is
        except Refused as error:
            self.refused[seen.name] = seen.fingerprint
            self._unchanged.pop(seen.name, None)
            self.say("checkpoint_refused", checkpoint=seen.name, why=str(error))
            return None
        except OSError as error:
            if error.errno in OWN_DISK:
                raise
            self._tell_unreadable(seen.name, str(error))
            return None
        for old in [each for each in self.waiting if each.name == seen.name]:
            await self.let_go(old)
        self.took(seen)
        self._unchanged.pop(seen.name, None)
        self._troubles.pop(seen.name, None)
        self.waiting.append(pin)
        self.say(
            "checkpoint_seen",
            checkpoint=pin.name,
            step=pin.step,
            bytes=pin.bytes,
            files=len(pin.files),
            rule=pin.rule,
            waited=round(max(0.0, time.time() - seen.written / 1e9), 3),
        )
        if not pin.linked and not self._told_unlinked:
            await self._tell_unlinked(pin)
        return pin

    def took(self, seen: Seen) -> None:
        """Its content is pinned or stored: the same is not taken again, and what is older is not new any more."""
        kind = family(seen.name)
        self.known[seen.name] = seen.fingerprint
        self._newest[kind] = in_order([self._newest.get(kind, seen), seen])[-1]

    async def _tell_unlinked(self, pin: Pin) -> None:
        """Say once that links are refused for the sake of users; other reasons are the file system's, which has its own."""
        if why := await asyncio.to_thread(self.pins.hindered, pin):
            self._told_unlinked = True
            self.say(
                "not_pinned",
                checkpoint=pin.name,
                why=f"{why}: it cannot be hard-linked (fs.protected_hardlinks), so a rotation can tear it under its upload;"
                f" {ONE_USER}",
            )

    def _tell_unreadable(self, name: str, why: str) -> None:
        if self._troubles.get(name) != why:  # once, not at each scan
            self._troubles[name] = why
            self.say("checkpoint_unreadable", checkpoint=name, why=why)

    def _what_hides(self, seen: Seen) -> str:
        """What of a hidden checkpoint cannot be read."""
        with opened(self.path) as root:
            for path, each in seen.files.items():
                if each == UNREADABLE:
                    return hides(self.path / seen.name / path)
                try:
                    os.close(open_beneath(root, f"{seen.name}/{path}"))
                except OSError as error:
                    return unreadable(self.path / seen.name / path, error)
        return hides(self.path / seen.name)

    def not_read(self, pin: Pin, why: str) -> None:
        """Its bytes could not be read: it is tried again at growing intervals, and told once."""
        before, content = self._later.get(pin.name), fingerprint(pin.files)
        again = before is not None and before.content == content
        pause = min(LONGEST_PAUSE, before.pause * 2) if before and again else FIRST_PAUSE
        self._later[pin.name] = _Later(content, self._monotonic() + pause, pause)
        self.forget(pin)
        if not again:
            self.say("checkpoint_unreadable", checkpoint=pin.name, why=why)

    def _is_passed(self, seen: Seen) -> bool:
        """Whether something newer was taken while this could not be read: pushed now, it would be the newest by its number."""
        hindered = seen.name in self._troubles or seen.name in self._later
        later = (in_order([each, seen])[-1] is each for each in self._newest.values())
        if not hindered or not seen.complete(writer_gone=True) or not any(later):
            return False
        self.known[seen.name] = self.passed[seen.name] = seen.fingerprint
        why = "a newer one was taken while it could not be read"
        self.say("checkpoint_skipped", checkpoint=seen.name, step=seen.verdict.step, why=why)
        return True

    def _is_for_later(self, seen: Seen) -> bool:
        later = self._later.get(seen.name)
        return later is not None and later.content == seen.fingerprint and self._monotonic() < later.due

    async def let_go(self, pin: Pin) -> None:
        """Unpin; the trainer's own copy stays. What the disk does not let go of now goes at a later look."""
        if pin in self.waiting:
            self.waiting.remove(pin)
        try:
            await asyncio.to_thread(self.pins.drop, pin)
        except OSError:
            self._stale.append(pin)

    async def take_up(self, stored: set[str]) -> None:
        """Go on with the pins that an earlier daemon left, but for those whose commit is stored already."""
        for pin in await asyncio.to_thread(self.pins.load):
            self.known[pin.name] = fingerprint(pin.files)
            if pin.commit in stored:
                await self.let_go(pin)
            else:
                self.waiting.append(pin)

    async def clear_pins(self) -> None:
        """Let go of every pin: they belong to another attempt."""
        for pin in await asyncio.to_thread(self.pins.load):
            await self.let_go(pin)

    async def newest(
        self, *, writer_gone: bool, families: Set[str] = frozenset(), without: Set[str] = frozenset()
    ) -> Seen | None:
        """The newest complete checkpoint: what a trainer that starts now will resume.

        Of `families` (kinds of names) where any are given: other directories with a marker are no checkpoints of its.
        `without`: names that count only where their content is new.
        """
        seen = [
            each
            for each in await self.scan()
            if each.complete(writer_gone=writer_gone)
            and each.name != FINAL
            and (not families or family(each.name) in families)
            and not (each.name in without and self.known.get(each.name) == each.fingerprint)
        ]
        return max(seen, key=lambda each: (each.verdict.step or 0, each.written), default=None)

    def forget(self, pin: Pin) -> None:
        """Its content is not stored: seen again it is taken again, unless something newer of the name was taken since."""
        if self.known.get(pin.name) == fingerprint(pin.files):
            del self.known[pin.name]

    async def set_aside_final(self) -> None:
        """Move another line's finished model away: it is not what this attempt's trainer will leave."""
        path = self.path / FINAL
        if path.is_dir() and not path.is_symlink():
            await asyncio.to_thread(self.place.set_aside, [FINAL])
            self.say("final_set_aside")

    async def set_aside_torn(self) -> list[str]:
        """Move torn checkpoints out of the trainer's way: an unchanged `resume_from_checkpoint=True` would pick them."""
        moved = await self.set_aside(lambda seen: seen.verdict.state is State.TORN and seen.name != FINAL, torn=True)
        if moved:
            self.say("torn_set_aside", checkpoints=moved)
        return moved

    async def set_aside(self, which: Callable[[Seen], bool], *, torn: bool = False) -> list[str]:
        """Move into quarantine what is chosen; returns the names."""
        names = [seen.name for seen in await self.scan() if which(seen)]
        for name in names:
            self.known.pop(name, None)
        await asyncio.to_thread(self.place.set_aside, names, torn=torn)
        return names

    def as_is(self, name: str) -> Seen:
        """A directory that is pushed because somebody says so, whatever the rules say. Blocks."""
        with opened(self.path / name) as base:
            return Seen(name, Verdict(State.COMPLETE, "by hand", step_of(name)), "by hand", files_below(base))

    async def final(self) -> Seen | None:
        """`final/`, whatever the rules say but torn: its writer ended with 0, which is a marker of its own."""
        return await asyncio.to_thread(self._final)

    def _final(self) -> Seen | None:
        found = next((each for each in self.scan_now() if each.name == FINAL), None)
        if found is None and (self.path / FINAL).is_dir() and not (self.path / FINAL).is_symlink():
            with opened(self.path / FINAL) as base:
                found = Seen(FINAL, Verdict(State.COMPLETE, "the trainer ended with 0"), "exit", files_below(base))
        return found if found and found.files else None
