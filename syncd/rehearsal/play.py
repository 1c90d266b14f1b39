"""Playing the rounds: start a node, let it commit, do the fault, look what the next one resumes."""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from syncd.decide.rehearsal import Damage, Exit, Fault, Round, judge
from syncd.errors import ConfigError
from syncd.model.keys import Keys
from syncd.move.objects import standing
from syncd.rehearsal.ledger import Ledger, Played
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
OWN = {
    "SYNCD_HEARTBEAT": "1",
    "SYNCD_SCAN_INTERVAL": "1",
    "SYNCD_GRACE": f"{GRACE:g}",
    "SYNCD_STALL_AFTER": "0",
    "SYNCD_MAX_RESTARTS": "3",
    "SYNCD_CHECKPOINTS": "*",
    "SYNCD_LOG_FORMAT": "json",
    "SYNCD_LOG_LEVEL": "info",
    "SYNCD_GROUP": "chaos",
    "SYNCD_EXTRA": ",",
}
"""Settings of the nodes that are the rehearsal's, not the operator's. Each has a value: an empty one would let that of .env
count, and the directory is the operator's, since paths of theirs may be relative. `,` are no patterns."""


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
        self.store, self.keys, self.rounds, self.size, self.home = store, keys, rounds, size, home
        self._patience = PATIENCE + size / SLOWEST
        self._finish = home / "finish"
        (home / "syncd.toml").touch()  # none of the operator's: what it says is in `env`
        self._env = {**env, **OWN, "SYNCD_TASK": keys.task, "SYNCD_CONFIG": str(home / "syncd.toml")}
        self._tell = tell
        self.ledger = Ledger(store, keys, gate, size)
        self._nodes: list[Node] = []
        self.living: list[str] = []
        """A line for each node of which processes could not be killed."""
        self._kept: Node | None = None
        """The node whose disk the next life finds; None: it gets a new one."""

    # ---- the whole

    async def play(self) -> None:
        """All rounds, then the end. What is wrong is in `ledger.seen`.

        Raises the store's errors, `OSError` for the scratch disk, and `ConfigError` where no node can start at all.
        """
        for each in self.rounds:
            played = self.ledger.begin_round(each)
            began = time.monotonic()
            goes_on = await self._unless_stuck(self._play(each))
            played.seconds = time.monotonic() - began
            self.ledger.end_round(each)
            self._tell(played)
            if not goes_on:
                return
        self.ledger.now = None
        await self._unless_stuck(self._end())

    async def _unless_stuck(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether it can go on after this work."""
        try:
            await work
        except Over:
            return False
        except Stuck as error:
            if error.code == ConfigError.exit_code and not self.ledger.seen.start_seconds:
                raise ConfigError(str(error)) from None  # nothing was lost: nothing was ever begun
            await standing(self.store, self.keys)  # raises where it is the store that does not answer
            self.ledger.note_wrong([str(error)])
            return False
        return True

    def end(self) -> None:
        """Kill every process that is left. Blocks."""
        for node in self._nodes:
            node.kill()
        for node in self._nodes:
            self._note_living(node)
            self.ledger.count(node)
        self._nodes.clear()

    def _note_living(self, node: Node) -> None:
        if pids := node.pids():
            self.living.append(f"processes of {node.name} survive SIGKILL: {' '.join(map(str, pids))}")

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
                self.ledger.seen.kills += 1
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
        self.ledger.seen.lives += 1
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
        self.ledger.seen.start_seconds.append(time.monotonic() - node.began)
        await self.ledger.began(node, self._nodes)
        return node

    async def _until_committed(self, node: Node, more: int) -> None:
        before = len(node.told("checkpoint_committed"))
        enough = before + more
        await node.until(lambda: len(node.told("checkpoint_committed")) >= enough, f"{more} commits", self._patience)

    # ---- deaths

    async def _killed(self, node: Node, *, keep_disk: bool) -> None:
        self.ledger.seen.kills += 1
        await asyncio.to_thread(node.kill)
        await self._dead(node, keep_disk=keep_disk)

    async def _dead(self, node: Node, *, keep_disk: bool) -> None:
        """The disk stays for the next life, or is gone."""
        await self.ledger.died(node, keep_disk=keep_disk)
        if keep_disk:
            self._kept = node
        else:
            await self._drop(node)

    async def _drop(self, node: Node) -> None:
        """The node is no more, nor what it left running: its disk is removed, its log stays."""
        await asyncio.to_thread(node.kill)
        self._note_living(node)
        self.ledger.count(node)
        self._nodes.remove(node)
        self.ledger.lost_disk()
        await asyncio.to_thread(node.lose_disk)

    # ---- the faults that are more than a death

    async def _start_killed(self, each: Round) -> None:
        node = self._start(each)
        began = len(node.noted("begin"))
        await asyncio.sleep(2 * each.delay)
        self.ledger.seen.kills += 1
        await asyncio.to_thread(node.kill)
        if len(node.noted("begin")) > began:
            await self.ledger.began(node, self._nodes)
        await self._dead(node, keep_disk=each.keep_disk)

    async def _trainer_killed(self, node: Node) -> None:
        self.ledger.trainer_died(node)
        begun = len(node.noted("begin"))
        self.ledger.seen.kills += 1
        node.signal(signal.SIGKILL, [int(node.noted("begin")[-1]["pid"])])
        await node.until(lambda: len(node.noted("begin")) > begun, "the trainer was started again", self._patience)
        self.ledger.blame(Fault.TRAINER_KILLED)
        await self.ledger.began(node, self._nodes)
        await self._until_committed(node, 1)
        await self._killed(node, keep_disk=True)

    async def _drained(self, node: Node) -> None:
        began = time.monotonic()
        node.signal(signal.SIGTERM, [node.head])
        code = await node.ended(GRACE + self._patience)
        took = time.monotonic() - began
        self.ledger.note_wrong(judge(Exit("a node that got SIGTERM", 75, code, took, len(node.pids()))))
        if code is None:
            return await self._killed(node, keep_disk=False)
        await self._dead(node, keep_disk=False)
        self.ledger.drained(node)
        return None

    async def _damage(self, each: Round) -> None:
        """Spoil the newest commit: an object of it, or its manifest."""
        line = await self.ledger.line()
        if len(line) < 2:
            raise Stuck(f"{len(line)} commits are in the line, and two were made: there is nothing to fall back to")
        newest, older = line
        await self.ledger.damaged(newest, older)
        prefix, manifest = self.ledger.keys_of(newest)
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

    async def _frozen(self, zombie: Node, each: Round) -> None:
        await self._until_committed(zombie, each.commits)
        await asyncio.sleep(each.delay)
        zombie.freeze()
        await self.ledger.died(zombie)
        self.ledger.blame(each.fault)
        self.ledger.lost_disk()
        owner = await self._begun(self._start(None))
        taken = int(owner.noted("begin")[-1]["step"])
        await self._until_committed(owner, 1)

        zombie.thaw()
        await self._fenced(zombie, owner, "an overtaken node that went on", taken)
        await self._killed(owner, keep_disk=each.keep_disk)

    async def _two_at_once(self, each: Round) -> None:
        """One of them owns the task, the other leaves it, whether it has begun to train or not."""
        kept = self._kept
        nodes = [self._start(each), self._start(replace(each, seed=each.seed + 1))]
        begun = len(kept.noted("begin")) if kept else 0
        self.ledger.lost_disk()  # the other may win
        deadline = time.monotonic() + self._patience
        while all(node.code is None for node in nodes) and time.monotonic() < deadline:  # noqa: ASYNC110 - no children of the loop
            await asyncio.sleep(POLL)
        loser = nodes[0] if nodes[0].code is not None else nodes[1]
        owner = nodes[1] if loser is nodes[0] else nodes[0]
        before = begun if owner is kept else 0
        await owner.until(lambda: len(owner.noted("begin")) > before, "its trainer began", self._patience)
        await self.ledger.began(owner, self._nodes)
        taken = int(owner.noted("begin")[-1]["step"])
        await self._fenced(loser, owner, "one of two nodes that started at once", taken)
        await self._until_committed(owner, each.commits)
        await self._killed(owner, keep_disk=each.keep_disk)

    async def _fenced(self, zombie: Node, owner: Node, what: str, taken: int) -> None:
        """The zombie must leave; its successor began at step `taken`."""
        began = time.monotonic()
        code = await zombie.ended(FENCE_PATIENCE)
        wrong = judge(Exit(what, 77, code, time.monotonic() - began, len(zombie.pids())))
        self.ledger.note_wrong(wrong)
        self.ledger.seen.fenced += not wrong
        if code is None:
            await asyncio.to_thread(zombie.kill)
        await self.ledger.left(zombie, owner, taken)
        await self._drop(zombie)

    # ---- the end

    async def _end(self) -> None:
        """The trainer finishes, and its node ends."""
        self._finish.touch()
        node = await self._begun(self._start(None))
        began = time.monotonic()
        code = await node.ended(3 * self._patience)
        self.ledger.note_wrong(judge(Exit("the last node", 0, code, time.monotonic() - began, len(node.pids()))))
        if code is None:
            await asyncio.to_thread(node.kill)
        await self.ledger.ended(node)
        await self._drop(node)
