"""A trainer without machine learning, on the standard library and `trainer/contract.py`.

Its state is a chain of digests: a run that lost a step, did one twice, or resumed from mixed files ends with other
bytes. What it does wrong, and when, is told by its options.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from trainer import contract

SEED = hashlib.sha256(b"step 0").hexdigest()


def state_after(steps: int) -> str:
    """The state of a run that nothing disturbed."""
    state = SEED
    for step in range(1, steps + 1):
        state = advance(state, step)
    return state


def advance(state: str, step: int) -> str:
    return hashlib.sha256(f"{state} {step}".encode()).hexdigest()


def weights(state: str, size: int) -> bytes:
    """Bytes that only this state has."""
    return random.Random(state).randbytes(size)


def pause(seconds: float) -> None:
    """`time.sleep`, which raises EINVAL under libfaketime 0.9.10."""
    threading.Event().wait(seconds)


class Trainer:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.root = Path(os.environ["SYNCD_ROOT"])
        self.state, self.step = SEED, 0
        self.asked = False
        self.life = self._count_life()
        plan = options.lives.split(",") if options.lives else []
        self.plan = plan[self.life - 1] if self.life <= len(plan) else "well"

    def _count_life(self) -> int:
        if self.options.trace is None:
            return 1
        lives = self.options.trace.with_suffix(".lives")
        number = int(lives.read_text()) + 1 if lives.exists() else 1
        lives.write_text(f"{number}")
        return number

    def note(self, **facts: object) -> None:
        """To a file that syncd does not see: what the test compares with."""
        if self.options.trace is not None:
            with self.options.trace.open("a") as trace:
                line = {"life": self.life, "pid": os.getpid(), "step": self.step, "at": time.monotonic(), **facts}
                trace.write(json.dumps(line) + "\n")

    def main(self) -> int:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN if self.options.deaf else self._ask)
        self._resume()
        self.note(event="begin")
        print(f"life {self.life} begins at step {self.step} of {self.options.steps}", flush=True)
        if self.plan.startswith("exit"):
            print("this life fails at once", flush=True)
            return int(self.plan[4:])
        while self.step < self.options.steps:
            self._one_step()
            if self.asked:
                self._save()
                print(f"stopped by a signal, saved at step {self.step}", flush=True)
                pause(self.options.linger)
                return 75
            if self.step % self.options.every == 0:
                self._save()
                if self.plan.startswith("save-exit"):
                    print("this life fails after its save", flush=True)
                    return int(self.plan[9:])
                if self.plan == "hang":
                    self._hang()
            self._hold()
        if not self.options.no_final:
            self._finish()
        return 0

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True

    def _resume(self) -> None:
        found = contract.resume(self.root, timeout=30, root=self.root)
        if found is None:
            return
        said = json.loads(Path(found, "state.json").read_text())
        if Path(found, "weights.bin").read_bytes() != weights(said["state"], self.options.size):
            print(f"{found} is mixed: its weights are not of its state", flush=True)
            sys.exit(66)
        self.state, self.step = said["state"], said["step"]

    def _one_step(self) -> None:
        self.step += 1
        self.state = advance(self.state, self.step)
        pause(self.options.pause)
        contract.beat(self.step, self.options.steps, root=self.root, force=True)
        self.note(event="step")
        print(f"step {self.step}", flush=True)
        if self.options.log:
            log = self.root / "runs" / "deep" / "scalars.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("a") as lines:
                lines.write(f"{self.step} {self.state}\n")

    def _save(self) -> None:
        in_place = self.options.style in ("in-place", "rude")
        named = self.root / ("latest" if in_place else f"checkpoint-{self.step}")
        directory = self.root / ".building" if self.options.stamp else named
        directory.mkdir(exist_ok=True)
        if self.options.style != "rude":
            contract.unmark(directory)
        self._write(directory)
        if self.options.bare:
            (directory / contract.MARKER).touch()
        else:
            contract.mark_complete(directory, step=self.step)
        if self.options.stamp:
            self._stamp(directory, named)
        self.note(event="saved", name=named.name, state=self.state)
        if self.options.keep and not in_place:
            saved = sorted(self.root.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
            for old in saved[: -self.options.keep]:
                self._remove(old)

    def _stamp(self, directory: Path, named: Path) -> None:
        """Give files the time of the clock that libfaketime shows, as a kernel with that clock would, and a directory its name."""
        for path in directory.iterdir():
            os.utime(path)
        if named.exists():
            shutil.rmtree(named)
        directory.rename(named)

    def _remove(self, directory: Path) -> None:
        """As rmtree, which may take the files in any order and any time; slowly, with the marker last, if asked to."""
        if self.options.slow_removal:
            for path in sorted(directory.iterdir(), key=lambda path: (path.name == contract.MARKER, path.name)):
                path.unlink()
                pause(0.05)
        shutil.rmtree(directory)

    def _write(self, directory: Path) -> None:
        data = weights(self.state, self.options.size)
        with (directory / "weights.bin").open("wb") as file:  # truncates: a pin of the old one is changed too
            for start in range(0, len(data), 1 << 18):
                file.write(data[start : start + (1 << 18)])
                file.flush()
        said = {"step": self.step, "state": self.state, "by": os.environ.get("SYNCD_NODE")}
        (directory / "state.json").write_text(json.dumps(said))

    def _hold(self) -> None:
        """Wait at a step, alive and well, until the test lets go."""
        for rule in self.options.hold:
            step, _, gate = rule.partition(":")
            while self.step == int(step) and not Path(gate).exists() and not self.asked:
                contract.beat(self.step, self.options.steps, root=self.root)
                pause(0.02)

    def _hang(self) -> None:
        print("this life hangs", flush=True)
        self.note(event="hangs")
        while True:
            pause(0.05)

    def _finish(self) -> None:
        final = self.root / "final"
        final.mkdir(exist_ok=True)
        (final / "model.bin").write_bytes(weights(self.state, self.options.size))
        contract.mark_complete(final, step=self.step)
        contract.finished(self.root, step=self.step)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--steps", type=int, default=10)
    add("--every", type=int, default=1, help="steps between saves")
    add("--pause", type=float, default=0.05, help="seconds a step takes")
    add("--size", type=int, default=20_000, help="bytes of the weights")
    add("--keep", type=int, default=0, help="local checkpoints kept; 0: all")
    add("--style", choices=["new", "in-place", "rude"], default="new", help="rude: the marker stays meanwhile")
    add("--slow-removal", action="store_true", help="old checkpoints go file by file, the marker last")
    add("--bare", action="store_true", help="an empty marker, as other trainers write it")
    add("--hold", action="append", default=[], help="STEP:FILE: wait after that step until the file exists")
    add("--lives", default="", help="what each life does, with commas: exitN, save-exitN, hang, well")
    add("--deaf", action="store_true", help="ignore signals")
    add("--linger", type=float, default=0.0, help="seconds between the save at a signal and the end")
    add("--log", action="store_true", help="write runs/deep/scalars.log")
    add("--no-final", action="store_true")
    add("--stamp", action="store_true", help="files bear the time of a feigned clock; directories appear whole")
    add("--trace", type=Path, help="where to note what was done")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(Trainer(parse()).main())
