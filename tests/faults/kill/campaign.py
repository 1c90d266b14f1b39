"""Real `syncd` processes, killed by strace at each syscall that changes something: `python -m tests.faults.kill --help`.

`strace -e inject=CALL:signal=KILL:when=N` kills the process as a thread of it is about to make its Nth CALL. N grows
until runs end unharmed: once with all work in one thread (`inline`), so that each call is reached, and once as it is, with
threads that are killed in the midst of different things. A point that was tried is noted, so that a campaign that is cut
goes on where it was; what was noted of other sources counts no more.
"""

import asyncio
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from .places import Place
from .scenes import SCENES, TASK, Stage, judge

CALLS = (
    "write", "pwrite64", "fsync", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "mkdir", "mkdirat",
    "rmdir", "ftruncate", "fallocate", "copy_file_range", "fchmod", "chmod", "sendto", "sendfile", "connect", "recvfrom",
)  # fmt: skip
WAYS = {"inline": [str(Path(__file__).with_name("inline.py"))], "threads": ["-m", "syncd"]}
"""How the process is started that is killed."""
UNHARMED = {"inline": 1, "threads": 3}
"""Runs that end unharmed, one after the other, until a series is over: threads share their work differently each time."""
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
    way: str = "threads"


@dataclass(frozen=True)
class Found:
    """What came of it: `killed`, or it ended by itself before; `wrong` says what was broken."""

    point: Point
    killed: bool
    wrong: str | None


class Notes:
    """What was tried, a line each, after a first one that tells of which sources: the campaign's memory."""

    def __init__(self, path: Path | None, sources: str = "") -> None:
        self.path = path
        self.found: dict[Point, Found] = {}
        lines = path.read_text().splitlines() if path and path.exists() else []
        if path and (not lines or json.loads(lines[0]) != {"sources": sources}):
            lines = [json.dumps({"sources": sources})]
            path.write_text(lines[0] + "\n")
        for line in lines[1:]:
            data = json.loads(line)
            point = Point(**data.pop("point"))
            if data["wrong"] is None:  # else it is tried again: it may be mended, or come of something else
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


def sources() -> str:
    """A sum of all that decides what a kill point shows."""
    top = Path(__file__).parents[3]
    summed = hashlib.sha256()
    for folder in ("syncd", "plugins", "tests/faults/kill"):
        for path in sorted((top / folder).rglob("*.py")):
            summed.update(path.read_bytes())
    return summed.hexdigest()


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
        for way, store, scene, call in itertools.product(WAYS, self.places, scenes, calls):
            unharmed = 0
            for n in range(1, STEADY):
                found = await self.try_(Point(store, scene, call, n, way))
                unharmed = 0 if found.killed else unharmed + 1
                if unharmed == UNHARMED[way]:
                    break

    async def some_points(self, count: int, rng: random.Random, most: int) -> None:
        """A sample: so many kills, at the Nth call with N up to `most`; points that end unharmed do not count."""
        before = self.notes.kills
        while self.notes.kills - before < count:
            store, scene, way = (rng.choice(sorted(each)) for each in (self.places, SCENES, WAYS))
            await self.try_(Point(store, scene, rng.choice(CALLS), rng.randint(1, most), way))

    async def try_(self, point: Point) -> Found:
        """Set up, run, kill, judge; what is known already is not tried again."""
        if known := self.notes.found.get(point):
            return known
        self.tried += 1
        home = self.home / f"{os.getpid()}-{self.tried}"
        scene = SCENES[point.scene]
        async with self.places[point.store](home) as (store, url, env):
            stage = Stage(home, store, url, self._env(home, url, env))
            await scene.set_up(stage)
            code, said = await self._run(stage, [*scene.verb(stage)], point)
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

    def _env(self, home: Path, url: str, env: dict[str, str]) -> dict[str, str]:
        (home / "operator").mkdir(exist_ok=True)
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SYNCD_", "AWS_"))},
            **env, "SYNCD_STORE": url, "SYNCD_TASK": TASK, "SEED": str(home / "seed"), "SYNCD_HEARTBEAT": "1",
            "SYNCD_SCAN_INTERVAL": "0.2", "SYNCD_QUIET": "0.2", "SYNCD_LOG_FORMAT": "text",
        }  # fmt: skip

    async def calls_of(self, store: str, name: str) -> set[str]:
        """The system calls that a scene's process makes when nobody kills it."""
        home = self.home / f"calls-{store}-{name}"
        async with self.places[store](home) as (opened, url, env):
            stage = Stage(home, opened, url, self._env(home, url, env))
            await SCENES[name].set_up(stage)
            count = ["-f", "-b", "execve", "-qq", "-c", "-U", "name", "-o", str(home / "calls")]
            code, said = await self._traced(stage, count, ["-m", "syncd", *SCENES[name].verb(stage)])
        assert code == 0, said
        return set((home / "calls").read_text().split())

    async def _run(self, stage: Stage, verb: list[str], point: Point) -> tuple[int, str]:
        inject = f"{point.call}:signal=KILL:when={point.n}"
        kill = [
            "-f",
            "--seccomp-bpf",
            "-b",
            "execve",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            f"trace={point.call}",
            "-e",
            f"inject={inject}",
        ]
        return await self._traced(stage, kill, [*WAYS[point.way], *verb])

    async def _traced(self, stage: Stage, options: list[str], words: list[str]) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            "strace", *options, sys.executable, *words,
            cwd=stage.home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, env=stage.env,
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
    killed = Counter((point.store, point.scene, point.way) for point, found in notes.found.items() if found.killed)
    for (store, scene, way), kills in sorted(killed.items()):
        lines.append(f"{store:6} {scene:28} {way:8} {kills:5} kills")
    lines.append(f"{notes.kills} kill points of real processes, {len(notes.wrong)} after which something was wrong")
    return "\n".join(lines)
