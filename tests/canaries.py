"""Secrets that every test has about it, and looking whether one is shown (I10).

Looked at: what pytest captured, a test's failure, what a test reads of a child or takes from `capsys` and `capfd`, and all
files below pytest's directories and those that tests remove, but for what `ITS_OWN` names. Objects of a MinIO are such
files. Not seen is what a store held and lost again before its test or its server ended.
"""

import asyncio.subprocess
import io
import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pytest

from syncd.testing.servers import SECRETS

CANARIES = {name: f"canary{secrets.token_hex(12)}" for name in ("HF_TOKEN", "WANDB_API_KEY", "MY_SERVICE_PASSWORD")}
"""The trainer's own, in the environment of every test and of all that it starts."""
DOCUMENTS = {"log", "out", "json", "jsonl", "txt"}
"""Suffixes, or whole names, of files that people and machines read: to the end. Of others, weights above all, the beginning."""
ITS_OWN = {".minio.sys", "credentials", "keys", "AWS_SECRET_ACCESS_KEY"}
"""Names that are not looked at: where a server keeps its own secrets, and where a test wrote one."""
MOST, LARGEST = 100_000, 1 << 30
"""Files and bytes that one look reads; more is a failure, not a pass."""
PIECE, LONGEST = 1 << 20, 200

SHOWN: list[str] = []
"""What was seen since the last report: `secret in place`."""


def leaks(texts: Mapping[str, bytes]) -> list[str]:
    """`secret in place`, for each text that holds one: a canary's, or one that a server here was started with."""
    known = {**CANARIES, **{f"secret of server {n}": secret for n, secret in enumerate(SECRETS)}}
    return [
        f"{name} in {where}"
        for where, text in texts.items()
        for name, secret in known.items()
        if secret.encode() in text
    ]


def look(where: str, text: bytes | str | None) -> None:
    """Note what a text shows for the next report."""
    if text:
        SHOWN.extend(leaks({where: text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text}))


def look_through(home: Path, but: Iterable[Path] = ()) -> list[str]:
    """What the files below a directory show; where there are too many, that too."""
    passed, files, size, found = set(but), 0, 0, []
    for directory, names, there in os.walk(home):
        at = Path(directory)
        names[:] = [name for name in names if name not in ITS_OWN and at / name not in passed]
        for name in there:
            path = at / name
            if name in ITS_OWN:
                continue
            files += 1
            for piece in _pieces(path):
                size += len(piece)
                found += leaks({str(path.relative_to(home)): piece})
                if size > LARGEST or not _is_document(path):
                    break
            if files > MOST or size > LARGEST:
                return [
                    *found,
                    f"not all of {home} was looked at: it has more than {MOST} files or {LARGEST} bytes to read",
                ]
    return sorted(set(found))


def _is_document(path: Path) -> bool:
    if path.name == "xl.meta":  # of a MinIO's object: key/xl.meta, key/id/part.1
        path = path.parent
    elif path.name.startswith("part."):
        path = path.parents[1]
    return (path.suffix or path.name).removeprefix(".") in DOCUMENTS


def _pieces(path: Path) -> Iterator[bytes]:
    """A file's bytes, each piece with the end of the one before it; none of what is no file, or has just gone."""
    try:
        about = path.lstat()
        if not stat.S_ISREG(about.st_mode):
            return
        if about.st_size > LARGEST and about.st_blocks * 512 < about.st_size // 2:  # a hole says nothing
            return
        with path.open("rb") as file:
            kept = b""
            while piece := file.read(PIECE):
                yield kept + piece
                kept = (kept + piece)[-LONGEST:]
    except FileNotFoundError:
        return


# ---- what tests take for themselves, so that pytest never has it


class _Watched(io.RawIOBase):
    """A pipe from a child; what is read of it is looked at."""

    def __init__(self, pipe: io.FileIO, where: str) -> None:
        self._pipe, self._where, self._kept = pipe, where, b""

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._pipe.fileno()

    def readinto(self, buffer: Any) -> int | None:
        length = self._pipe.readinto(buffer)
        if length:
            text = self._kept + bytes(buffer[:length])
            look(self._where, text)
            self._kept = text[-LONGEST:]
        return length

    def close(self) -> None:
        self._pipe.close()
        super().close()


def _watched(stream: IO[Any], where: str) -> Any:
    """The same stream, of the same kind, over a pipe that is watched."""
    if isinstance(stream, io.TextIOWrapper):
        encoding, errors = stream.encoding, stream.errors
        return io.TextIOWrapper(_watched(stream.detach(), where), encoding=encoding, errors=errors)
    if isinstance(stream, io.BufferedReader):
        return io.BufferedReader(_watched(stream.detach(), where))
    assert isinstance(stream, io.FileIO)
    return _Watched(stream, where)


def _of(popen: subprocess.Popen[Any]) -> str:
    first = popen.args if isinstance(popen.args, str | bytes | os.PathLike) else next(iter(popen.args))
    return f"the output of {Path(os.fsdecode(first).split(' ')[0]).name}, process {popen.pid}"


def watch(patch: pytest.MonkeyPatch) -> None:
    """From now on look at what is read of children, taken from pytest's captures, or removed with a node's directory."""
    begin, communicate = subprocess.Popen.__init__, subprocess.Popen.communicate
    take = pytest.CaptureFixture.readouterr
    receive = asyncio.subprocess.SubprocessStreamProtocol.pipe_data_received
    remove: Callable[..., None] = shutil.rmtree

    def begun(self: subprocess.Popen[Any], *args: Any, **named: Any) -> None:
        begin(self, *args, **named)
        for name in ("stdout", "stderr"):
            if stream := getattr(self, name):
                setattr(self, name, _watched(stream, _of(self)))

    def communicated(self: subprocess.Popen[Any], *args: Any, **named: Any) -> Any:
        told = communicate(self, *args, **named)  # which reads two pipes past their streams
        for text in told:
            look(_of(self), text)
        return told

    def taken(self: pytest.CaptureFixture[Any]) -> Any:
        told = take(self)
        for text in told:
            look("what was captured and taken", text)
        return told

    def received(self: asyncio.subprocess.SubprocessStreamProtocol, fd: int, data: bytes) -> None:
        kept = self.__dict__.setdefault("_kept_to_look_at", {})
        kept[fd] = kept.get(fd, b"") + data
        look("the output of a child", kept[fd])
        kept[fd] = kept[fd][-LONGEST:]
        receive(self, fd, data)

    def removed(path: Any, *args: Any, **named: Any) -> None:
        if isinstance(path, str | Path) and (Path(path).name == "disk" or Path(path).name.startswith("syncd-")):
            SHOWN.extend(look_through(Path(path)))
        remove(path, *args, **named)

    removed.avoids_symlink_attacks = shutil.rmtree.avoids_symlink_attacks  # type: ignore[attr-defined]
    patch.setattr(subprocess.Popen, "__init__", begun)
    patch.setattr(subprocess.Popen, "communicate", communicated)
    patch.setattr(pytest.CaptureFixture, "readouterr", taken)
    patch.setattr(asyncio.subprocess.SubprocessStreamProtocol, "pipe_data_received", received)
    patch.setattr(shutil, "rmtree", removed)
