"""Nodes start, commit, die, come back as zombies, prune, restore and finish in any order; I1 to I7 hold at each step."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from syncd.testing import verify

from .oracle import Oracle
from .world import KEYS, Ending, Life, Machine, World

MACHINES, LIVES = 4, 9
CALLS = 400
"""Calls of one operation at most: more is a loop without an end."""
STEPS = (
    "create attempt.json", "create resume.json", "create manifests", "create closed.json", "create done.json", "delete",
    "list", "get", "fetch", "upload",
)  # fmt: skip
PICK = st.integers(0, 5)
STOP = st.one_of(st.just("end"), st.sampled_from(STEPS), st.integers(1, 12))
"""Where a daemon is paused: at its operation's end, before a step of the protocol, or after so many calls."""
MIDST = st.integers(0, 62)
FATES = ("request lost", "ok", "late")
ACTS = ("start", "push", "push", "finish")
KINDS = ("finish", "damage", "restart", "kill", "failures", "trainer", "back", "disk", "marks")
"""What may happen beside nodes that start, push and pause; each run has some of them."""


def of(kind: str, also: Callable[["Nodes"], object] = lambda nodes: True) -> Callable[..., Any]:
    return precondition(lambda nodes: kind in nodes.kinds and bool(also(nodes)))


def memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Nodes(RuleBasedStateMachine):
    """Machines with disks, trainers and daemons over one memory store."""

    only: frozenset[str] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.kinds: frozenset[str] = frozenset()
        self.home = Path(tempfile.mkdtemp(dir=memory(), prefix="syncd-model-"))
        self.oracle = Oracle()
        self.world = World(self.home, self.oracle)
        self.oracle.world = self.world

    def teardown(self) -> None:
        try:
            if not self.world.broken:
                self.come_to_an_end()
        finally:
            self.world.close()
            shutil.rmtree(self.home)

    @initialize(kinds=st.frozensets(st.sampled_from(KINDS)), keep=st.sampled_from((2, 2, 3)))
    def some_things_happen(self, kinds: frozenset[str], keep: int) -> None:
        self.kinds = kinds if self.only is None else self.only
        self.world.keep = keep
        self.a_new_machine_starts("end")

    # ---- who is there

    @property
    def living(self) -> list[Life]:
        return [life for life in self.world.lives if life.over is None]

    @property
    def busy(self) -> list[Life]:
        return [life for life in self.living if life.busy]

    @property
    def idle(self) -> list[Life]:
        return [life for life in self.living if not life.busy and life.begun]

    @property
    def empty(self) -> list[Machine]:
        """Machines without a living daemon."""
        return [each for each in self.world.machines if all(life.machine is not each for life in self.living)]

    @property
    def trainers(self) -> list[Machine]:
        return [each for each in self.world.machines if each.training]

    def go(self, life: Life, stop: str | int, which: int = 0) -> None:
        """Let it go on to just before its next call of the kind `stop`, for so many calls, or to the operation's end."""
        for done in range(1, CALLS):
            if not life.calls:
                return
            self.world.let_go(life, "ok", which)
            if done == stop or (life.calls and life.calls[0].kind == stop):
                return
        raise AssertionError(f"{life.name} has no end of {life.doing}: {life.calls[:3]}")

    # ---- what happens

    @rule(stop=STOP)
    def a_new_machine_starts(self, stop: str | int) -> None:
        if len(self.world.machines) >= MACHINES or len(self.world.lives) >= LIVES:
            return
        life = self.world.new_life(self.world.new_machine())
        life.begin()
        self.go(life, stop)

    @precondition(lambda self: any(life.machine.training for life in self.idle))
    @rule(pick=PICK, back=st.booleans(), stop=STOP)
    def a_node_saves_and_pushes(self, pick: int, back: bool, stop: str | int) -> None:
        able = [life for life in self.idle if life.machine.training]
        life = able[pick % len(able)]
        life.machine.save(back=back and "back" in self.kinds)
        life.push()
        self.go(life, stop)

    @rule(
        acts=st.lists(st.tuples(st.sampled_from(ACTS), PICK, MIDST), min_size=2, max_size=3),
        order=st.permutations(range(3)),
        damaged=st.one_of(st.none(), st.integers(0, 5)),
    )
    def some_overlap(self, acts: list[tuple[str, int, int]], order: list[int], damaged: int | None) -> None:
        """Two or three are paused, each in the midst of something, and then go on one after the other."""
        lives = [life for act in acts if (life := self.begin_to(*act))]
        if damaged is not None and "damage" in self.kinds:
            self.damage(damaged, "flip")
        for n in order:
            if n < len(lives):
                self.go(lives[n], "end")

    def begin_to(self, act: str, pick: int, midst: int | None = None) -> Life | None:
        """Some life that has begun to do something, and is paused in the midst of it; None where none can."""
        able = [life for life in self.idle if life.machine.training]
        if act == "start" or not able:
            if len(self.world.machines) >= MACHINES or len(self.world.lives) >= LIVES:
                return None
            life = self.world.new_life(self.world.new_machine())
            life.begin()
            first, last = 3, 9  # from the claim to the record
        else:
            life = able[pick % len(able)]
            life.machine.save()
            if act == "finish" and "finish" in self.kinds:
                life.finish(final=pick % 2 == 0)
                first, last = 1, 9
            else:
                life.push()
                first, last = 1, 7
        self.go(life, "end" if midst is None else first + midst % (last - first + 1))
        return life

    @precondition(lambda self: self.busy)
    @rule(pick=PICK, stop=STOP, which=PICK)
    def a_daemon_goes_on(self, pick: int, stop: str | int, which: int) -> None:
        self.go(self.busy[pick % len(self.busy)], stop, which)

    @of("finish", lambda self: any(life.machine.training for life in self.idle))
    @rule(pick=PICK, final=st.booleans(), stop=STOP)
    def a_trainer_finishes(self, pick: int, final: bool, stop: str | int) -> None:
        able = [life for life in self.idle if life.machine.training]
        life = able[pick % len(able)]
        life.finish(final=final)
        self.go(life, stop)

    @of("restart", lambda self: self.empty and len(self.world.lives) < LIVES)
    @rule(pick=PICK, trainer_ended=st.booleans(), stop=STOP)
    def a_daemon_starts_again(self, pick: int, trainer_ended: bool, stop: str | int) -> None:
        machine = self.empty[pick % len(self.empty)]
        machine.training = machine.training and not trainer_ended
        life = self.world.new_life(machine)
        life.begin()
        self.go(life, stop)

    @of("kill", lambda self: self.living)
    @rule(pick=PICK, fate=st.sampled_from(FATES), trainer_too=st.booleans())
    def a_daemon_is_killed(self, pick: int, fate: Ending, trainer_too: bool) -> None:
        life = self.living[pick % len(self.living)]
        self.world.kill(life, fate)
        if trainer_too:
            life.machine.training = False

    @of("failures", lambda self: self.busy)
    @rule(pick=PICK, which=PICK, ending=st.sampled_from(("request lost", "answer lost", "late")))
    def a_call_fails(self, pick: int, which: int, ending: Ending) -> None:
        self.world.let_go(self.busy[pick % len(self.busy)], ending, which)

    @precondition(lambda self: self.world.flying)
    @rule(which=PICK)
    def a_late_request_arrives(self, which: int) -> None:
        self.world.arrive(which)

    @of("trainer", lambda self: self.trainers)
    @rule(pick=PICK, back=st.booleans(), what=st.sampled_from(("saves", "rewrites in place", "rotates")))
    def a_trainer_does_by_itself(self, pick: int, back: bool, what: str) -> None:
        machine = self.trainers[pick % len(self.trainers)]
        if what == "saves":
            machine.save(back=back and "back" in self.kinds)
        elif what == "rotates":
            machine.rotate()
        elif "back" in self.kinds:
            machine.rewrite()

    @of("trainer", lambda self: self.idle)
    @rule(pick=PICK, stop=STOP)
    def a_daemon_looks_and_pushes(self, pick: int, stop: str | int) -> None:
        life = self.idle[pick % len(self.idle)]
        life.push()
        self.go(life, stop)

    @of("disk", lambda self: self.empty)
    @rule(pick=PICK)
    def a_disk_loses_its_checkpoints(self, pick: int) -> None:
        self.empty[pick % len(self.empty)].lose()

    @of("damage", lambda self: self.oracle.commits)
    @rule(pick=st.integers(0, 20), how=st.sampled_from(("flip", "cut", "gone")))
    def a_stored_object_is_damaged(self, pick: int, how: str) -> None:
        self.damage(pick, how)

    def damage(self, pick: int, how: str) -> None:
        """Of the newest commits first, and of fewer than are kept: as many may lose."""
        if self.oracle.damages >= self.world.keep - 1:
            return
        objects = self.world.store.objects
        keys = [key for commit in reversed(self.oracle.commits.values()) for key in commit.keys if key in objects]
        if not keys:
            return
        key = keys[pick % len(keys)]
        data = objects.pop(key)
        if how != "gone":
            objects[key] = data[:-1] if how == "cut" else bytes([data[0] ^ 1]) + data[1:]
        self.oracle.damage(key)

    @of("marks", lambda self: self.oracle.commits and not self.busy and not self.world.flying)
    @rule(pick=PICK)
    def an_operator_marks_a_commit_as_kept(self, pick: int) -> None:
        there = [item for item in self.oracle.commits if KEYS.manifest(*item) in self.world.store.objects]
        if there:
            attempt, commit = there[pick % len(there)]
            self.world.store.objects[f"{KEYS.kept_prefix(attempt)}{commit}.json"] = b"{}"
            self.oracle.kept.add((attempt, commit))

    def live_and_die(
        self,
        life: Life,
        *,
        unseen: int,
        finishes: bool,
        midst: int,
        fate: Ending,
        rewrites: bool,
        trainer_ended: bool,
        pushes: int,
    ) -> None:
        """It is killed in the midst of pushing what its trainer saved last, or of naming its result; the next life of the
        disk begins, and pushes what the trainer saves then."""
        machine = life.machine
        for _ in range(1 + unseen):
            machine.save()
        if finishes and "finish" in self.kinds:
            life.finish(final=False)
        else:
            life.push()
        self.go(life, midst)
        if life.over:
            return
        self.world.kill(life, fate)
        if rewrites and "back" in self.kinds and machine.training:
            machine.rewrite()
        machine.training = machine.training and not trainer_ended
        life = self.world.new_life(machine)
        life.begin()
        self.go(life, "end")
        for n in range(pushes if life.begun else 0):
            if n:
                machine.save()
            life.push()
            self.go(life, "end")

    # ---- the end

    def come_to_an_end(self) -> None:
        """A new node alone resumes what is owed to it; the zombies then go on; and another new node does, too."""
        for _ in range(2):
            last = self.world.new_life(self.world.new_machine())
            last.begin()
            self.go(last, "end")
            if self.oracle.done is None and not self.oracle.damages:
                assert last.begun, f"a new node cannot start: {last.over}"
            self.world.loop.run_until_complete(self.look_at_the_store())
            for life in self.busy:
                self.go(life, "end")
            while self.world.flying:
                self.world.arrive(0)

    async def look_at_the_store(self) -> None:
        if not self.oracle.damages and not any(each.risen for each in self.oracle.commits.values()):
            await verify(self.world.store)


def options(examples: int, *, shrink: bool) -> settings:
    """Of a run that raises what its first broken example raises; shrunk to a short one, which takes minutes."""
    return settings(
        max_examples=examples, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
    )  # fmt: skip


def run_steps(
    kinds: frozenset[str] | None, examples: int, *, steps: int = 40, shrink: bool = True, start: int | None = None
) -> None:
    """Random runs of so many steps, of these kinds (None: each run has its own)."""

    class Some(Nodes):
        only = kinds

    machine = Some if start is None else seed(start)(Some)
    run_state_machine_as_test(machine, settings=settings(options(examples, shrink=shrink), stateful_step_count=steps))


def run_overlaps(
    kinds: frozenset[str], examples: int, *, sleeper: bool = False, shrink: bool = True, start: int | None = None
) -> None:
    """Three nodes that overlap, each paused once: what goes wrong between three takes a schedule that chance rarely finds.

    `sleeper`: one of them (`stays`) may sleep through all that the others do.
    """

    @options(examples, shrink=shrink)
    @given(
        before=st.integers(0, 2),
        acts=st.lists(st.tuples(st.sampled_from(ACTS), PICK, MIDST), min_size=3, max_size=3),
        order=st.permutations(range(3)),
        stays=st.one_of(st.none(), st.integers(0, 2)) if sleeper else st.none(),
        after=st.lists(PICK, max_size=2),
        damaged=st.tuples(st.booleans(), st.integers(0, 5)),
    )
    def play(
        before: int,
        acts: list[tuple[str, int, str | int]],
        order: list[int],
        stays: int | None,
        after: list[int],
        damaged: tuple[bool, int],
    ) -> None:
        nodes = Nodes()
        try:
            nodes.kinds = kinds
            nodes.a_new_machine_starts("end")
            for _ in range(before):
                nodes.begin_to("push", 0)
            early, which = damaged
            nodes.some_overlap(acts, [n for n in order if n != stays], which if early else None)
            for pick in after:
                nodes.begin_to("push", pick)
            if "damage" in kinds:
                nodes.damage(which, "flip")
        finally:
            nodes.teardown()

    (play if start is None else seed(start)(play))()


def run_lives(kinds: frozenset[str], examples: int, *, shrink: bool = True, start: int | None = None) -> None:
    """One disk and its lives: each pushes, or names its result, is killed in the midst, and the next one begins."""

    @options(examples, shrink=shrink)
    @given(
        lives=st.lists(
            st.fixed_dictionaries(
                {
                    "unseen": st.integers(0, 1),
                    "finishes": st.booleans(),
                    "midst": st.integers(1, 9),
                    "fate": st.sampled_from(FATES),
                    "rewrites": st.booleans(),
                    "trainer_ended": st.booleans(),
                    "pushes": st.integers(0, 3),
                }
            ),
            min_size=1,
            max_size=3,
        )
    )
    def play(lives: list[dict[str, Any]]) -> None:
        nodes = Nodes()
        try:
            nodes.kinds = kinds
            nodes.a_new_machine_starts("end")
            for life in lives:
                if nodes.idle:
                    nodes.live_and_die(nodes.idle[0], **life)
        finally:
            nodes.teardown()

    (play if start is None else seed(start)(play))()


HOW_MANY = int(os.environ.get("SYNCD_TEST_MODEL") or 200)
SHRINK = not os.environ.get("SYNCD_TEST_NO_SHRINK")


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_I1_I2_I3_I4_I5_I6_I7_hold_in_any_order_of_nodes_deaths_zombies_and_damage() -> None:
    run_steps(None, HOW_MANY, shrink=SHRINK)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_I3_I4_I5_I7_hold_among_three_nodes_that_overlap() -> None:
    run_overlaps(frozenset({"damage", "finish"}), 3 * HOW_MANY, sleeper=True, shrink=SHRINK)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_I1_I4_I5_hold_over_the_lives_of_one_disk() -> None:
    run_lives(frozenset({"finish", "back"}), HOW_MANY, shrink=SHRINK)
