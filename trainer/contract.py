"""The trainer's half of the contract with syncd: marker, beat, ready, notice and finished files.

Standard library only: this one file can be imported or copied into any trainer. All files live under the
*root*, the directory that syncd watches. Nothing here needs a running syncd.

    path = wait_ready()                # restore is over; the checkpoint to resume from, or None
    beat(step, total, loss=loss)       # as often as you like; written at most once a second
    unmark(directory)                  # before a directory is written again
    mark_complete(directory)           # after every file is written, on one rank, after a barrier of all
    finished(step=step)                # training ended normally
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

MARKER = "_SUCCESS"
PHASES = ("start", "load", "train", "save", "eval", "finish")

if TYPE_CHECKING:  # written so that Python 3.9 can read it
    from collections.abc import Iterator

    StrPath = str | os.PathLike[str]

_BEAT_INTERVAL = 1.0  # seconds
_POLL_INTERVAL = 0.1  # seconds
_PATIENCE = 5.0  # seconds of silence before wait_ready says what it waits for
_TRAILING_NUMBER = re.compile(r"(\d+)$")

_beat: dict[str, Any] = {"time": -math.inf, "of": None, "warned": False}  # the last one: for the throttle


def root(directory: StrPath | None = None) -> Path:
    """Return the directory that syncd watches: `directory`, else env `SYNCD_ROOT`, else the current one."""
    return Path(directory or os.environ.get("SYNCD_ROOT") or ".")


_root = root  # the function, where a parameter has its name


def mark_complete(directory: StrPath, step: int | None = None) -> Path:
    """Make a finished checkpoint directory durable, then create its marker `_SUCCESS`; return its path.

    Call it on one rank, after a barrier that all writers of the directory have passed: the marker promises
    that nobody writes here any more. Every regular file and directory below is fsynced before it can appear.
    Symbolic links are neither followed nor listed. A marker that already says the same is left alone.

    Args:
        directory: the checkpoint directory.
        step: optimizer step; default is the number at the end of the directory's name, else null.

    Raises:
        OSError: something cannot be read or synced; no marker has been created then.
    """
    directory = Path(directory)
    sizes: dict[str, int] = {}
    for path in _files_below(directory):
        _fsync(path)
        sizes[path.relative_to(directory).as_posix()] = path.stat().st_size
    for parent, _, _ in os.walk(directory, topdown=False, onerror=_raise):
        _fsync(Path(parent))
    _fsync(directory.resolve().parent)
    said = {"step": _step_of(directory) if step is None else step, "files": dict(sorted(sizes.items()))}
    marker = directory / MARKER
    if _read_json(marker) != said:
        _replace(marker, _json(said), durable=True)
    return marker


def unmark(directory: StrPath) -> bool:
    """Remove the marker, durably, before the directory is written again; return whether there was one.

    A directory that does not exist is fine. Raises OSError if the marker cannot be removed.
    """
    directory = Path(directory)
    try:
        (directory / MARKER).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    _fsync(directory)
    return True


def is_complete(directory: StrPath) -> bool:
    """Tell whether a directory has the marker and every file that the marker lists, with its size.

    The list matters: a rotation that was killed half-way can leave the marker beside missing files. A marker
    without a readable list (any other trainer's empty `_SUCCESS`) counts by its existence alone.
    """
    directory = Path(directory)
    if not (directory / MARKER).is_file():
        return False
    sizes = (_read_json(directory / MARKER) or {}).get("files")
    if not isinstance(sizes, dict):
        return True
    try:
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):  # ValueError: a name with NUL
        return False


def latest_complete(directory: StrPath | None = None, pattern: str = "*") -> Path | None:
    """Return the newest complete directory directly below `directory`, or None.

    Newest is the highest number at the end of the name, then the latest mtime; names without a number come
    last.

    Args:
        directory: where to look; default is `root()`.
        pattern: glob of names that count, for instance `checkpoint-*`.
    """
    found = [path for path in root(directory).glob(pattern) if path.is_dir() and is_complete(path)]
    return max(found, key=lambda path: (_step_of(path, -1), path.stat().st_mtime), default=None)


def beat(
    step: int,
    total: int | None = None,
    phase: str = "train",
    loss: float | None = None,
    root: StrPath | None = None,
    force: bool = False,
    **more: Any,
) -> bool:
    """Replace `progress.json` in the root: the sign of life by which syncd tells slow from hanging.

    At most one write a second, unless the phase changes or `force` is set; return whether it was written.
    A disk error never reaches the training loop: the first is warned of (RuntimeWarning), later ones not.

    Args:
        step: optimizer steps done.
        total: optimizer steps planned.
        phase: one of `PHASES`.
        loss: last known loss; NaN and infinities are written as null, since JSON has none.
        root: default is `root()`.
        more: further facts, JSON values.

    Raises:
        ValueError: unknown phase.
        TypeError: `more` holds what JSON cannot say.
    """
    if phase not in PHASES:
        raise ValueError(f"phase {phase!r} is none of {', '.join(PHASES)}")
    path = _root(root) / "progress.json"
    now = time.monotonic()
    if not force and (phase, path) == _beat["of"] and now - _beat["time"] < _BEAT_INTERVAL:
        return False
    _beat.update(time=now, of=(phase, path))
    facts = {"step": step, "total": total, "phase": phase, "loss": loss, "time": time.time()}
    try:
        _replace(path, _json({**more, **facts, "pid": os.getpid()}), durable=False)
    except OSError as error:
        if not _beat["warned"]:
            message = f"progress cannot be written, syncd may take this trainer for hanging: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        _beat["warned"] = True
        return False
    return True


def wait_ready(timeout: float | None = None, root: StrPath | None = None) -> Path | None:
    """Wait until syncd has restored; return the checkpoint to resume from, or None to start from zero.

    Returns None at once where there is no syncd: env `SYNCD_ROOT` is not set and the root has no `.syncd`.

    Args:
        timeout: seconds; None waits for ever.
        root: default is `root()`.

    Raises:
        TimeoutError: no valid `.syncd/ready.json` in time.
        FileNotFoundError: it names a checkpoint that is not there. Never start from zero on this.
        ValueError: what it names is not below the root.
    """
    base = _root(root)
    if "SYNCD_ROOT" not in os.environ and not (base / ".syncd").is_dir():
        return None
    path = base / ".syncd" / "ready.json"
    began, told = time.monotonic(), False
    deadline = math.inf if timeout is None else began + timeout
    while (said := _read_json(path)) is None:
        if not told and time.monotonic() - began > _PATIENCE:
            told = True
            print(f"waiting for syncd to restore and write {path}; is it running on this root?", file=sys.stderr)
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{path} did not appear within {timeout} s: is syncd running on this root?")
        time.sleep(_POLL_INTERVAL)
    name = said.get("checkpoint")
    if name is None:
        return None
    if (
        not isinstance(name, str)
        or "\0" in name
        or os.path.isabs(name)
        or not Path(name).parts
        or ".." in Path(name).parts
    ):
        raise ValueError(f"{path} names no checkpoint below the root: {name!r}")
    if not os.path.exists(base / name):
        raise FileNotFoundError(f"{path} says that {name} was restored, but it is not there")
    return base / name


def resume(output_dir: StrPath | None = None, timeout: float | None = None, root: StrPath | None = None) -> str | None:
    """Wait for syncd; return what to give to `trainer.train(resume_from_checkpoint=…)`: a path or None.

    It is the newest complete `checkpoint-*` of `output_dir`, uploaded or not, else what syncd restored. A
    directory without marker is never returned: after a kill in mid-save the newest directory is torn, and
    Transformers' own `resume_from_checkpoint=True` would choose it (and raises ValueError where there is no
    checkpoint at all). Where ranks span several nodes (WORLD_SIZE > LOCAL_WORLD_SIZE) only what syncd
    restored counts, if it runs: local disks may differ, and all ranks must resume from the same step.

    Args:
        output_dir: where the checkpoints are; default is the root.
        timeout, root, and errors raised: as for `wait_ready`.
    """
    try:
        restored = wait_ready(timeout, root)
    except FileNotFoundError:  # rotated away since it was restored: then something newer must be here
        restored = latest_complete(output_dir or root, "checkpoint-*")
        if restored is None:
            raise
    several_nodes = int(os.environ.get("WORLD_SIZE", "1")) > int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if several_nodes and (_root(root) / ".syncd" / "ready.json").exists():
        return None if restored is None else str(restored)
    local = latest_complete(output_dir or root, "checkpoint-*")
    newest = max(filter(None, (restored, local)), key=lambda path: _step_of(path, -1), default=None)
    return None if newest is None else str(newest)


def notice(root: StrPath | None = None) -> dict[str, Any] | None:
    """Return what `.syncd/notice.json` says (this node goes, and when), or None."""
    return _read_json(_root(root) / ".syncd" / "notice.json")


def finished(root: StrPath | None = None, **facts: Any) -> Path:
    """Write `finished.json`: training ended normally and everything it leaves is marked. Return its path.

    Args:
        root: default is `root()`.
        facts: anything worth telling, JSON values; `time` (unix seconds) is added.

    Raises:
        OSError: it cannot be written.
    """
    path = _root(root) / "finished.json"
    _replace(path, _json({**facts, "time": time.time()}), durable=True)
    return path


def clear_finished(root: StrPath | None = None) -> None:
    """Remove `finished.json`, if any: training goes on (more epochs, say) in a root that was finished."""
    (_root(root) / "finished.json").unlink(missing_ok=True)


def _files_below(directory: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(directory, onerror=_raise):
        paths = (Path(parent, name) for name in names if name not in (MARKER, f".{MARKER}.tmp"))
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _raise(error: OSError) -> None:
    raise error  # os.walk skips what it cannot list; a marker must not


def _replace(path: Path, text: str, *, durable: bool) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if durable:
        _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file; None for a missing, unreadable, torn or otherwise invalid one."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json(facts: dict[str, Any]) -> str:
    """Return one line of JSON; NaN and infinities, which JSON lacks, become null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}
    return json.dumps(finite) + "\n"


def _step_of(directory: Path, default: Any = None) -> Any:
    match = _TRAILING_NUMBER.search(directory.name)
    return int(match.group(1)) if match else default
