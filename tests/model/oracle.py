"""What must hold in the world after each effect on the store: I1 to I7, told by somebody who sees everything."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from syncd.errors import Superseded
from syncd.keeper import Begun
from syncd.model import canonical
from syncd.model.attempt import Claim, Done, LineItem, Record, parse_item
from syncd.model.checkpoint import Manifest
from syncd.model.keys import attempt_number
from syncd.model.names import is_final

from .world import KEYS, Life, Save, Watcher, World


@dataclass
class Commit:
    """One commit as it was made. `owned`: no newer claim was there; `late`: a successor had recorded already."""

    manifest: Manifest
    save: Save
    owned: bool
    late: bool
    damaged: bool = False
    risen: bool = False
    """Deleted, and put once more by a request that was on its way all the time: its files are gone."""

    @property
    def item(self) -> tuple[int, str]:
        return self.manifest.attempt, self.manifest.commit

    @property
    def keys(self) -> Iterator[str]:
        attempt, commit = self.item
        yield KEYS.manifest(attempt, commit)
        yield from (KEYS.file(attempt, commit, entry.path) for entry in self.manifest.files)


@dataclass
class Oracle(Watcher):
    """Remembers what happened, and raises AssertionError, beginning with the invariant's name, when one is broken."""

    world: World = field(init=False)
    commits: dict[tuple[int, str], Commit] = field(default_factory=dict)
    records: dict[int, tuple[tuple[int, str], ...]] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    recorded_at_claim: dict[int, int] = field(default_factory=dict)
    known_before: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Of each life: the newest claim, and whether the task was done, when it began."""
    kept: set[tuple[int, str]] = field(default_factory=set)
    done: Done | None = None
    done_when_listed: set[str] = field(default_factory=set)
    damages: int = 0
    checks: int = 0

    # ---- what happens

    def changed(self, life: Life, own: int, verb: str, key: str, before: bytes | None) -> None:
        self.checks += 1
        data = self.world.store.objects.get(key)
        head, _, rest = key.removeprefix(KEYS.top).partition("/")
        attempt = attempt_number(head)
        if key == KEYS.done:
            assert before is None or before == data, "DONE: the result was replaced"
            self.done = canonical.decode(data, Done, key) if data else None
        elif attempt is None:
            raise AssertionError(f"I3: {life.name} wrote {key}")
        elif rest == "attempt.json":
            self._claimed(life, attempt, data, before)
        elif rest == "closed.json":
            assert attempt <= own and before is None, f"I3: {life.name} of attempt {own} wrote {key}"
        elif verb == "delete":
            self._deleted(life, own, attempt, key)
        else:
            assert attempt == own, f"I3: {life.name} of attempt {own} wrote {key}"
            if rest == "resume.json":
                self._recorded(life, attempt, data, before)
            elif rest.startswith("manifests/") and data:
                self._committed(life, attempt, key, data, before)
            else:
                self._stored(key, data, before)
        self._result_stands()

    def listed(self, life: Life, prefix: str) -> None:
        if prefix == KEYS.top and self.done:
            self.done_when_listed.add(life.name)

    def begins(self, life: Life) -> None:
        self.known_before[life.name] = max(self.owners, default=0), self.done is not None

    def begun(self, life: Life, how: Begun) -> None:
        """The trainer starts (or lives on) from what the disk holds: what it last saved there in this attempt, else what
        the record says."""
        machine, alive, before = life.machine, life.machine.training, life.machine.state
        same = machine.attempt == how.attempt
        machine.training, machine.attempt = True, how.attempt
        newest, done = self.known_before[life.name]
        assert not done, f"DONE: {life.name} begins although the task is done"
        assert newest <= how.attempt, f"I3: {life.name} begins in attempt {how.attempt} after attempt {newest}"
        if alive:
            assert how.goes_on and same, (
                f"I4: the trainer of {life.name} lives on in attempt {how.attempt}, not its own"
            )
            return
        machine.state = machine.read(how.checkpoint) if how.checkpoint else None
        machine.step = machine.state.step if machine.state else 0
        if how.goes_on and same:
            assert machine.state is before, (
                f"I4: {life.name} goes on from {how.checkpoint}, but its trainer had saved step {before and before.step} there"
            )
            return
        line = self.records.get(how.attempt)
        assert line is not None, f"I4: attempt {how.attempt} trains, and recorded nothing"
        if line:
            head = self.commits[line[0]]
            assert machine.state is head.save, f"I4: attempt {how.attempt} recorded {line[0]}, the disk holds another"
        elif machine.state:  # local checkpoints of an earlier life that the store knows nothing of
            there = [each for each in self.commits.values() if not is_final(each.item[1])]
            assert not any(each.owned and not each.damaged for each in there), (
                f"I4: attempt {how.attempt} recorded a start from zero, the disk holds {how.checkpoint}"
            )

    def refused(self, life: Life, error: Exception) -> None:
        """A disk that was overtaken (its life has not claimed anew) holds no trainer, and nothing that one would resume."""
        if not isinstance(error, Superseded) or life.doing != "begin":
            return
        machine = life.machine
        assert not machine.training, f"I3: the trainer of {machine.name} lives on, though it was overtaken"
        if not life.attempt:
            mine = max(attempt for attempt in self.records if self.owners[attempt] == machine.name)
            if self.records[mine] or any(attempt == mine for attempt, _ in self.commits):
                left = sorted(path.name for path in machine.root.glob("checkpoint-*"))
                assert not left, f"I4: {machine.name} was overtaken, and {left} are still in sight"
            machine.state, machine.step = None, 0

    def damage(self, key: str) -> None:
        """Somebody spoils a stored object, unseen."""
        self.damages += 1
        for commit in self.commits.values():
            if key in commit.keys:
                commit.damaged = True

    # ---- what is judged

    def _claimed(self, life: Life, attempt: int, data: bytes | None, before: bytes | None) -> None:
        assert data, f"I3: {life.name} deleted the claim of attempt {attempt}"
        assert before is None, f"I3: {life.name} claims attempt {attempt}, which has an owner"
        assert canonical.decode(data, Claim, "claim").node == life.name, f"I3: {life.name} claims for another"
        self.owners[attempt] = life.machine.name
        self.recorded_at_claim[attempt] = max((each for each in self.records if each < attempt), default=0)

    def _recorded(self, life: Life, attempt: int, data: bytes | None, before: bytes | None) -> None:
        assert data and (before is None or before == data), f"I4: the record of attempt {attempt} was changed"
        assert life.name not in self.done_when_listed, f"DONE: attempt {attempt} starts although the task is done"
        record = canonical.decode(data, Record, "record")
        self.records[attempt] = tuple((item.attempt, item.commit) for item in record.items("record"))
        self._right_line(attempt)
        self._nothing_lost(attempt)

    def _right_line(self, attempt: int) -> None:
        line = self.records[attempt]
        timely = {each.save for each in self.commits.values() if not each.late}
        assert not line or self.commits[line[0]].save in timely, (
            f"I4: attempt {attempt} resumes {line[0]}, which was committed after a successor took over"
        )
        newest = self.recorded_at_claim[attempt]
        if line and newest and line[0][0] < newest:
            known = self._past(self.records[newest])
            assert line[0] in self.records[newest] or self.commits[line[0]].save in known, (
                f"I4: attempt {attempt} resumes {line[0]}, not of the line that attempt {newest} had recorded"
            )

    def _past(self, line: tuple[tuple[int, str], ...]) -> set[Save]:
        return set(self.commits[line[0]].save.past) if line else set()

    def _nothing_lost(self, attempt: int) -> None:
        """I5, I7: what an owner had committed before is in what is resumed, but for what its own trainer went back behind.

        Fewer are damaged than are kept: the bound that DESIGN.md states.
        """
        past = self._past(self.records[attempt])
        for each in self.commits.values():
            owed = each.owned and not each.damaged and each.item[0] < attempt and not is_final(each.item[1])
            assert not owed or each.save in past or self._left_behind(each, past), (
                f"I5: attempt {attempt} starts from {self.records[attempt][:1] or 'ZERO'}, but the owner of attempt"
                f" {each.item[0]} had committed {each.item[1]}, whole"
            )

    def _left_behind(self, old: Commit, past: set[Save]) -> bool:
        """Whether a trainer that had made it, or had it in its past, went back behind it; what came of that is resumed,
        or was left behind itself."""
        return any(
            not is_final(each.item[1])
            and each.save.number > old.save.number
            and (each.item[0], each.manifest.number) > (old.item[0], old.manifest.number)
            and (each.item[0] == old.item[0] or old.save in self._past(self.records[each.item[0]]))
            and old.save not in each.save.past
            and (each.save in past or self._left_behind(each, past))
            for each in self.commits.values()
        )

    def _committed(self, life: Life, attempt: int, key: str, data: bytes, before: bytes | None) -> None:
        assert before is None, f"I1: the manifest {key} was replaced"
        manifest = canonical.decode(data, Manifest, key)
        assert attempt in self.records, f"I4: attempt {attempt} commits, and recorded nothing"
        there = self.world.store.objects
        if (again := self.commits.get((attempt, manifest.commit))) and again.manifest == manifest:
            again.risen = True
            return
        files = {entry.path: there.get(KEYS.file(attempt, manifest.commit, entry.path)) for entry in manifest.files}
        claims = [each for each in self.owners if each > attempt]
        late = any(each > attempt for each in self.records)
        if self._matters(attempt, manifest.commit):
            lacking = [path for path, content in files.items() if content is None]
            assert not lacking, f"I1: {key} is committed, and {lacking} are not stored"
        contents = {content for content in files.values() if content is not None}
        assert len(contents) <= 1, f"I6: {key} holds files of several saves: {sorted(contents)}"
        save = self.world.save_of(contents, key) if contents else self.world.nothing
        numbers = [each.manifest.number for each in self.commits.values() if each.item[0] == attempt]
        assert manifest.number not in numbers, f"I1: two commits of attempt {attempt} have number {manifest.number}"
        for each in self.commits.values():  # what is committed later counts as newer
            if each.item[0] == attempt and contents and not is_final(manifest.commit) and not is_final(each.item[1]):
                right = (each.manifest.number < manifest.number) == (each.save.number < save.number)
                assert right or each.save is save, (
                    f"I4: attempt {attempt} commits {each.item[1]} and {manifest.commit} the wrong way round"
                )
        self.commits[attempt, manifest.commit] = Commit(manifest, save, not claims, late)

    def _stored(self, key: str, data: bytes | None, before: bytes | None) -> None:
        for each in self.commits.values():
            if key in each.keys and KEYS.manifest(*each.item) in self.world.store.objects:
                assert data == before or before is None or each.damaged, f"I1: {key} is committed, and written again"

    def _deleted(self, life: Life, own: int, attempt: int, key: str) -> None:
        assert attempt <= own, f"I3: {life.name} of attempt {own} deleted {key}"
        for each in self.commits.values():
            manifest = KEYS.manifest(*each.item)
            if (
                key in each.keys
                and key != manifest
                and manifest in self.world.store.objects
                and self._matters(*each.item)
                and not each.risen
            ):
                raise AssertionError(f"I1: {key} is deleted while {manifest} stands")
            if key == manifest:
                assert each.item not in self.kept, f"I7: {key} is deleted although it is marked as kept"

    def _matters(self, attempt: int, commit: str) -> bool:
        """Whether anybody who starts later might restore it, or it is the result."""
        if self.done:
            return self._named(self.done) == (attempt, commit)
        newest = max(self.records, default=0)
        return attempt >= newest or (attempt, commit) in self.records[newest]

    def _named(self, done: Done) -> tuple[int, str]:
        item: LineItem = parse_item(done.result, "done")
        return item.attempt, item.commit

    def _result_stands(self) -> None:
        """What done.json names is there, whole, for good."""
        if self.done is None:
            return
        commit = self.commits[self._named(self.done)]
        if not commit.damaged:
            gone = [key for key in commit.keys if key not in self.world.store.objects]
            assert not gone, f"DONE: the result is {commit.item}, and {gone} are gone"
            files = {self.world.store.objects[key] for key in list(commit.keys)[1:]}
            assert self.world.save_of(files, "the result") is commit.save, (
                "DONE: the result's files are of another save"
            )
