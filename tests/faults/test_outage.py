"""The store is away, or asks for fewer requests, while checkpoints are saved: none is lost, and the trainer never waits.

How long steps take is measured in windows in which syncd runs and in windows in which it stands still (SIGSTOP), by
turns, so that what else the machine does falls on both. Of that nothing is asserted here but that no step waited for the
store: machines are noisy. `make faults` takes the store away for ten minutes, and says what it measured.
"""

import contextlib
import itertools
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncd.testing import Fault, s3_error
from syncd.testing.servers import Minio, free_port
from tests.e2e.conftest import NewNode
from tests.e2e.helpers import FAKE, SYNCD, Node, Process, Task, until
from tests.faults.between import Between
from tests.faults.scale import ALL, campaign

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
AWAY = 600.0 if ALL else 12.0
"""Seconds that the store is away."""
WINDOW = 5.0 if ALL else 1.0
SAVES, SIZE = 5, 4 << 20
STEP_TRAINER = [sys.executable, "-S", str(Path(__file__).with_name("step_trainer.py"))]


class Store:
    """A proxy before MinIO on a port that stays the same, whatever stands there."""

    def __init__(self, minio: Minio) -> None:
        self.minio, self.port = minio, free_port()
        self._held = contextlib.ExitStack()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._held.close()

    def well(self) -> Between:
        self.close()
        return self._held.enter_context(Between(self.minio.port, self.port))

    def refused(self) -> None:
        """Nobody listens."""
        self.close()

    def swallowed(self) -> None:
        """The kernel drops each SYN: the queue of those who wait to be accepted is full."""
        self.close()
        listening = self._held.enter_context(socket.socket())
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        listening.listen(0)
        for _ in range(4):
            waiting = self._held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", self.port))

    def silent(self) -> None:
        """Everything is accepted and nothing answered."""
        self.well().proxy.choose = lambda number: Fault(hole=True)

    def unavailable(self) -> None:
        """503 to everything."""
        said = s3_error(503, "ServiceUnavailable")
        self.well().proxy.choose = lambda number: Fault(answer=said)

    def throttling(self) -> None:
        """Every second request is told to slow down."""
        numbers, said = itertools.count(), s3_error(503, "SlowDown")
        self.well().proxy.judge = lambda head: said if next(numbers) % 2 else None


@pytest.fixture
def store(minio: Minio) -> Iterator[Store]:
    made = Store(minio)
    made.well()
    yield made
    made.close()


class Measured:
    """One run of a trainer that measures itself, with windows in which the daemon stands still."""

    def __init__(self, node: Node, home: Path, between_saves: float) -> None:
        self.node, self.begin, self.end, self.steps = node, home / "begin", home / "end", home / "steps"
        files = ["--from", str(self.begin), "--until", str(self.end), "--steps", str(self.steps)]
        self.life: Process = node.run([*STEP_TRAINER, *files, f"--seconds={between_saves}", f"--size={SIZE}"])
        until(lambda: node.events("trainer_started"), "the trainer trains")
        self.windows: list[tuple[float, float, bool]] = []

    def watch(self, seconds: float, meanwhile: Callable[[float], None]) -> None:
        """Let the run go on for so long in windows; `meanwhile` is told how much of it is over."""
        began, runs = time.monotonic(), True
        while (at := time.monotonic()) < began + seconds:
            meanwhile((at - began) / seconds)
            if not runs:
                self.node.signal(signal.SIGSTOP, [self.life.pid])
            time.sleep(WINDOW)
            self.windows.append((at, time.monotonic(), runs))
            self.node.signal(signal.SIGCONT, [self.life.pid])
            runs = not runs

    def finish(self) -> int:
        self.end.touch()
        return self.life.code(120)

    def told(self) -> tuple[str, float]:
        """What was measured, in words; the longest step of all. The whole campaign has a machine to itself: its bounds hold."""
        of: dict[bool, list[float]] = {True: [], False: []}
        took = json.loads(self.steps.read_text())
        for since, to, runs in self.windows:
            of[runs] += [seconds for end, seconds in took if since <= end - seconds and end <= to]
        p99 = {runs: statistics.quantiles(steps, n=100)[98] for runs, steps in of.items()}
        ratio, more = p99[True] / p99[False], max(of[True]) - max(of[False])
        words = (
            f"with / without: p99 {ratio:.2f} ({p99[True] * 1e3:.1f} / {p99[False] * 1e3:.1f} ms), longest"
            f" {more * 1e3:+.0f} ms ({max(of[True]) * 1e3:.0f} / {max(of[False]) * 1e3:.0f} ms), {len(took)} steps"
        )
        assert not ALL or (ratio <= 1.2 and more <= 0.25), f"{words}: the trainer waits (is the machine at rest?)"
        return words, max(seconds for _, seconds in took)


def check(task: Task, node: Node, run: Measured, backlog: int) -> None:
    """All that the policy wants is committed, once, in order; and no step waited for the store."""
    steps, skipped = node.committed(), [event["step"] for event in node.events("checkpoint_skipped")]
    assert steps == sorted(steps)
    assert sorted(steps + skipped) == list(range(1, SAVES + 1)), f"committed {steps}, skipped {skipped}"
    assert steps[-backlog:] == list(range(SAVES + 1 - min(backlog, SAVES), SAVES + 1))
    restored = task.restore()
    assert (restored / "weights.bin").read_bytes() == SAVES.to_bytes(8, "little") * (SIZE // 8)
    task.verify()
    for event in ("trainer_stalled", "trainer_failed", "checkpoint_torn"):
        assert not node.events(event)


WANTED = [pytest.param(SAVES, id="all are wanted"), pytest.param(1, id="the newest is wanted")]


@pytest.mark.parametrize("backlog", WANTED if ALL else WANTED[:1])
def test_a_store_that_is_away_while_five_checkpoints_are_saved(
    s3_task: Task, new_node: NewNode, store: Store, tmp_path: Path, sum_up: Callable[[str, str], None], backlog: int
) -> None:
    """It is away in one way after the other."""
    ways = [store.refused, store.swallowed, store.silent, store.unavailable, store.refused]
    node = new_node(
        s3_task,
        AWS_ENDPOINT_URL_S3=store.endpoint,
        SYNCD_BACKLOG=f"{backlog}",
        SYNCD_KEEP="100",
        SYNCD_S3_TIMEOUT="2",
        SYNCD_STALL_AFTER=f"{AWAY / 2}",
    )
    away = AWAY if backlog == SAVES or not ALL else 60.0
    run = Measured(node, tmp_path, away / (SAVES + 1))
    left = iter(enumerate(ways))
    now = -1

    def in_turn(over: float) -> None:
        nonlocal now
        while now < min(int(over * len(ways)), len(ways) - 1):
            now, way = next(left)
            way()

    in_turn(0.0)
    run.begin.touch()
    run.watch(away, in_turn)
    until(lambda: len(node.events("checkpoint_seen")) == SAVES, "all are saved", 60)
    assert node.events("store_away")
    assert not node.committed()
    store.well()
    until(lambda: (node.committed() or [0])[-1] == SAVES, "the newest is committed", 120)
    until(lambda: node.events("store_back"), "it says that the store is back")
    assert run.finish() == 0
    words, longest = run.told()
    print(words)
    sum_up(
        f"outage {backlog}", f"store away for {away:.0f} s, backlog {backlog}: {words}; committed {node.committed()}"
    )
    assert longest < away / 2, "no step waited for the store"
    check(s3_task, node, run, backlog)


@campaign
def test_a_store_that_asks_for_fewer_requests(
    s3_task: Task, new_node: NewNode, store: Store, tmp_path: Path, sum_up: Callable[[str, str], None]
) -> None:
    node = new_node(
        s3_task, AWS_ENDPOINT_URL_S3=store.endpoint, SYNCD_BACKLOG=f"{SAVES}", SYNCD_KEEP="100", SYNCD_STALL_AFTER="60"
    )
    seconds = 120.0
    run = Measured(node, tmp_path, seconds / (SAVES + 1))
    store.throttling()
    run.begin.touch()
    run.watch(seconds, lambda over: None)
    until(lambda: (node.committed() or [0])[-1] == SAVES, "the newest is committed although it is asked", 120)
    store.well()
    assert run.finish() == 0
    words, longest = run.told()
    print(words)
    sum_up("throttled", f"store throttles for {seconds:.0f} s: {words}; committed {node.committed()}")
    assert longest < seconds / 2
    check(s3_task, node, run, SAVES)


HOSTS = "127.0.0.1 localhost\n"


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """A hosts file for one node alone: what is not in it has no name server either."""
    path, resolv = tmp_path / "hosts", tmp_path / "resolv.conf"
    path.write_text(HOSTS + "127.0.0.1 store.test\n")
    resolv.write_text("nameserver 127.0.0.1\n")
    probe = subprocess.run(
        ["unshare", "-m", "mount", "--bind", str(path), "/etc/hosts"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"a node cannot have a hosts file of its own here (root and unshare -m): {probe.stderr.decode()}")
    return path


@campaign
def test_a_store_whose_name_cannot_be_looked_up_for_a_while(
    s3_task: Task, new_node: NewNode, store: Store, names: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    node = new_node(s3_task, AWS_ENDPOINT_URL_S3=f"http://store.test:{store.port}", SYNCD_S3_TIMEOUT="2")
    mounts = [f"mount --bind {names.parent / each} /etc/{each}" for each in ("hosts", "resolv.conf")]
    inside = ["unshare", "-m", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]
    life = node.start([*inside, SYNCD, "run", "--", *FAKE, "--steps", "6", "--hold", f"2:{gate}"])
    node.until_committed(life, lambda steps: 2 in steps, "two commits")
    names.write_text(HOSTS)  # in place: the node's is this very file
    store.well()  # every connection is a new one
    gate.touch()
    until(lambda: any("name" in event["why"] for event in node.events("store_away")), "it says what is wrong", 30)
    until(lambda: node.events("trainer_ended"), "training goes on to its end", 30)
    node.alive(life, "it waits for the store")
    names.write_text(HOSTS + "127.0.0.1 store.test\n")
    assert life.code(90) == 0
    assert node.committed()[-1] == 6
    s3_task.verify()
