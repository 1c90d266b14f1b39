"""Playing the rounds: start a node, let it commit, do the fault, look what the next one resumes."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from syncd.decide.rehearsal import Begin, Damage, Death, Exit, Fault, Finish, Round, judge
from syncd.errors import ConfigError, Corrupt, NotFound
from syncd.model.attempt import LineItem
from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys
from syncd.move.audit import audit
from syncd.move.objects import read_commits, read_done, read_item, read_record, standing
from syncd.move.start import choose
from syncd.rehearsal import trainer
from syncd.rehearsal.node import POLL, Failing, Node, Over, Stuck
from syncd.store import Gate, Store

PAUSE = 0.6
"""Seconds that a step takes; each is saved."""
GRACE = 20.0
PATIENCE = 180.0
"""Seconds for a start, or for a commit; more for large checkpoints, which may be slow."""
SLOWEST = 256 << 10
"""Bytes a second of the slowest link that is waited for."""
FENCE_PATIENCE = 60.0
"""Seconds in which an overtaken node must have left."""
FLIP_UPTO = 32 << 20
"""Bytes of the largest object that is read and written again to damage it."""
COMMITTED, PUSHED = "committed", "saved in a drain that had the time to push it"
OWN = {
    "SYNCD_HEARTBEAT": "1",
    "SYNCD_SCAN_INTERVAL": "1",
    "SYNCD_GRACE": f"{GRACE:g}",
    "SYNCD_STALL_AFTER": "0",
    "SYNCD_MAX_RESTARTS": "3",
    "SYNCD_CHECKPOINTS": "*",
    "SYNCD_LOG_FORMAT": "json",
    "SYNCD_LOG_LEVEL": "info",
}
"""Settings of the nodes that are the rehearsal's, not the operator's."""


@dataclass(slots=True)
class Played:
    """What came of a round: `resumed` and `known` are steps; None where its trainer did not begin."""

    round: Round
    resumed: int | None = None
    known: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Seen:
    """All that is reported. `lost_steps`: by fault, the most that a trainer had to do again after it."""

    played: list[Played] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lost_steps: dict[Fault, int] = field(default_factory=dict)
    lives: int = 0
    kills: int = 0
    commits: int = 0
    restores: int = 0
    fenced: int = 0
    survived: int = 0
    store_away: int = 0
    finished: bool = False
    restore_seconds: list[float] = field(default_factory=list)
    commit_seconds: list[float] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Hurt:
    """A commit that was damaged on purpose, in the time of which attempt: whoever passes it over must say so."""

    commit: Committed
    attempts: int


class Rehearsal:
    """One task and the nodes that play it. `play()` goes through all rounds; `end()` kills what is left at any time."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        gate: Gate,
        rounds: Sequence[Round],
        *,
        size: int,
        home: Path,
        env: Mapping[str, str],
        tell: Callable[[Played], None],
    ) -> None:
        """`env`: the nodes' environment; `home`: a scratch directory; `tell` gets each round when it is over."""
        self.store, self.keys, self.gate, self.rounds, self.size, self.home = store, keys, gate, rounds, size, home
        self._patience = PATIENCE + size / SLOWEST
        self._finish = home / "finish"
        (home / "syncd.toml").touch()  # none of the operator's: what it says is in `env`
        self._env = {**env, **OWN, "SYNCD_TASK": keys.task, "SYNCD_CONFIG": str(home / "syncd.toml")}
        self._tell = tell
        self.seen = Seen()
        self._nodes: list[Node] = []
        self._kept: Node | None = None
        """The node whose disk the next life finds; None: it gets a new one."""
        self._durable, self._because = 0, COMMITTED
        """The newest step that must come back whatever is lost, and why."""
        self._local = 0
        """The newest step on the disk that was kept."""
        self._trained = 0
        """The newest step that was saved anywhere since the last trainer began."""
        self._before: Fault | None = None
        self._hurt: Hurt | None = None
        self._damaged: dict[tuple[int, str], Committed] = {}
        self._late: set[tuple[str, int]] = set()
        self._foreign: set[tuple[int, str]] = set()
        self._now: Played | None = None

    # ---- the whole

    async def play(self) -> None:
        """All rounds, then the end. What is wrong is in `seen`.

        Raises the store's errors, `OSError` for the scratch disk, and `ConfigError` where no node can start at all.
        """
        for each in self.rounds:
            self._now = played = Played(each)
            began = time.monotonic()
            goes_on = await self._unless_stuck(self._play(each))
            played.seconds = time.monotonic() - began
            if played.resumed is not None or not each.keep_disk:
                self._before = each.fault
            # Else a start was cut off and nothing lost by it: the next begin tells what the fault before cost.
            self.seen.played.append(played)
            self._tell(played)
            if not goes_on:
                return
        self._now = None
        await self._unless_stuck(self._end())

    async def _unless_stuck(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether it can go on after this work."""
        try:
            await work
        except Over:
            return False
        except Stuck as error:
            if error.code == ConfigError.exit_code and not self.seen.start_seconds:
                raise ConfigError(str(error)) from None  # nothing was lost: nothing was ever begun
            await standing(self.store, self.keys)  # raises where it is the store that does not answer
            self._wrong([str(error)])
            return False
        return True

    def end(self) -> None:
        """Kill every process that is left. Blocks."""
        for node in self._nodes:
            node.kill()
        for node in self._nodes:
            self._count(node)
        self._nodes.clear()

    def _wrong(self, lines: Sequence[str]) -> None:
        where = "at the end: "
        if self._now:
            where = f"round {self._now.round.number} ({self._now.round.fault}): "
            self._now.wrong += lines
        self.seen.wrong += [where + line for line in lines]

    async def _play(self, each: Round) -> None:
        if each.fault is Fault.START_KILLED:
            return await self._start_killed(each)
        if each.fault is Fault.TWO_AT_ONCE:
            return await self._two_at_once(each)
        node = await self._begun(self._start(each))
        if each.fault is Fault.FROZEN:
            return await self._frozen(node, each)
        await self._until_committed(node, each.commits)
        await asyncio.sleep(each.delay)
        match each.fault:
            case Fault.NODE_LOST | Fault.STORE_FAILING:
                await self._killed(node, keep_disk=False)
            case Fault.NODE_KILLED:
                await self._killed(node, keep_disk=True)
            case Fault.DAEMON_KILLED:
                self.seen.kills += 1
                node.signal(signal.SIGKILL, [node.head])
                await node.ended(self._patience)
                await self._dead(node, keep_disk=True)
            case Fault.TRAINER_KILLED:
                await self._trainer_killed(node)
            case Fault.DRAINED:
                await self._drained(node)
            case Fault.OBJECT_DAMAGED:
                await self._killed(node, keep_disk=False)
                await self._damage(each)
        return None

    # ---- lives

    def _start(self, each: Round | None) -> Node:
        """A life on the disk that was kept, or on a new one."""
        node = self._kept or self._new_node()
        self._kept = None
        self.seen.lives += 1
        node.start(Failing(each.seed) if each and each.failing else None)
        return node

    def _new_node(self) -> Node:
        number = 1 + sum(path.name.startswith("node-") for path in self.home.iterdir())
        options = ["--size", str(self.size), "--pause", f"{PAUSE:g}", "--finish", str(self._finish)]
        node = Node(f"node-{number}", self.home / f"node-{number}", self._env, options)
        self._nodes.append(node)
        return node

    async def _begun(self, node: Node) -> Node:
        """Wait until its trainer has begun, and judge what it resumed."""
        lives = len(node.noted("begin"))
        await node.until(lambda: len(node.noted("begin")) > lives, "its trainer began", self._patience)
        self.seen.start_seconds.append(time.monotonic() - node.began)
        await self._judge_begin(node)
        return node

    async def _judge_begin(self, node: Node) -> None:
        note = node.noted("begin")[-1]
        attempt = node.attempt
        record = await read_record(self.store, self.keys, attempt) if attempt else None
        line = record.items(self.keys.record(attempt)) if record and attempt else ()
        foreign = tuple(str(item) for item in line if (item.attempt, item.commit) in self._foreign)
        hurt = self._hurt
        begin = Begin(
            step=int(note["step"]),
            known=max(self._durable, self._local),
            because=self._because if self._durable >= self._local else "on the disk that was kept",
            wrong=tuple(note["wrong"]),
            author=note["author"],
            damaged=hurt.commit.manifest.step if hurt else None,
            told=hurt is None or await self._was_told(hurt),
            late=self._late,
            foreign=foreign,
        )
        wrong = judge(begin)
        self._wrong(wrong)
        if begin.wrong:
            raise Over  # its trainer refuses to train on
        if hurt and not wrong:
            self.seen.survived += 1
        if self._before:
            lost = max(0, self._trained - begin.step)
            self.seen.lost_steps[self._before] = max(self.seen.lost_steps.get(self._before, 0), lost)
        if self._now and self._now.resumed is None:
            self._now.resumed, self._now.known = begin.step, begin.known
        # What was lost is said once: the rounds that follow are judged by what is there now.
        self._durable, self._local, self._hurt = min(self._durable, begin.step), begin.step, None
        self._trained = begin.step

    async def _was_told(self, hurt: Hurt) -> bool:
        """Whether an event or a record names the damaged commit: a node may die between the record and its telling."""
        prefix, manifest = self._keys_of(hurt.commit)
        places = [str(line.get("key")) for node in self._nodes for line in node.told("checkpoint_damaged")]
        for number in (await standing(self.store, self.keys)).attempts:
            if number > hurt.attempts:
                record = await read_record(self.store, self.keys, number)
                places += [skipped.key for skipped in record.skipped] if record else []
        named = f"{self.keys.top}{hurt.commit.item}"
        return any(place in (named, manifest) or place.startswith(prefix) for place in places)

    def _keys_of(self, found: Committed) -> tuple[str, str]:
        return self.keys.files(found.attempt, found.commit), self.keys.manifest(found.attempt, found.commit)

    async def _until_committed(self, node: Node, more: int) -> None:
        before = len(node.told("checkpoint_committed"))
        enough = before + more
        await node.until(lambda: len(node.told("checkpoint_committed")) >= enough, f"{more} commits", self._patience)

    # ---- deaths

    async def _killed(self, node: Node, *, keep_disk: bool) -> None:
        self.seen.kills += 1
        await asyncio.to_thread(node.kill)
        await self._dead(node, keep_disk=keep_disk)

    async def _dead(self, node: Node, *, keep_disk: bool) -> None:
        """Take down what must not be lost now; the disk stays for the next life, or is gone."""
        await self._take_down(node)
        if keep_disk:
            self._local = max(self._local, node.saved)
            self._kept = node
        else:
            await self._drop(node)

    async def _take_down(self, node: Node) -> None:
        node.look()
        line = await self._line()
        stored = (line[0].manifest.step or 0) if line else 0
        self._wrong(judge(Death(node.committed, stored)))
        self._trained = max(self._trained, node.saved, self._durable, self._local)
        newest = max(node.committed, stored)
        if newest >= self._durable:
            self._durable, self._because = newest, COMMITTED

    async def _drop(self, node: Node) -> None:
        """The node is no more: its disk is removed, its log stays."""
        self._count(node)
        self._nodes.remove(node)
        self._local = 0
        await asyncio.to_thread(node.lose_disk)

    def _count(self, node: Node) -> None:
        """Take into the report what a node told in all its lives."""
        node.look()
        commits, restores = node.told("checkpoint_committed"), node.told("restored")
        self.seen.commits += len(commits)
        self.seen.restores += len(restores)
        self.seen.store_away += len(node.told("store_away"))
        self.seen.commit_seconds += [float(line["seconds"]) for line in commits]
        self.seen.restore_seconds += [float(line["seconds"]) for line in restores]

    async def _line(self) -> list[Committed]:
        """The newest commits that a new node would find, two at most, without those that were damaged on purpose."""
        below = (await standing(self.store, self.keys)).newest + 1
        choice = await choose(self.store, self.keys, below)
        found: list[Committed] = []
        for item in choice.candidates:
            if (item.attempt, item.commit) not in self._damaged:
                try:
                    found.append(await read_item(self.store, self.keys, item))
                except (NotFound, Corrupt):
                    continue
            if len(found) == 2:
                break
        return found

    # ---- the faults that are more than a death

    async def _start_killed(self, each: Round) -> None:
        node = self._start(each)
        began = len(node.noted("begin"))
        await asyncio.sleep(2 * each.delay)
        self.seen.kills += 1
        await asyncio.to_thread(node.kill)
        if len(node.noted("begin")) > began:
            await self._judge_begin(node)
        await self._dead(node, keep_disk=each.keep_disk)

    async def _trainer_killed(self, node: Node) -> None:
        node.look()
        begun = len(node.noted("begin"))
        self._local = node.saved
        self._trained = max(self._local, self._durable)
        self.seen.kills += 1
        node.signal(signal.SIGKILL, [int(node.noted("begin")[-1]["pid"])])
        await node.until(lambda: len(node.noted("begin")) > begun, "the trainer was started again", self._patience)
        self._before = Fault.TRAINER_KILLED
        await self._judge_begin(node)
        await self._until_committed(node, 1)
        await self._killed(node, keep_disk=True)

    async def _drained(self, node: Node) -> None:
        began = time.monotonic()
        node.signal(signal.SIGTERM, [node.head])
        code = await node.ended(GRACE + self._patience)
        took = time.monotonic() - began
        self._wrong(judge(Exit("a node that got SIGTERM", 75, code, took, len(node.pids()))))
        if code is None:
            return await self._killed(node, keep_disk=False)
        await self._dead(node, keep_disk=False)
        if node.saved > self._durable and not node.told("not_durable"):
            self._durable, self._because = node.saved, PUSHED
        return None

    async def _damage(self, each: Round) -> None:
        """Spoil the newest commit: an object of it, or its manifest."""
        line = await self._line()
        if len(line) < 2:
            raise Stuck(f"{len(line)} commits are in the line, and two were made: there is nothing to fall back to")
        newest, older = line
        prefix, manifest = self._keys_of(newest)
        self._damaged[newest.attempt, newest.commit] = newest
        self._hurt = Hurt(newest, (await standing(self.store, self.keys)).newest)
        small = [entry for entry in newest.manifest.files if 0 < entry.size <= FLIP_UPTO]
        key = manifest if each.damage is Damage.MANIFEST_CUT else prefix + small[each.seed % len(small)].path
        if each.damage is Damage.GONE:
            await self.store.delete(key)
        else:
            data = bytearray(await self.store.get(key))
            if each.damage is Damage.FLIPPED:
                data[each.seed % len(data)] ^= 1 << each.seed % 8
            else:
                del data[len(data) // 2 :]
            await self.store.put(key, bytes(data))
        self._durable, self._because = older.manifest.step or 0, "committed, and not damaged"

    async def _frozen(self, zombie: Node, each: Round) -> None:
        await self._until_committed(zombie, each.commits)
        await asyncio.sleep(each.delay)
        zombie.signal(signal.SIGSTOP)
        await self._take_down(zombie)
        self._before, self._local = each.fault, 0
        owner = await self._begun(self._start(None))
        taken = int(owner.noted("begin")[-1]["step"])
        await self._until_committed(owner, 1)

        zombie.signal(signal.SIGCONT)
        await self._fenced(zombie, owner, "an overtaken node that went on", taken)
        await self._killed(owner, keep_disk=each.keep_disk)

    async def _two_at_once(self, each: Round) -> None:
        """One of them owns the task, the other leaves it, whether it has begun to train or not."""
        kept = self._kept
        nodes = [self._start(each), self._start(replace(each, seed=each.seed + 1))]
        begun = len(kept.noted("begin")) if kept else 0
        self._local = 0  # the other may win
        deadline = time.monotonic() + self._patience
        while all(node.code is None for node in nodes) and time.monotonic() < deadline:  # noqa: ASYNC110 - no children of the loop
            await asyncio.sleep(POLL)
        loser = nodes[0] if nodes[0].code is not None else nodes[1]
        owner = nodes[1] if loser is nodes[0] else nodes[0]
        before = begun if owner is kept else 0
        await owner.until(lambda: len(owner.noted("begin")) > before, "its trainer began", self._patience)
        await self._judge_begin(owner)
        taken = int(owner.noted("begin")[-1]["step"])
        await self._fenced(loser, owner, "one of two nodes that started at once", taken)
        await self._until_committed(owner, each.commits)
        await self._killed(owner, keep_disk=each.keep_disk)

    async def _fenced(self, zombie: Node, owner: Node, what: str, taken: int) -> None:
        """The zombie must leave; nothing that it did after its successor took `taken` may ever come back."""
        began = time.monotonic()
        code = await zombie.ended(FENCE_PATIENCE)
        wrong = judge(Exit(what, 77, code, time.monotonic() - began, len(zombie.pids())))
        self._wrong(wrong)
        self.seen.fenced += not wrong
        if code is None:
            await asyncio.to_thread(zombie.kill)
        zombie.look()
        self._late |= {(zombie.name, int(line["step"])) for line in zombie.noted("saved") if int(line["step"]) > taken}
        await self._note_foreign(zombie, owner)
        await self._drop(zombie)

    async def _note_foreign(self, zombie: Node, owner: Node) -> None:
        """What the zombie committed and its successor's record does not name may be in no line, ever."""
        if zombie.attempt is None or owner.attempt is None:
            return
        record = await read_record(self.store, self.keys, owner.attempt)
        line = {(item.attempt, item.commit) for item in record.items("line")} if record else set()
        commits = await read_commits(self.store, self.keys, zombie.attempt)
        self._foreign |= {(found.attempt, found.commit) for found in commits.good} - line

    # ---- the end

    async def _end(self) -> None:
        """The trainer finishes: the task is done, its model and all that is stored are right."""
        self._finish.touch()
        node = await self._begun(self._start(None))
        began = time.monotonic()
        code = await node.ended(3 * self._patience)
        self._wrong(judge(Exit("the last node", 0, code, time.monotonic() - began, len(node.pids()))))
        if code is None:
            await asyncio.to_thread(node.kill)
        saved = max((int(line["step"]) for line in node.noted("finished")), default=0)
        done = await read_done(self.store, self.keys)
        wrong = await self._wrong_in(done.item(self.keys.done), saved) if done else []
        audited = await audit(self.store, self.keys, deep=True, gate=self.gate)
        damaged = [place for found in self._damaged.values() for place in self._keys_of(found)]
        problems = tuple(text for text in audited.problems if not any(place in text for place in damaged))
        finish = Finish(done is not None, saved, done.step if done else None, tuple(wrong), problems)
        self._wrong(judge(finish))
        self.seen.finished = done is not None
        self._count(node)
        self._nodes.remove(node)

    async def _wrong_in(self, item: LineItem, step: int) -> list[str]:
        """The files of the stored model that are not what is saved at `step`."""
        try:
            result = await read_item(self.store, self.keys, item)
        except (NotFound, Corrupt):
            return [f"the manifest of {item.commit}"]
        wrong = []
        sizes = {entry.path: entry.size for entry in result.manifest.files}
        prefix, _ = self._keys_of(result)
        for name, size in trainer.layout(self.size).items():
            same, offset = sizes.get(name) == size, 0
            with suppress(NotFound):
                for block in trainer.content(trainer.FINAL, step, name, size):
                    same = same and await self.store.get(prefix + name, offset, len(block)) == block
                    offset += len(block)
            if not same or offset != size:
                wrong.append(name)
        return wrong
