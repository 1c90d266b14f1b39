"""The processes of the demo: each in an environment of its own, followed by its files, killed with all it started.

Nothing of syncd is imported: what happens on a node is read from the daemon's log lines and the trainer's
`progress.json`, as anybody could.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

MARK = "_SYNCD_DEMO"
"""Environment variable of every process of a demo: the demo's directory and whose process it is."""
_OURS = ("SYNCD_", "_SYNCD_", "AWS_", "MQTT_")
_PLATFORMS = ("ACCELERATE_", "KELPIE_", "KUBERNETES_", "SALAD_", "SLURM_")
_RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
_DEATH_TAKES = 10.0  # seconds; a process in an uninterruptible call takes longer

Event = dict[str, Any]


class Failed(Exception):
    """The demo cannot go on: what happened, and the end of the log that says why."""

    def __init__(self, text: str, tail: str = "") -> None:
        super().__init__(text)
        self.tail = tail


def environment(mark: str, **more: str) -> dict[str, str]:
    """Return the caller's environment without what would turn the demo into something else, marked as ours."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((*_OURS, *_PLATFORMS)) and name not in _RANKS
    }
    # No GPU: the same bits on every machine, and no memory taken from what runs there.
    return {**kept, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "", MARK: mark, **more}


def kill(begin: str, *, exactly: bool = False) -> None:
    """SIGKILL all processes whose mark begins with (or is) `begin`, wherever their parents are.

    As if the power went: none sees another one die. Return when all have ended.

    Raises:
        Failed: some are still there after ten seconds.
    """
    seen: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + _DEATH_TAKES
    while True:
        seen |= {process.pid: process for process in _marked(begin, exactly)}
        # A dying process has lost its environment, thus its mark, before it lets go of its files.
        left = [process for process in seen.values() if _lives(process)]
        if not left:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
        if time.monotonic() > deadline:
            raise Failed(f"these processes survive SIGKILL: {[process.pid for process in left]}")
        time.sleep(0.01)


def _marked(begin: str, exactly: bool) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mark = process.environ().get(MARK, "")
            if (mark == begin if exactly else mark.startswith(begin)) and process.pid != os.getpid():
                # Its children by descent: one that is just becoming another program shows no environment.
                found += [process, *process.children(recursive=True)]
    return found


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


class Runner:
    """One process with what it starts, and what is known of it. `root` is its disk; the logs outlive that.

    `step`, `total`, `loss` and `phase` are the trainer's last beat; `durable` is the step of the newest commit.
    """

    def __init__(self, name: str, directory: Path) -> None:
        slug = name.replace(" ", "-").lower()
        self.name, self.root = name, directory / slug
        self.out, self.err = directory / "logs" / f"{slug}.out", directory / "logs" / f"{slug}.err"
        self.mark = f"{directory}/{slug}"
        self.events: list[Event] = []
        self.step = 0
        self.total: int | None = None
        self.loss: float | None = None
        self.durable: int | None = None
        self.ended: int | None = None
        self.killed = False
        self.phase, self.since = "", time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self._read, self._rest = 0, b""

    @property
    def started(self) -> bool:
        return self._process is not None

    def start(self, command: Sequence[str], settings: Mapping[str, str]) -> None:
        """Start it beside its disk, in a session of its own: a terminal's Ctrl-C is for the demo to handle."""
        self.root.mkdir()
        self.out.parent.mkdir(exist_ok=True)
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self._process = subprocess.Popen(
                command,
                cwd=self.root.parent,
                env=environment(self.mark, **settings),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self._enter("starting")

    def look(self) -> list[Event]:
        """Read what is new; return the events among it."""
        if not self.started or self.killed or self.ended is not None:
            return []
        assert self._process
        code = self._process.poll()  # before reading, so that the last words are read
        self._read_beat()
        new = list(filter(None, map(_event, self._new_lines())))
        self.events += new
        for event in self.commits():
            self.durable = event.get("step", self.durable)
        if code is not None:
            self.ended = code
            self._enter("done" if code == 0 else f"exit {code}")
        return new

    def commits(self) -> list[Event]:
        """Return its commits of checkpoints to resume from, oldest first."""
        return [event for event in self.events if event["event"] == "checkpoint_committed" and event.get("step")]

    def power_off(self) -> list[Event]:
        """Kill the daemon, the trainer and whatever they started, all at once; return the last events."""
        assert self._process
        kill(self.mark, exactly=True)
        self._process.wait()
        last = self.look()
        self.killed = True
        self._enter("KILLED")
        return last

    def tail(self, lines: int = 12) -> str:
        """Return the end of what it said on stderr, else on stdout."""
        for path in (self.err, self.out):
            with contextlib.suppress(OSError):
                if text := path.read_text(encoding="utf-8", errors="replace").strip():
                    return f"{path}:\n" + "\n".join(text.splitlines()[-lines:])
        return ""

    def failed(self, what: str) -> Failed:
        """Return the error that tells what happened here."""
        return Failed(f"{self.name} {what}", self.tail())

    def _enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase, self.since = phase, time.monotonic()

    def _read_beat(self) -> None:
        try:
            beat = json.loads((self.root / "progress.json").read_bytes())
        except (OSError, ValueError):
            return  # not yet there
        self.step, self.total, self.loss = beat["step"], beat["total"], beat["loss"] or self.loss
        self._enter(str(beat["phase"]))

    def _new_lines(self) -> list[bytes]:
        with self.err.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return whole


def _event(line: bytes) -> Event | None:
    """Return the event of a log line; the trainer writes into the same stream, perhaps half a line before it."""
    start = line.find(b'{"time": ')
    try:
        event = json.loads(line[start:]) if start >= 0 else None
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def run(command: Sequence[str], mark: str, on_line: Callable[[str], None], **settings: str) -> tuple[int, list[str]]:
    """Run a command to its end; `on_line` hears each line of both its streams. Return exit code and lines."""
    process = subprocess.Popen(
        command,
        env=environment(mark, **settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        on_line(lines[-1])
    return process.wait(), lines
