"""Real `syncd` processes, killed by strace at each syscall that changes something: `python -m tests.faults.kill --help`.

`strace -e inject=CALL:signal=KILL:when=N` kills the process as a thread of it is about to make its Nth CALL. N grows
until a run ends unharmed. A point that was tried is noted, so that a campaign that is cut goes on where it was.
"""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from .places import Place
from .scenes import SCENES, TASK, Stage, judge

CALLS = (
    "write", "pwrite64", "fsync", "rename", "link", "linkat", "unlink", "unlinkat", "mkdir", "rmdir", "ftruncate",
    "fallocate", "copy_file_range", "fchmod", "chmod", "sendto", "sendfile", "connect", "recvfrom",
)  # fmt: skip
LIMIT = 60.0
"""Seconds for one run; one that takes longer is a failure."""
STEADY = 400
"""Points of one call at most: a loop that never ends would be no campaign."""


@dataclass(frozen=True)
class Point:
    """One kill: in which store, in the midst of what, at which call, the how manyth of a thread."""

    store: str
    scene: str
    call: str
    n: int


@dataclass(frozen=True)
class Found:
    """What came of it: `killed`, or it ended by itself before; `wrong` says what was broken."""

    point: Point
    killed: bool
    wrong: str | None


class Notes:
    """What was tried, a line each; the campaign's memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.found: dict[Point, Found] = {}
        if path and path.exists():
            for line in path.read_text().splitlines():
                data = json.loads(line)
                point = Point(**data.pop("point"))
                self.found[point] = Found(point, **data)

    def add(self, found: Found) -> None:
        self.found[found.point] = found
        if self.path:
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")

    @property
    def kills(self) -> int:
        return sum(each.killed for each in self.found.values())

    @property
    def wrong(self) -> list[Found]:
        return [each for each in self.found.values() if each.wrong]


def strace() -> str | None:
    """strace, where it may trace."""
    path = shutil.which("strace")
    if path is None or subprocess.run([path, "-qq", "true"], capture_output=True, check=False).returncode:
        return None
    return path


@dataclass
class Campaign:
    """Kill points over some stores; the scratch of those after which something was wrong stays in `home`."""

    home: Path
    places: dict[str, Place]
    notes: Notes
    tried: int = 0

    async def all_points(self, scenes: list[str], calls: tuple[str, ...] = CALLS) -> None:
        """Every N of every call of every scene in every store, until runs end unharmed."""
        for store in self.places:
            for scene in scenes:
                for call in calls:
                    for n in range(1, STEADY):
                        found = await self.try_(Point(store, scene, call, n))
                        if not found.killed:
                            break

    async def some_points(self, count: int, rng: random.Random, most: int) -> None:
        """A sample: so many kills, at the Nth call with N up to `most`; points that end unharmed do not count."""
        before = self.notes.kills
        while self.notes.kills - before < count:
            store, scene = rng.choice(sorted(self.places)), rng.choice(sorted(SCENES))
            await self.try_(Point(store, scene, rng.choice(CALLS), rng.randint(1, most)))

    async def try_(self, point: Point) -> Found:
        """Set up, run, kill, judge; what is known already is not tried again."""
        if known := self.notes.found.get(point):
            return known
        self.tried += 1
        home = self.home / f"{os.getpid()}-{self.tried}"
        scene = SCENES[point.scene]
        async with self.places[point.store](home) as (store, url, env):
            stage = Stage(home, store, url)
            await scene.set_up(stage)
            code, said = await self._run(stage, [*scene.verb(stage)], env, point)
            killed = code == -signal.SIGKILL
            wrong = None
            try:
                assert killed or code == 0, f"ended with {code}: {said[-500:]}"
                await judge(stage, scene)
            except Exception as error:  # whatever goes wrong afterwards is what this looks for
                wrong = f"{type(error).__name__}: {error}\n{said[-2000:]}"
        found = Found(point, killed, wrong)
        if wrong is None:
            shutil.rmtree(home)
        self.notes.add(found)
        return found

    async def _run(self, stage: Stage, verb: list[str], env: dict[str, str], point: Point) -> tuple[int, str]:
        (stage.home / "operator").mkdir(exist_ok=True)
        inject = f"{point.call}:signal=KILL:when={point.n}"
        trace = ["strace", "-f", "--seccomp-bpf", "-b", "execve", "-qq", "-o", "/dev/null", "-e", f"trace={point.call}"]
        process = await asyncio.create_subprocess_exec(
            *trace, "-e", f"inject={inject}", sys.executable, "-m", "syncd", *verb,
            cwd=stage.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("SYNCD_", "AWS_"))},
                **env, "SYNCD_STORE": stage.url, "SYNCD_TASK": TASK, "SEED": str(stage.seed), "SYNCD_HEARTBEAT": "1",
                "SYNCD_SCAN_INTERVAL": "0.2", "SYNCD_QUIET": "0.2",
            },
        )  # fmt: skip
        try:
            async with asyncio.timeout(LIMIT):
                said, _ = await process.communicate()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            said, _ = await process.communicate()
            return 1, f"no end within {LIMIT} s: {said.decode(errors='replace')}"
        assert process.returncode is not None
        return process.returncode, said.decode(errors="replace")


def summary(notes: Notes) -> str:
    """A line for each store and scene."""
    lines = []
    for store, scene in sorted({(each.store, each.scene) for each in notes.found}):
        kills = sum(
            found.killed for point, found in notes.found.items() if (point.store, point.scene) == (store, scene)
        )
        lines.append(f"{store:6} {scene:28} {kills:5} kills")
    lines.append(f"{notes.kills} kill points of real processes, {len(notes.wrong)} after which something was wrong")
    return "\n".join(lines)
