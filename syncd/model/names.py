"""Which relative names are carried, on upload and on restore (I9), and how a name is read."""

import re

from syncd.errors import Refused

MAX_PATH = 900
"""Bytes of a relative path: S3 keys end at 1,024, and the task, the attempt and the folder stand before it."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
_LAST_NUMBER = re.compile(r"(\d+)(?!.*\d)")
RESERVED = frozenset(
    {"attempt.json", "resume.json", "closed.json", "done.json", "heartbeat.json"}
    | {"manifests", "events", "logs", "extra", "kept", "resume", "evidence", ".syncd"}
)
"""First components of a checkpoint's name that would collide with the store's own keys."""


def check_path(path: str, where: str) -> str:
    """Return `path` if it names something strictly below a directory, else raise `Refused` naming `where`.

    Refused: absolute, empty, `.` and `..` components, NUL, control characters, backslash, bytes that are not UTF-8,
    a component over 255 bytes, a path over `MAX_PATH` bytes.
    """
    try:
        raw = path.encode()
    except UnicodeEncodeError:
        raise Refused(f"{where}: the name {path!r} is not UTF-8; rename it") from None
    if _CONTROL.search(path):
        raise Refused(f"{where}: the name {path!r} has a control character or a backslash; rename it")
    parts = path.split("/")
    if len(raw) > MAX_PATH or any(len(part.encode()) > 255 for part in parts):
        raise Refused(f"{where}: the name {path[:60]!r}… is too long; shorten it")
    if any(part in ("", ".", "..") for part in parts):
        raise Refused(f"{where}: the path {path!r} leads outside of the checkpoint; refused")
    return path


def check_checkpoint_name(name: str, where: str) -> str:
    """`check_path`, and the first component is none of the store's own (`RESERVED`)."""
    check_path(name, where)
    if name.split("/", 1)[0] in RESERVED:
        raise Refused(f"{where}: a checkpoint cannot be called {name!r}: syncd keeps its own things there; rename it")
    if any(part.endswith(".json") for part in name.split("/")[:-1]):
        raise Refused(
            f"{where}: {name!r}: a folder of checkpoints cannot end in .json (the manifest's name); rename it"
        )
    return name


def step_of(name: str) -> int | None:
    """The last number in a checkpoint's last component (`runs/7/checkpoint-200` → 200), or None.

    >>> step_of("runs/7/checkpoint-200")
    200
    """
    found = _LAST_NUMBER.search(name.rsplit("/", 1)[-1])
    return int(found[1]) if found and len(found[1]) < 19 else None


def family(name: str) -> str:
    """A name with its numbers blotted out: `checkpoint-200` and `checkpoint-400` are one family."""
    return re.sub(r"\d+", "#", name)


FINAL = "final"
"""The finished model's directory: never a point to resume from, never counted by retention."""


def is_final(commit: str) -> bool:
    """Whether a commit name is a finished model's: `final`, or `final.2` where it was saved again."""
    return commit == FINAL or bool(re.fullmatch(r"final\.\d+", commit))
