"""A machine of the rehearsal: a disk, and `syncd run` with its trainer, that die with it. Only what it started is signalled."""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Self

from msgspec import Struct

from syncd.model import canonical
from syncd.model.names import FINAL
from syncd.trainer_care import processes
from syncd.trainer_care.child import LAUNCHER

_MODULE = [sys.executable, "-P", "-m"]  # no module of the directory where it was started, which is a trainer's
SOUND = [*_MODULE, "syncd"]
FAILING = [*_MODULE, "syncd.rehearsed"]
TRAINER = [*_MODULE, "syncd.rehearsal.trainer"]
MARK = "_SYNCD_REHEARSAL"
"""Environment variable by which a node's processes are found, whatever session they moved to."""
POLL = 0.05
KILL_PATIENCE = 10.0


class Stuck(Exception):
    """What was waited for did not come: the rehearsal cannot go on. The message says what, and what came instead.

    `code`: the exit code of the node that ended before.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class Over(Exception):
    """The rehearsal cannot go on, and why is said already."""


class Failing(Struct, frozen=True):
    """A store that fails: a call fails with `chance` before, and again after it took effect; `slow` seconds at most."""

    seed: int
    chance: float = 0.1
    slow: float = 0.5

    @classmethod
    def parse(cls, spec: str) -> Self:
        return canonical.decode(spec.encode(), cls, "the first argument")


@dataclass
class Tail:
    """The lines of a growing file that are JSON objects; others are somebody else's words."""

    path: Path
    _offset: int = 0

    def read(self) -> list[dict[str, Any]]:
        """The whole lines that came since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        found = []
        for line in data.splitlines():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict):
                    found.append(said)
        return found


@dataclass
class Node:
    """`name` and its own directory `home`: the root is `home/disk`; logs and the trainer's notes outlive it."""

    name: str
    home: Path
    env: Mapping[str, str]
    trainer: list[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    """What its daemons told, all lives."""
    notes: list[dict[str, Any]] = field(default_factory=list)
    """What its trainers noted, all lives."""
    lives: int = 0
    began: float = 0.0
    """When the present life was started (monotonic)."""

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True)
        self._mark = secrets.token_hex(16)
        self._heads: list[subprocess.Popen[bytes]] = []
        self._thaws: subprocess.Popen[bytes] | None = None
        self._notes = Tail(self.home / "notes.jsonl")
        self._log = Tail(self.home / "life-0.log")

    @property
    def root(self) -> Path:
        return self.home / "disk"

    @property
    def log(self) -> Path:
        """What the present life's daemon tells."""
        return self._log.path

    # ---- what runs here

    def start(self, failing: Failing | None = None) -> None:
        """Start `syncd run` on this disk; it gets SIGTERM should this process die.

        Call it from the main thread: the parent-death signal is the starting thread's.
        """
        self.look()
        self.lives += 1
        self._log = Tail(self.home / f"life-{self.lives}.log")
        program = [*FAILING, canonical.encode(failing).decode().strip()] if failing else SOUND
        notes = ["--node", self.name, "--notes", str(self._notes.path)]
        command = [*program, "run", "--", *TRAINER, *self.trainer, *notes]
        mine = {MARK: self._mark, "SYNCD_ROOT": str(self.root), "SYNCD_NODE": self.name}
        # Apart: the trainer's words, copied to stdout, would stand in the midst of the lines that are read here.
        with self._log.path.open("ab") as log, self._log.path.with_suffix(".out").open("ab") as output:
            head = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), *command],
                env={**self.env, **mine},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
        self._heads.append(head)
        self.began = time.monotonic()

    @property
    def head(self) -> int:
        """The daemon's process id."""
        return self._heads[-1].pid

    @property
    def code(self) -> int | None:
        """The daemon's exit code, None while it lives."""
        return self._heads[-1].poll() if self._heads else None

    def pids(self) -> list[int]:
        """Every living process of this node."""
        for head in self._heads:
            head.poll()
        return processes.marked(MARK, self._mark)

    def signal(self, number: signal.Signals, pids: list[int] | None = None) -> None:
        """Send to all processes of this node, or to those of `pids` that are its own."""
        mine = self.pids()
        processes.send(mine if pids is None else [pid for pid in pids if pid in mine], number)

    def freeze(self) -> None:
        """Stop all processes. Should this one die, they go on: what is stopped heeds no parent's death."""
        pids = self.pids()
        command = ["sh", "-c", 'read _; kill -s CONT "$@"', "sh", *map(str, pids)]
        self._thaws = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.signal(signal.SIGSTOP, pids)

    def thaw(self) -> None:
        self._forget_thawing()
        self.signal(signal.SIGCONT)

    def _forget_thawing(self) -> None:
        if self._thaws:
            self._thaws.kill()
            self._thaws.communicate()
            self._thaws = None

    def kill(self) -> None:
        """As when the machine loses its power: frozen first, so that nobody reacts to another's death. Blocks."""
        self._forget_thawing()
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + KILL_PATIENCE
        while (left := self.pids()) and time.monotonic() < deadline:
            processes.send(left, signal.SIGKILL)
            time.sleep(0.01)
        for head in self._heads:
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(1.0)
        self.look()

    def lose_disk(self) -> None:
        """The disk is gone. Blocks."""
        shutil.rmtree(self.root, ignore_errors=True)

    # ---- what is seen of it

    def look(self) -> None:
        """Read what was told and noted since."""
        self.events += self._log.read()
        self.notes += self._notes.read()

    def told(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.events if line.get("event") == event]

    def noted(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.notes if line.get("event") == event]

    @property
    def committed(self) -> int:
        """The newest step that was told as committed; 0: none."""
        return max((int(line["step"]) for line in self.told("checkpoint_committed") if line.get("step")), default=0)

    @property
    def saved(self) -> int:
        """The newest step that its trainer saved; 0: none."""
        return max((int(line["step"]) for line in self.noted("saved")), default=0)

    @property
    def attempt(self) -> int | None:
        """The attempt that its newest life began or went on with."""
        begun = self.told("attempt_begun")
        return int(begun[-1]["attempt"]) if begun else None

    @property
    def cut_off(self) -> set[tuple[int, str]]:
        """Attempts and commits that its daemons may have been sending when they died: seen, and not told as committed.

        What was seen again under a name may have been sent under the next.
        """
        attempts: list[int] = []
        seen: Counter[str] = Counter({FINAL: 1})
        committed = set()
        for line in self.events:
            match line.get("event"):
                case "attempt_begun":
                    attempts.append(int(line["attempt"]))
                case "checkpoint_seen":
                    seen[str(line["checkpoint"])] += 1
                case "checkpoint_committed" if attempts:
                    committed.add((attempts[-1], str(line["commit"])))
        names = [name if n == 1 else f"{name}.{n}" for name, times in seen.items() for n in range(1, times + 1)]
        return set(product(attempts, names)) - committed

    @property
    def last_words(self) -> str:
        """The end of its log, in one line: for a node that ended when it should not."""
        lines = self.log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("syncd: ")] or lines[-1:]
        return said[-1][:300] if said else "it said nothing"

    async def until(self, condition: Callable[[], bool], what: str, patience: float) -> None:
        """Wait until `condition()`. Raises `Stuck` after `patience` seconds, and where the node ends before."""
        deadline = time.monotonic() + patience
        while True:
            code = self.code
            self.look()
            if condition():
                return
            if code is not None:
                raise Stuck(f"{self.name} ended with exit code {code} before {what}: {self.last_words}", code)
            if time.monotonic() > deadline:
                raise Stuck(f"{self.name}: not within {patience:.0f} s: {what}")
            await asyncio.sleep(POLL)

    async def ended(self, patience: float) -> int | None:
        """Its exit code; None where it does not end within `patience` seconds."""
        deadline = time.monotonic() + patience
        while (code := self.code) is None and time.monotonic() < deadline:  # noqa: ASYNC110 - no child of the loop
            await asyncio.sleep(POLL)
        self.look()
        return code
