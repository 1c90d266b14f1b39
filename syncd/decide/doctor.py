"""What `syncd doctor` asks, and what follows from an answer: what will be done without, and what to do now."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from syncd.model.answer import Answer

Weight = Literal["yes", "note", "no", "unknown"]
"""`note`: a run works without it, `no`: it does not; `unknown`: the question has no answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """`asks`: what is hoped for, as a statement. `without`: what will be done where it is not so; `now`: what to do.

    `needed`: no run works without. `offered`: asked of those stores alone that offer to tell. `figure`: how much, and
    neither yes nor no.
    """

    key: str
    asks: str
    without: str
    now: str = ""
    needed: bool = False
    offered: bool = False
    figure: bool = False


_LOCAL = (
    Question(
        "root", "SYNCD_ROOT can be read and written", "nothing is started",
        "name a directory of this user's", needed=True,
    ),
    Question(
        "lock", "one daemon can lock the root", "nothing is started: two could work on it",
        "use a file system with flock", needed=True,
    ),
    Question(
        "alone", "no other syncd works on the root", "another start on it is refused (64)",
        "end that one first, or use another SYNCD_ROOT",
    ),
    Question(
        "links", "hard links hold a finished checkpoint",
        "files are sent from where they lie: what the trainer's rotation removes meanwhile is not committed",
        "let the trainer keep two checkpoints or more, or use another file system",
    ),
    Question(
        "events", "file events arrive", "scans alone find checkpoints, every SYNCD_SCAN_INTERVAL seconds",
        "shorten that where seconds matter",
    ),
    Question(
        "disk", "the root is on a disk of this machine", "", "give it a local disk or a volume where you can"
    ),
    Question(
        "room", "there is room on the root's disk", "a save or a restore that finds no room fails",
        "free some: a restore needs a checkpoint's size",
    ),
    Question(
        "memory", "SYNCD_MEMORY_BUDGET fits into the memory that there is", "the kernel may end syncd in the midst of a"
        " transfer", "lower it, or give syncd's container more",
    ),
    Question(
        "times", "the files' times are this clock's", "times in listings and events are of two clocks; nothing is decided"
        " by them", "set both clocks (NTP)",
    ),
    Question(
        "seal", "the package that SYNCD_DIGEST needs is here", "nothing is started",
        "install it, or choose another SYNCD_DIGEST", needed=True,
    ),
    Question(
        "named", "the task has a name", "on a store that machines share nothing is started (78)",
        "set SYNCD_TASK, one name for each training run",
    ),
    Question(
        "apart", "the store is on another disk than the root", "the checkpoints go when this machine goes",
        "name a store elsewhere in SYNCD_STORE",
    ),
)  # fmt: skip

_STORE = (
    Question("reach", "the store answers and may be listed", "nothing is started", needed=True),
    Question(
        "put", "what is put comes back the same", "nothing is started",
        "grant the right to read and write below the store's prefix", needed=True,
    ),
    Question(
        "delete", "objects may be deleted", "nothing is ever cleaned up: SYNCD_KEEP has no effect, gc and reset fail",
        "grant the right to delete, or let a lifecycle rule of the bucket do it, by an age that no run reaches",
    ),
    Question(
        "gone", "what was deleted is gone at once", "gc and listings may count what is deleted; nothing is lost",
        "ask the provider what its deletes promise",
    ),
    Question(
        "create", "a create-only put is refused where something is", "refused with 78: two nodes could own one task",
        "use another store, or SYNCD_SINGLE_WRITER=1 if never two nodes run this task at once", needed=True,
    ),
    Question(
        "list", "what is put is listed at once, also by a shallow listing",
        "nothing can be trusted: a start would not see the newest checkpoint", "use another store", needed=True,
    ),
    Question(
        "replace", "what is replaced is seen at once", "heartbeats of other nodes may be read late; nothing is decided by"
        " them", "ask the provider what its puts promise",
    ),
    Question(
        "ranges", "ranges of an object can be fetched", "nothing over 16 MiB can be restored", "use another store",
        needed=True,
    ),
    Question(
        "held", "an upload of other bytes than were summed is refused", "a torn file could be committed",
        "use another store, or report this to the author of its plugin", needed=True,
    ),
    Question(
        "checksums", "the server compares what it receives with a checksum",
        "what was damaged on its way there is found by a restore or by verify --deep, which compare every byte",
    ),
    Question(
        "clock", "the server's clock is this one's",
        "times in listings and events differ, and beyond 15 minutes a server may refuse signatures",
        "set this machine's clock (NTP)",
    ),
    Question(
        "keys", "the keys outlast a long run", "the store is away for this run once they have expired",
        "use a role, a profile that renews them, or AWS_…_FILE", offered=True,
    ),
    Question(
        "versions", "what is deleted or replaced is not kept as an old version",
        "old versions stay, and cost, until a lifecycle rule ends them", "set one for noncurrent versions", offered=True,
    ),
    Question("latency", "the time to store a small object", "", figure=True),
    Question("up", "the rate of uploads", "", figure=True),
    Question("down", "the rate of downloads", "", figure=True),
    Question(
        "upload", "a file of several ranges goes up and comes back the same", "nothing over 16 MiB can be committed",
        "grant all rights of multipart uploads, or use another store", needed=True,
    ),
    Question(
        "resume", "an upload that was interrupted goes on where it was",
        "it begins anew",
    ),
)  # fmt: skip

LOCAL = tuple(each.key for each in _LOCAL)
STORE = tuple(each.key for each in _STORE)
QUESTIONS = {each.key: each for each in (*_LOCAL, *_STORE)}
"""By key, in the order in which they are asked: the disk's, then the store's. A key and its meaning stay."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer with its weight."""

    question: Question
    answer: Answer
    weight: Weight

    @property
    def line(self) -> str:
        """One line for people: what is so, or what will be done without it, what to do now, and why."""
        asks, said = self.question.asks, self.answer.said
        if self.weight == "yes":
            return f"{asks}: {said}" if said else asks
        if self.weight == "unknown":
            return f"{asks}: not known: {said}"
        parts = [part for part in (self.question.without, self.question.now) if part]
        return f"{asks}: {'; '.join(parts)}{f' ({said})' if said else ''}"


def judge(key: str, answer: Answer, *, single_writer: bool = False) -> Judged:
    """What an answer means for a run. `single_writer`: the risk of a store without create-only puts is taken by name."""
    question = QUESTIONS[key]
    if answer.yes is None:
        return Judged(question, answer, "unknown")
    if answer.yes:
        return Judged(question, answer, "yes")
    needed = question.needed and not (key == "create" and single_writer)
    return Judged(question, answer, "no" if needed else "note")


def exit_code(judged: Iterable[Judged], *, away: bool) -> int:
    """0: a run would work; 78: the operator must mend something first; 75: the store is away, or owes an answer."""
    if any(each.weight == "no" for each in judged):
        return 78
    return 75 if away else 0


def verdict(judged: Sequence[Judged], *, away: bool) -> str:
    """The last line."""
    wrong = [each.question.asks for each in judged if each.weight == "no"]
    if wrong:
        return f"a run would not work; it needs that {', that '.join(wrong)}"
    if away:
        return "the store is away, or did not answer what a run needs: ask again later"
    notes = any(each.weight == "note" for each in judged)
    return "a run would work; what 'no' says will be done without" if notes else "a run would work"


SMALL = 1 << 20
"""Bytes of the first measurement of a link, and of a piece of a slow one's."""
MEASURED = 4.0
"""Seconds that the second one should take."""
ROOM = 1 << 30
"""Bytes of free disk below which it is worth a word."""


def second_measurement(seconds: float, most: int) -> int:
    """Bytes to measure a link by that moved `SMALL` bytes in `seconds`, at most `most`; 0: the first one tells enough.

    >>> second_measurement(1.0, 32 << 20) == 4 << 20
    True
    """
    wanted = min(most, int(SMALL * MEASURED / max(seconds, 0.001)))
    return wanted if wanted >= 2 * SMALL else 0


OWN_MEMORY = 96 << 20
"""Bytes of memory that a daemon has beside its budget."""


def memory(there: int, budget: int) -> Answer:
    """The answer for `there` bytes that are free, or that a limit allows."""
    return Answer(
        there >= budget + OWN_MEMORY, f"{there >> 20} MiB are there, and {budget >> 20} MiB may be used", there
    )


_KINDS = {
    "tmpfs": "in memory: what lies there takes it from the trainer, and goes with the machine",
    "ramfs": "in memory: what lies there takes it from the trainer, and goes with the machine",
    "overlay": "a container's own layer: it goes with the container, whose next start restores from the store",
}
_REMOTE = ("nfs", "cifs", "smb", "9p", "virtiofs", "fuse", "lustre", "ceph", "gpfs", "beegfs", "glusterfs", "afs")


def disk(kind: str) -> Answer:
    """What a file system's name, as the kernel gives it, says of a root on it."""
    for name, said in _KINDS.items():
        if kind == name:
            return Answer(False, f"{kind} is {said}")
    if kind.lower().startswith(_REMOTE):
        return Answer(False, f"{kind} is or may be remote: events of other machines do not arrive, a save may be slow")
    return Answer(True, kind) if kind else Answer(None, "the kernel names no file system")
