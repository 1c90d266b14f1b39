"""What must come back by all that was saved, committed and damaged so far; it judges each beginning, each death and the end."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from syncd.decide.rehearsal import Begin, Death, Fault, Finish, Round, judge
from syncd.errors import Corrupt, NotFound
from syncd.model.attempt import LineItem
from syncd.model.checkpoint import Committed
from syncd.model.keys import Keys
from syncd.move.audit import audit
from syncd.move.objects import read_commits, read_done, read_item, read_record, standing
from syncd.move.start import choose
from syncd.rehearsal import trainer
from syncd.rehearsal.node import Node, Over
from syncd.store import Gate, Store

IN_PARTS = 5 << 20
"""Bytes of the smallest file that a store takes in parts."""
COMMITTED, PUSHED = "committed", "saved in a drain that had the time to push it"


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


class Ledger:
    """The accounts of one rehearsal, in steps. `now`: the round that is played, None at the end."""

    def __init__(self, store: Store, keys: Keys, gate: Gate, size: int) -> None:
        self.store, self.keys, self.gate, self.size = store, keys, gate, size
        self.seen = Seen()
        self.now: Played | None = None
        self.cut_off: set[str] = set()
        """Keys of files of which the store may hold parts that no listing shows."""
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

    # ---- rounds

    def begin_round(self, each: Round) -> Played:
        self.now = Played(each)
        return self.now

    def end_round(self, each: Round) -> None:
        """A start that was cut off lost nothing by itself: the next beginning tells what the fault before cost."""
        assert self.now
        if self.now.resumed is not None or not each.keep_disk:
            self._before = each.fault
        self.seen.played.append(self.now)

    def note_wrong(self, lines: Sequence[str]) -> None:
        where = "at the end: "
        if self.now:
            where = f"round {self.now.round.number} ({self.now.round.fault}): "
            self.now.wrong += lines
        self.seen.wrong += [where + line for line in lines]

    def count(self, node: Node) -> None:
        """Take into the report what a node told in all its lives."""
        node.look()
        large = [name for name, size in trainer.layout(self.size).items() if size >= IN_PARTS]
        self.cut_off |= {self.keys.file(*each, name) for each in node.cut_off for name in large}
        commits, restores = node.told("checkpoint_committed"), node.told("restored")
        self.seen.commits += len(commits)
        self.seen.restores += len(restores)
        self.seen.store_away += len(node.told("store_away"))
        self.seen.commit_seconds += [float(line["seconds"]) for line in commits]
        self.seen.restore_seconds += [float(line["seconds"]) for line in restores]

    # ---- a trainer began

    async def began(self, node: Node, nodes: Sequence[Node]) -> None:
        """Judge what the node's trainer resumed; `nodes`: all whose words count. Raises `Over` where it trains no more."""
        note = node.noted("begin")[-1]
        attempt = node.attempt
        record = await read_record(self.store, self.keys, attempt) if attempt else None
        line = record.items(self.keys.record(attempt)) if record and attempt else ()
        hurt = self._hurt
        begin = Begin(
            step=int(note["step"]),
            known=max(self._durable, self._local),
            because=self._because if self._durable >= self._local else "on the disk that was kept",
            wrong=tuple(note["wrong"]),
            author=note["author"],
            damaged=hurt.commit.manifest.step if hurt else None,
            told=hurt is None or await self._was_told(hurt, nodes),
            late=self._late,
            foreign=tuple(str(item) for item in line if (item.attempt, item.commit) in self._foreign),
        )
        wrong = judge(begin)
        self.note_wrong(wrong)
        if begin.wrong:
            raise Over  # its trainer refuses to train on
        if hurt and not wrong:
            self.seen.survived += 1
        if self._before:
            lost = max(0, self._trained - begin.step)
            self.seen.lost_steps[self._before] = max(self.seen.lost_steps.get(self._before, 0), lost)
        if self.now and self.now.resumed is None:
            self.now.resumed, self.now.known = begin.step, begin.known
        # What was lost is said once: the rounds that follow are judged by what is there now.
        self._durable, self._local, self._hurt = min(self._durable, begin.step), begin.step, None
        self._trained = begin.step

    async def _was_told(self, hurt: Hurt, nodes: Sequence[Node]) -> bool:
        """Whether an event or a record names the damaged commit: a node may die between the record and its telling."""
        prefix, manifest = self.keys_of(hurt.commit)
        places = [str(line.get("key")) for node in nodes for line in node.told("checkpoint_damaged")]
        for number in (await standing(self.store, self.keys)).attempts:
            if number > hurt.attempts:
                record = await read_record(self.store, self.keys, number)
                places += [skipped.key for skipped in record.skipped] if record else []
        named = f"{self.keys.top}{hurt.commit.item}"
        return any(place in (named, manifest) or place.startswith(prefix) for place in places)

    # ---- a node died

    async def died(self, node: Node, *, keep_disk: bool = False) -> None:
        """Take down what must not be lost now."""
        node.look()
        line = await self.line()
        stored = (line[0].manifest.step or 0) if line else 0
        self.note_wrong(judge(Death(node.committed, stored)))
        self._trained = max(self._trained, node.saved, self._durable, self._local)
        newest = max(node.committed, stored)
        if newest >= self._durable:
            self._durable, self._because = newest, COMMITTED
        if keep_disk:
            self._local = max(self._local, node.saved)

    def lost_disk(self) -> None:
        """No disk that is left has anything that the store has not."""
        self._local = 0

    def trainer_died(self, node: Node) -> None:
        """Its disk and daemon go on: the same life begins again."""
        node.look()
        self._local = node.saved
        self._trained = max(self._local, self._durable)

    def blame(self, fault: Fault) -> None:
        """What the next beginning has lost is this one's."""
        self._before = fault

    def drained(self, node: Node) -> None:
        """It had the time to push what it saved last, unless it said that it had not."""
        if node.saved > self._durable and not node.told("not_durable"):
            self._durable, self._because = node.saved, PUSHED

    async def left(self, zombie: Node, owner: Node, taken: int) -> None:
        """An overtaken node is gone: nothing that it did after its successor began at step `taken` may ever come back.

        What it committed and its successor's record does not name may be in no line, ever.
        """
        zombie.look()
        self._late |= {(zombie.name, int(line["step"])) for line in zombie.noted("saved") if int(line["step"]) > taken}
        if zombie.attempt is None or owner.attempt is None:
            return
        record = await read_record(self.store, self.keys, owner.attempt)
        line = {(item.attempt, item.commit) for item in record.items("line")} if record else set()
        commits = await read_commits(self.store, self.keys, zombie.attempt)
        self._foreign |= {(found.attempt, found.commit) for found in commits.good} - line

    # ---- commits

    async def line(self) -> list[Committed]:
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

    def keys_of(self, found: Committed) -> tuple[str, str]:
        """The prefix of its files, and its manifest."""
        return self.keys.files(found.attempt, found.commit), self.keys.manifest(found.attempt, found.commit)

    async def damaged(self, newest: Committed, older: Committed) -> None:
        """`newest` is about to be damaged: from now on `older` must come back, and somebody must say why."""
        self._damaged[newest.attempt, newest.commit] = newest
        self._hurt = Hurt(newest, (await standing(self.store, self.keys)).newest)
        self._durable, self._because = older.manifest.step or 0, "committed, and not damaged"

    # ---- the end

    async def ended(self, node: Node) -> None:
        """The trainer has finished: the task is done, its model and all that is stored are right."""
        saved = max((int(line["step"]) for line in node.noted("finished")), default=0)
        done = await read_done(self.store, self.keys)
        wrong = await self._wrong_in(done.item(self.keys.done), saved) if done else []
        audited = await audit(self.store, self.keys, deep=True, gate=self.gate)
        damaged = [place for found in self._damaged.values() for place in self.keys_of(found)]
        problems = tuple(text for text in audited.problems if not any(place in text for place in damaged))
        finish = Finish(done is not None, saved, done.step if done else None, tuple(wrong), problems)
        self.note_wrong(judge(finish))
        self.seen.finished = done is not None

    async def _wrong_in(self, item: LineItem, step: int) -> list[str]:
        """The files of the stored model that are not what is saved at `step`."""
        try:
            result = await read_item(self.store, self.keys, item)
        except (NotFound, Corrupt):
            return [f"the manifest of {item.commit}"]
        wrong = []
        sizes = {entry.path: entry.size for entry in result.manifest.files}
        prefix, _ = self.keys_of(result)
        for name, size in trainer.layout(self.size).items():
            same, offset = sizes.get(name) == size, 0
            with suppress(NotFound):
                for block in trainer.content(trainer.FINAL, step, name, size):
                    same = same and await self.store.get(prefix + name, offset, len(block)) == block
                    offset += len(block)
            if not same or offset != size:
                wrong.append(name)
        return wrong
