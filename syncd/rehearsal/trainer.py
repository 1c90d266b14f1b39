"""The trainer of a rehearsal: what it saves at a step is the same whoever saves it, so that every byte can be compared.

Standard library only. It resumes the newest marked checkpoint that it finds, compares it byte for byte, saves each step,
and notes in a file that syncd does not see what it did. On SIGTERM it ends its step, saves and leaves.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MARKER, STATE, FINAL = "_SUCCESS", "state.json", "final"
BLOCK = 1 << 20
"""Bytes of content that are made at once."""
KEEP = 3
"""Checkpoints that it leaves on its disk."""
LEAVE, MIXED = 75, 66
"""Exit codes: it saved and left; what it found is not what is saved at that step."""


def layout(size: int) -> dict[str, int]:
    """The large files of a checkpoint of `size` bytes, with their sizes."""
    return {"model-1.bin": size * 3 // 4, "model-2.bin": size - size * 3 // 4}


def content(kind: str, step: int, name: str, size: int) -> Iterator[bytes]:
    """What is saved in a file at a step, in blocks. `kind`: `checkpoint` or `final`."""
    for number, offset in enumerate(range(0, size, BLOCK)):
        yield random.Random(f"{kind} {step} {name} {number}").randbytes(min(BLOCK, size - offset))


def wrong_files(directory: Path, step: int, size: int) -> list[str]:
    """The files of a checkpoint that are not what is saved at `step`: other bytes, missing, or surplus."""
    wrong = []
    for name, length in layout(size).items():
        try:
            with (directory / name).open("rb") as file:
                same = all(file.read(len(block)) == block for block in content("checkpoint", step, name, length))
                if not same or file.read(1):
                    wrong.append(name)
        except OSError:
            wrong.append(name)
    if _state(directory).get("step") != step:
        wrong.append(STATE)
    known = {*layout(size), STATE, MARKER}
    return wrong + sorted(path.name for path in directory.iterdir() if path.name not in known)


def _state(directory: Path) -> dict[str, object]:
    try:
        said = json.loads((directory / STATE).read_bytes())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


class Trainer:
    """One life of it, below `root`."""

    def __init__(self, root: Path, options: argparse.Namespace) -> None:
        self.root, self.options = root, options
        self.asked = False

    def run(self) -> int:
        """Train until the file `--finish` is there; the exit code."""
        signal.signal(signal.SIGTERM, self._ask)
        found = self._newest()
        step, wrong, author = 0, list[str](), None
        if found:
            step = _number(found)
            wrong, author = wrong_files(found, step, self.options.size), _state(found).get("node")
        self._note("begin", step, wrong=wrong, author=author)
        if wrong:
            return MIXED
        while True:
            last = self.options.finish.exists()
            step += 1
            self._beat(step)
            time.sleep(self.options.pause)
            self._save(step)
            if self.asked:
                return LEAVE
            if last:
                self._write(self.root / FINAL, "final", step)
                self._note("finished", step)
                return 0

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True

    def _newest(self) -> Path | None:
        return max((path.parent for path in self.root.glob(f"checkpoint-*/{MARKER}")), key=_number, default=None)

    def _save(self, step: int) -> None:
        directory = self.root / f"checkpoint-{step}"
        self._write(directory, "checkpoint", step)
        self._note("saved", step)
        print(f"saved step {step}", flush=True)  # noqa: T201 - as trainers do; syncd keeps it
        marked = sorted((path.parent for path in self.root.glob(f"checkpoint-*/{MARKER}")), key=_number)
        for old in marked[:-KEEP]:
            self._remove(old)

    def _write(self, directory: Path, kind: str, step: int) -> None:
        """Files, fsync, then the marker: the contract."""
        if directory.exists():
            self._remove(directory)
        directory.mkdir()
        for name, size in layout(self.options.size).items():
            with (directory / name).open("wb") as large:
                for block in content(kind, step, name, size):
                    large.write(block)
                _sync(large)
        with (directory / STATE).open("w") as file:
            json.dump({"step": step, "node": self.options.node}, file)
            _sync(file)
        (directory / MARKER).touch()
        _sync_directory(directory)
        _sync_directory(self.root)

    def _remove(self, directory: Path) -> None:
        (directory / MARKER).unlink(missing_ok=True)
        shutil.rmtree(directory)

    def _beat(self, step: int) -> None:
        new = self.root / ".progress.json.new"
        new.write_text(json.dumps({"step": step, "phase": "train"}))
        new.replace(self.root / "progress.json")

    def _note(self, event: str, step: int, **facts: object) -> None:
        line = {"event": event, "step": step, "pid": os.getpid(), "time": time.time(), **facts}
        with self.options.notes.open("a") as notes:
            notes.write(json.dumps(line) + "\n")


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _number(directory: Path) -> int:
    number = directory.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0


def main() -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m syncd.rehearsal.trainer")
    parser.add_argument("--size", type=int, required=True, help="bytes of a checkpoint")
    parser.add_argument("--pause", type=float, required=True, help="seconds a step takes")
    parser.add_argument("--node", required=True, help="who saves")
    parser.add_argument("--notes", type=Path, required=True, help="file for what it does")
    parser.add_argument("--finish", type=Path, required=True, help="once this file is there, the next step is the last")
    return Trainer(Path(os.environ["SYNCD_ROOT"]), parser.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
