"""An attempt as the store knows it: its claim, the line it really resumed, and the result."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct

from syncd.errors import Corrupt, Refused, brief
from syncd.model import canonical
from syncd.model.keys import MOST_ATTEMPTS, attempt_name, attempt_number
from syncd.model.names import check_checkpoint_name

AttemptNumber = Annotated[int, Meta(ge=1, le=MOST_ATTEMPTS)]
Nonce = Annotated[str, Meta(pattern=r"^[0-9a-f]{16,64}$")]


class Claim(Struct, frozen=True, kw_only=True):
    """`attempt.json`: who owns the attempt. No parent: none is chosen yet. `time` in seconds since the epoch."""

    version: Literal[1] = 1
    task: str
    attempt: AttemptNumber
    node: str
    nonce: Nonce
    time: float
    group: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class LineItem:
    """One checkpoint of a line: where it is committed, and the digest of its manifest."""

    attempt: int
    commit: str
    digest: str

    def __str__(self) -> str:
        return f"{attempt_name(self.attempt)}/{self.commit} {self.digest}"


_ITEM = re.compile(r"(attempt-\d+)/(.+) ([a-z0-9]{1,16}:[0-9a-f]{8,128})", re.DOTALL)


def parse_item(text: str, where: str) -> LineItem:
    """`attempt-0001/checkpoint-400 sha256:…`; raises `Corrupt` for anything else."""
    found = _ITEM.fullmatch(text)
    number = attempt_number(found[1]) if found else None
    if not found or number is None:
        raise Corrupt(f"{where}: '{brief(text, 120)}' is not 'attempt-0001/name digest'")
    try:
        return LineItem(number, check_checkpoint_name(found[2], where), found[3])
    except Refused as error:
        raise Corrupt(str(error)) from None


class Skipped(Struct, frozen=True):
    """A checkpoint that a record leaves out for good, and why."""

    key: str
    why: str


class Record(Struct, frozen=True, kw_only=True):
    """`resume.json`: what was really restored, then the older fallbacks in the order in which they would be tried.

    Its create-only put is where the attempt takes over. An empty line is a start from zero.
    """

    version: Literal[1] = 1
    line: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    why: str | None = None
    nonce: Nonce

    def items(self, where: str) -> tuple[LineItem, ...]:
        """The line, parsed; raises `Corrupt`."""
        return tuple(parse_item(text, where) for text in self.line)


class Closed(Struct, frozen=True, kw_only=True):
    """`closed.json`: who came first, the attempt itself with its result (`by` is its own number), or a successor that
    deletes. Create-only, for good.
    """

    version: Literal[1] = 1
    by: Annotated[int, Meta(ge=1)]


class Done(Struct, frozen=True, kw_only=True):
    """`done.json`: the task's result for good. The first create-only put wins, whoever makes it.

    `attempt` finished the task; `result` names the commit (a line item).
    """

    version: Literal[1] = 1
    attempt: AttemptNumber
    result: str
    step: int | None
    time: float
    nonce: Nonce

    def item(self, where: str) -> LineItem:
        """The result's place, parsed; raises `Corrupt`."""
        return parse_item(self.result, where)


def parse_record(data: bytes, where: str) -> Record:
    """A record from a store's bytes, its line checked; raises `Corrupt` naming `where`."""
    record = canonical.decode(data, Record, where)
    record.items(where)
    return record


class DiskAttempt(Struct, frozen=True, kw_only=True):
    """`.syncd/attempt.json`: which attempt this disk belongs to. `disk` tells the disk from a copy of it.

    `superseded`: a newer attempt was found; nothing of this disk is pushed or resumed any more. `families`: the kinds of
    names (`checkpoint-#`) that are this attempt's, so that a zombie's are told from other people's directories.
    """

    version: Literal[1] = 1
    store: str
    task: str
    attempt: AttemptNumber
    nonce: Nonce
    disk: str
    superseded: bool = False
    families: tuple[str, ...] = ()


class DiskTaken(Struct, frozen=True, kw_only=True):
    """`.syncd/taken.json`: which content the attempt of this nonce has done with, stored or passed over, by its name.

    `marks`: what the directory looked like (`tree.mark`). The store tells only of what it still has, and a clock that
    was set back would tell a new save from an old one wrongly. `left`: names of these that the trainer went back behind.
    """

    version: Literal[1] = 1
    nonce: Nonce
    marks: dict[str, str]
    left: tuple[str, ...] = ()
