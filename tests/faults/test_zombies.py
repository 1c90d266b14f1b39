"""A node stands still at any moment of its work, another takes over, and the first goes on: a zombie.

Two real daemons on one MinIO. Where the older stands still is chosen by what it says to its store: it is stopped while a
certain request is on its way, which arrives at once (only the answer is late), or when it goes on (a write that comes
after it was overtaken). `make faults` plays 200 rounds, `make test` some; SYNCD_TEST_SEED repeats one.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
from syncd_s3 import S3Settings
from syncd_s3.store import S3Store

from syncd.testing import Node as Disk
from syncd.testing import verify
from syncd.testing.proxy import Way
from syncd.testing.servers import Minio
from tests.e2e.conftest import NewNode
from tests.e2e.fake_trainer import state_after, weights
from tests.e2e.helpers import FAKE, Bucket, Process, Task, until
from tests.faults.between import Between
from tests.faults.scale import ALL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
ROUNDS = 200 if ALL else 4
SEED = int(os.environ.get("SYNCD_TEST_SEED") or 1)
BOUND = 30.0
"""Seconds within which a zombie must have left; it asks every second, and a machine that is busy is slow."""
SEEDED = (1, 2)
"""Steps that the task's first attempt left committed."""
SMALL, LARGE = 2_000, (16 << 20) + 1_000
OWN = re.compile(r"attempt-0002/(?!events/|logs/|heartbeat)")


class Moment(NamedTuple):
    """Where the older stands still: at the `nth` request that matches. `held`: it arrives when the older goes on."""

    request: str
    held: bool = False
    nth: int = 1
    size: int = SMALL


_FILE, _MANIFEST = "PUT attempt-0002/checkpoint-{0}/weights.bin", "PUT attempt-0002/manifests/checkpoint-{0}"
_CHECK = "GET .*list-type=2.*prefix=.*attempt-0002%2Fcheckpoint-{0}%2F"
N = r"\d+"
MOMENTS = {
    "in an upload": Moment(_FILE.format(N), nth=2),
    "at its manifest, which comes late": Moment(_MANIFEST.format(N), held=True, nth=2),
    "restoring": Moment("GET attempt-0001/checkpoint-2/weights.bin"),
    "in retention": Moment("DELETE attempt-0001/manifests", held=True),
    "at its record, which comes late": Moment("PUT attempt-0002/resume.json", held=True),
    "between files and manifest": Moment(_CHECK.format(N), nth=2),
    "idle": Moment("PUT attempt-0002/heartbeat.json", nth=3),
    "in a file of two parts": Moment(r"PUT attempt-0002/checkpoint-\d+/weights.bin\?.*partNumber=2", size=LARGE),
    "at its manifest": Moment(_MANIFEST.format(N)),
    "in an upload, which comes late": Moment(_FILE.format(N), held=True),
    "claimed": Moment("PUT attempt-0002/attempt.json", nth=2),
    "recorded": Moment("PUT attempt-0002/resume.json"),
    "in retention, at files": Moment("DELETE attempt-0001/checkpoint-1"),
    "asking whether it is the owner": Moment(".*list-type=2.*delimiter=", nth=6),
    "at its heartbeat, which comes late": Moment("PUT attempt-0002/heartbeat.json", held=True, nth=2),
}
"""By name; rounds take them in this order, so that the first ones are those of `make test`."""


class Trap:
    """Stops somebody when a request of the task passes a proxy."""

    def __init__(self, proxy: Between, task: Task, moment: Moment, stop: Callable[[], None]) -> None:
        self.moment, self.stop = moment, stop
        self.caught, self.go_on = threading.Event(), threading.Event()
        self.task, self.said = task, ""
        self._wanted = re.compile(moment.request.encode())
        self._prefix, self._left = f"/{task.view.name}/{task.name}/".encode(), moment.nth  # type: ignore[attr-defined]
        proxy.proxy.watch = self._see

    def _see(self, way: Way, piece: bytes) -> None:
        """In the proxy's thread, which stands still with a request that is held: it carries nothing else."""
        if way == "back" or self.caught.is_set():
            return
        line = piece.partition(b"\r\n")[0].replace(self._prefix, b"", 1)
        if self._wanted.match(line):
            self._left -= 1
            if not self._left:
                self.said = line.decode()
                self.stop()
                self.caught.set()
                if self.moment.held:
                    self.go_on.wait(BOUND * 4)

    def let_it_take_effect(self) -> None:
        """Until the store shows what the request does; not for long, since of a large body a part may not be sent yet."""
        method, key, _ = self.said.split(" ")
        until_then = time.monotonic() + 1.0
        while (key in self.task.listing()) != (method == "PUT") and time.monotonic() < until_then:
            time.sleep(0.05)


@dataclass
class Tally:
    """What the rounds came to."""

    played: int = 0
    fenced: int = 0
    wrote: int = 0
    committed: int = 0
    restored: int = 0

    def __str__(self) -> str:
        return (
            f"zombies: {self.fenced} of {self.played} fenced, {self.wrote} wrote after they were overtaken"
            f" ({self.committed} committed), {self.restored} restored"
        )


@pytest.fixture(scope="module")
def tally(sum_up: Callable[[str, str], None]) -> Iterator[Tally]:
    made = Tally()
    yield made
    sum_up("zombies", str(made))
    if made.fenced >= 2 * len(MOMENTS):  # by then each moment was played, also those whose request comes late
        assert made.wrote, "no zombie wrote anything: nothing was shown"
        assert made.committed, "no zombie committed anything: nothing was shown"


@pytest.fixture(scope="module")
def bucket(minio: Minio) -> Iterator[Bucket]:
    made = Bucket(minio, minio.make_bucket("zombies"), "")
    yield made
    made.close()


@pytest.fixture
def task(minio: Minio, bucket: Bucket, tmp_path: Path, as_operator: None) -> Task:
    name = f"run-{tmp_path.name.rpartition('_')[2]}-{random.SystemRandom().randrange(1 << 32):x}"
    return Task(name, {**minio.env, "SYNCD_STORE": f"s3://{bucket.name}"}, bucket, tmp_path / "operator")


async def _seed(task: Task, root: Path, size: int) -> None:
    """The task's first attempt, by a node that is gone: two commits."""
    store = await S3Store.open(task.env["SYNCD_STORE"], S3Settings())
    try:
        disk = Disk(store, root, task=task.name)
        await disk.boot()
        for step in SEEDED:
            path = root / f"checkpoint-{step}"
            path.mkdir()
            (path / "weights.bin").write_bytes(weights(state_after(step), size))
            (path / "state.json").write_text(json.dumps({"step": step, "state": state_after(step), "by": "seed"}))
            (path / "_SUCCESS").touch()
            await disk.push_all()
    finally:
        await store.aclose()


async def _next_life(task: Task, root: Path) -> tuple[int, str | None]:
    """Another life of the task on an empty disk; its attempt and what it resumes. All that is committed is verified."""
    store = await S3Store.open(task.env["SYNCD_STORE"], S3Settings())
    try:
        begun = await Disk(store, root, task=task.name).boot()
        await verify(store, task.name)
        return begun.attempt, begun.checkpoint
    finally:
        await store.aclose()


def line_of(task: Task, attempt: int) -> list[str]:
    """What whoever chooses now takes of an attempt: its commits, newest first, then its recorded line."""
    while True:
        try:
            own = [f"attempt-{attempt:04}/{found['commit']}" for found in reversed(task.commits(attempt))]
        except task.view.client.exceptions.NoSuchKey:  # type: ignore[attr-defined]  # its owner deleted one meanwhile
            continue
        return own + task.line(attempt)


def written(task: Task) -> dict[str, bytes]:
    """Sums of what the older wrote that anybody could restore or decide by; it is dead or stands still."""
    found = {}
    for key in task.listing():
        if OWN.match(key):
            with contextlib.suppress(task.view.client.exceptions.NoSuchKey):  # type: ignore[attr-defined]
                found[key] = hashlib.sha256(task.get(key)).digest()  # else its successor has deleted it meanwhile
    return found


class Play:
    """One older and one younger node of a task that a first attempt began, each behind a proxy of its own."""

    def __init__(self, task: Task, new_node: NewNode, minio: Minio, size: int) -> None:
        self.task, self.size, self.gate = task, size, task.home.parent / "gate"
        self.proxies = [Between(minio.port), Between(minio.port)]
        self.traps: list[Trap] = []
        quick = {"SYNCD_KEEP": "2", "SYNCD_GRACE": "5", "SYNCD_S3_TIMEOUT": "120"}
        self.older, self.younger = (new_node(task, **quick) for _ in self.proxies)
        for node, proxy in zip((self.older, self.younger), self.proxies, strict=True):
            proxy.__enter__()
            node.settings["AWS_ENDPOINT_URL_S3"] = proxy.endpoint
        asyncio.run(_seed(task, task.home.parent / "seed", size))

    def close(self) -> None:
        for trap in self.traps:
            trap.go_on.set()
        for proxy in self.proxies:
            proxy.__exit__(None, None, None)

    def trainer(self, hold: int, steps: int = 99) -> list[str]:
        shape = [f"--steps={steps}", "--pause=0.05", f"--size={self.size}", "--keep=3"]
        return [*FAKE, *shape, f"--hold={hold}:{self.gate}"]

    def trap(self, who: int, moment: Moment, stop: Callable[[], None] = lambda: None) -> Trap:
        self.traps.append(Trap(self.proxies[who], self.task, moment, stop))
        return self.traps[-1]

    def stop_older(self, moment: Moment, *, whole: bool, hold: int = 8, steps: int = 99) -> tuple[Process, Trap]:
        """Start the older and stop it, or its daemon alone, at the moment."""

        def stop() -> None:
            self.older.signal(signal.SIGSTOP, None if whole else [self.older.processes[-1].pid])

        trap = self.trap(0, moment, stop)
        life = self.older.run(self.trainer(hold, steps))

        def caught() -> bool:
            self.older.alive(life, f"waited for {moment.request}")
            return trap.caught.is_set()

        until(caught, f"the older says {moment.request}")
        if not moment.held:
            trap.let_it_take_effect()
        return life, trap

    def start_younger(self) -> Process:
        """Start the younger; it trains a few steps and waits."""
        return self.younger.run(self.trainer(hold=11))

    def go_on(self, trap: Trap) -> None:
        """Deliver what the older said last, and let it go on."""
        trap.go_on.set()
        trap.let_it_take_effect()
        self.older.thaw()

    def thaw(self, life: Process, trap: Trap) -> set[str]:
        """Let the older go on and end; what it wrote meanwhile: keys."""
        before = written(self.task)
        self.go_on(trap)
        assert life.code(BOUND) == 77
        assert not self.older.pids(), "no process of it is left, its trainer least of all"
        after = written(self.task)
        return {key for key, data in after.items() if before.get(key) != data}

    def line(self) -> list[str]:
        """What whoever chooses now takes."""
        newest = max(n for n in range(1, self.task.attempts + 1) if self._recorded(n))
        return line_of(self.task, newest)

    def _recorded(self, attempt: int) -> bool:
        return f"attempt-{attempt:04}/resume.json" in self.task.listing()

    def next_life(self) -> list[str]:
        """Another life; the line that it recorded, whose head it holds as the trainer wrote it."""
        root = self.task.home.parent / f"life-{self.task.attempts}"
        attempt, name = asyncio.run(_next_life(self.task, root))
        line = self.task.line(attempt)
        assert name and line[0].endswith(f"/{name}")
        said = json.loads((root / name / "state.json").read_text())
        assert said["state"] == state_after(said["step"])
        assert (root / name / "weights.bin").read_bytes() == weights(said["state"], self.size)
        return line


@pytest.fixture
def play(task: Task, new_node: NewNode, minio: Minio) -> Iterator[Callable[..., Play]]:
    made: list[Play] = []

    def make(size: int = SMALL) -> Play:
        made.append(Play(task, new_node, minio, size))
        return made[-1]

    yield make
    for each in made:
        each.close()


def cases() -> list[object]:
    names = list(MOMENTS)
    rounds = (SEED - 1 + number for number in range(ROUNDS))
    return [pytest.param(number, id=f"{number + 1}, {names[number % len(names)]}") for number in rounds]


@pytest.mark.parametrize("number", cases())
def test_I4_a_zombie_leaves_and_nothing_that_it_writes_is_ever_restored(
    play: Callable[..., Play], tally: Tally, number: int
) -> None:
    name = list(MOMENTS)[number % len(MOMENTS)]
    moment, rng = MOMENTS[name], random.Random(number)
    tally.played += 1
    this = play(moment.size)
    whole, twice = rng.random() < 0.6, rng.random() < 0.3
    life, trap = this.stop_older(moment, whole=whole)
    expected = this.line()
    owner = this.start_younger()
    this.younger.until_committed(owner, lambda steps: len(steps) >= 2, "commits of the younger")
    assert this.task.line(3) == expected, "it took what the older had committed, and nothing else"
    if twice:
        this.younger.vanish()
        owned = this.line()
        assert this.next_life() == owned
    late = this.thaw(life, trap)
    print(f"{name}, {'node' if whole else 'daemon'} stopped, overtaken {'twice' if twice else 'once'}; wrote {late}")
    if this.older.events("trainer_started"):
        assert not list(this.older.root.glob("checkpoint-*")), "what a zombie saved is out of sight"
        assert this.older.events("superseded")
        assert list((this.older.root / ".syncd" / "quarantine").iterdir())
    if not twice:
        this.younger.vanish()
        owned = this.line()
    commits = {key.replace("manifests/", "").removesuffix(".json") for key in late if "/manifests/" in key}
    line = this.next_life()
    tally.wrote += bool(late)
    tally.committed += bool(commits)
    tally.restored += bool(commits & set(line))
    assert line == owned, "the line is the owner's"
    assert not commits & set(line)
    tally.fenced += 1


AT_WEIGHTS, AT_RECORD = (
    Moment(r"GET attempt-\d+/checkpoint-\d+/weights.bin", held=True),
    Moment("PUT attempt-0003/resume.json", held=True),
)


EARLY = [
    pytest.param("at its record, which comes late", AT_WEIGHTS, True, id="a record before the second look"),
    pytest.param("at its manifest, which comes late", AT_WEIGHTS, False, id="a commit after the choice"),
    pytest.param("at its record, which comes late", AT_RECORD, False, id="a record after the second look"),
]


@pytest.mark.parametrize(("older", "younger", "followed"), EARLY if ALL else EARLY[:1])
def test_I4_until_the_youngers_record_the_older_is_the_owner(
    play: Callable[..., Play], older: str, younger: Moment, followed: bool
) -> None:
    """Rules 3 to 7: what it commits meanwhile is whole; in the line it is only where its record came in time to be seen."""
    this = play()
    life, trap = this.stop_older(MOMENTS[older], whole=True)
    chosen = this.line()
    hold = this.trap(1, younger)
    owner = this.start_younger()
    until(hold.caught.is_set, "the younger restores")
    late = this.thaw(life, trap)
    print(f"it wrote {late} while it was the owner; what was held may have been given up on its way")
    if followed:
        chosen = this.line()
    hold.go_on.set()
    this.younger.until_committed(owner, bool, "a commit of the younger")
    assert this.task.line(3) == chosen
    this.younger.vanish()
    owned = this.line()
    assert this.next_life() == owned


FINALS = [
    pytest.param("PUT done.json", True, id="its word comes late"),
    pytest.param("PUT attempt-0002/final/model.bin", True, id="its files come late"),
    pytest.param("PUT attempt-0002/manifests/final", False, id="its manifest was in time"),
    pytest.param("PUT done.json", False, id="its word was in time"),
]


@pytest.mark.parametrize(("request_", "held"), FINALS if ALL else FINALS[:1])
def test_a_zombie_in_its_final_ends_the_task_or_leaves_it(play: Callable[..., Play], request_: str, held: bool) -> None:
    """Rule 14: the first done.json stands, whoever made it; where the zombie made none, the owner will."""
    this = play()
    life, trap = this.stop_older(Moment(request_, held), whole=True, hold=0, steps=5)
    owner = this.start_younger()
    in_time = request_ == "PUT done.json" and not held
    if not in_time:
        this.younger.until_committed(owner, bool, "a commit of the younger")
    this.go_on(trap)
    code = life.code(BOUND)
    done = this.task.read("done.json") if "done.json" in this.task.listing() else None
    print(f"the older ended with {code}; done by {done and done['attempt']}")
    assert not this.older.pids()
    if done:
        assert done["attempt"] == 2
        assert code in (0, 77), "it saw its own word first, or the younger's claim"
        assert owner.code(BOUND) == 0
        steps = 5
    else:
        assert code == 77
        this.gate.touch()
        assert owner.code(60) == 0
        steps = 99
        assert this.task.read("done.json")["attempt"] == 3
    assert (this.task.restore("final") / "model.bin").read_bytes() == weights(state_after(steps), SMALL)
    this.task.verify()
