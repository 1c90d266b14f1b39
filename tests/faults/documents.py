"""Valid documents of every kind that syncd reads, and strategies that spoil them: a field, a byte, a shape at a time.

Of what syncd writes, event logs, logs and marks of kept checkpoints are never read back, so none is here.
"""

import copy
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from syncd.local.digest import sum_bytes
from syncd.model import canonical
from syncd.model.attempt import Claim, Closed, DiskAttempt, DiskTaken, Done, LineItem, Record, Skipped
from syncd.model.checkpoint import FileEntry, FileSum, Manifest
from syncd.model.heartbeat import HeartbeatBody
from syncd.model.local import ChildMark, Notice, Order, Ready, TrainerState

DIGEST = "sha256:" + "0" * 64
CRC = "crc64nvme:0123456789abcdef"
NONCE = "0123456789abcdef" * 2
ENTRIES = (
    FileEntry("model.bin", 5, 0o644, sum_bytes(b"owned")),
    FileEntry("sub/large.bin", (16 << 20) + 1, 0o600, FileSum(CRC, (CRC, CRC)), "sha256:" + "1" * 64),
)
NOUNS: dict[str, object] = {
    "manifest": Manifest(
        task="task", attempt=1, number=1, name="checkpoint-1", commit="checkpoint-1", kind="directory", step=1,
        rule="_SUCCESS", time=1.5, files=ENTRIES,
    ),
    "record": Record(
        line=(str(LineItem(1, "checkpoint-1", DIGEST)),), skipped=(Skipped("task/attempt-0001/x", "lost"),), nonce=NONCE
    ),
    "claim": Claim(task="task", attempt=1, node="n", nonce=NONCE, time=1.5, group="job-1"),
    "done": Done(attempt=1, result=str(LineItem(1, "final", DIGEST)), step=7, time=1.5, nonce=NONCE),
    "closed": Closed(by=2),
    "heartbeat": HeartbeatBody(
        task="task", attempt=1, node="n", session="s", seq=1, time=1.5, interval=30.0, state="training", step=3,
        loss=0.5, durable="checkpoint-1", durable_step=1, durable_at=1.5, store_error="away",
    ),
    "note": DiskAttempt(store="test://store", task="task", attempt=1, nonce=NONCE, disk="1.2", families=("checkpoint-#",)),
    "taken": DiskTaken(nonce=NONCE, marks={"checkpoint-1": "0" * 16}, left=("checkpoint-1",)),
    "ready": Ready(attempt=1, checkpoint="checkpoint-1", step=1, session="s", time=1.5),
    "order": Order(id="a1", action="restart", grace=1.5, life="b.0", time=1.5),
    "trainer": TrainerState(state="running", id="b.0", pid=7, exit_code=0, order="a1", session="s", time=1.5),
    "notice": Notice(at=2.5, fits=True, reason="SIGTERM", time=1.5),
    "child": ChildMark(pid=7, pgid=7, started=9, boot_id="b", life="l"),
}  # fmt: skip
"""One well-formed noun of each kind."""
SHARD = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
PLAIN: dict[str, bytes] = {
    "beat": b'{"step": 3, "total": 9, "phase": "train", "loss": 0.5, "time": 7}',
    "marker": b'{"step": 6, "files": {"model.bin": 5}}',
    "trainer_state.json": b'{"global_step": 6}',
    "model.safetensors.index.json": b'{"weight_map": {"a": "m.safetensors"}}',
    "m.safetensors": struct.pack("<Q", len(SHARD)) + SHARD + b"1234",
    "pin": json.dumps({
        "name": "checkpoint-6", "step": 6, "rule": "_SUCCESS", "written": 1, "linked": False, "commit": "checkpoint-6",
        "commit_number": 1, "files": {"model.bin": {"dev": 1, "ino": 2, "size": 5, "mtime_ns": 1, "mode": 33188}},
    }).encode(),
    "status": b'{"state": "training", "uploading": "c", "waiting": ["c"], "transfers_at_once": 4, "store_path": "fast", "upload_bytes_per_second": 5, "version": 1}',
    "finished": b'{"time": 1.5}',
}  # fmt: skip
"""Documents that are no nouns of ours: the trainer's, other programs', or of another shape."""
VALID: dict[str, bytes] = {name: canonical.encode(noun) for name, noun in NOUNS.items()} | PLAIN

NAMES = [
    "", ".", "..", "../x", "/etc/passwd", "a/../../x", "a//b", "a\nb", "a\tb", "a\\b", "a\0b", "-rf", " ", "~", "%2e%2e",
    "x" * 255, "x" * 256, "é漢" * 60, "x/" * 400 + "x", "x" * 5000, "Model.bin", "model.bin", "\u00e9", "e\u0301", "\u202etxt",
    ".syncd", "manifests", "attempt.json", "a.json/b", "final", "final.2", "checkpoint-" + "9" * 18, "checkpoint-" + "9" * 200,
    "checkpoint-1", "checkpoint-٣", "attempt-0001/checkpoint-1 " + DIGEST, "attempt-٠٠٠١/c " + DIGEST, "\x1b[31m", "\r", "\ufeff", "²",
]  # fmt: skip
"""Names that somebody could try, or a trainer could have."""
SCALARS: list[Any] = [
    None, True, False, 0, -1, 1, 2, 1 << 31, 1 << 40, (1 << 40) + 1, 1 << 53, (1 << 63) - 1, 1 << 63, 1 << 64, 10**30,
    10**400, -(10**30), 0.5, -0.0, 1e300, 1e-300, float("inf"), float("-inf"), float("nan"), [], {}, [[]], {"": None}, CRC, DIGEST,
    "crc64nvme:" + "f" * 128, "md9:" + "0" * 16, "blake3:" + "0" * 64, ":", NONCE, "0" * 65, *NAMES,
]  # fmt: skip
"""Values in place of a field's own."""
VALUES = st.sampled_from(SCALARS) | st.text(max_size=20) | st.integers() | st.floats()
JUNK = [
    b"", b"\0", b"null", b"[]", b"{}", b'""', b"0", b"{", b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", b"\xef\xbb\xbf{}", b"NaN", b"1e999",
    b"9" * 5000, b'{"version":2}', b'{"a":"\\ud800"}', b'"' + b"x" * 70_000 + b'"', b"\x80\x04N.", b"\n" * 1000, b"{}" * 100,
]  # fmt: skip


def spots(value: object) -> list[tuple[Any, Any]]:
    """Every place in a document that holds something: `(container, key or index)`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [spot for key, child in list(inside) for spot in ((value, key), *spots(child))]


@dataclass(frozen=True)
class Shape:
    """What becomes of a parsed document: each step picks a spot by a number."""

    kind: str
    at: int
    value: Any


def apply(document: Any, steps: list[Shape]) -> Any:
    """The document after all steps; what is left may be anything that JSON, or Python's idea of it, can say."""
    for step in steps:
        value = copy.deepcopy(step.value)  # the next input must find it as it was
        there = spots(document)
        if not there or step.kind == "replace all":
            return value
        where, key = there[step.at % len(there)]
        if step.kind == "drop":
            del where[key]
        elif step.kind == "retype" or not isinstance(where, list | dict):
            where[key] = value
        elif step.kind == "rename" and isinstance(where, dict):
            where[str(value)[:200]] = where.pop(key)
        elif step.kind == "repeat":
            where[key] = [where[key]] * 3
        elif step.kind == "nest":
            for _ in range(40):
                where[key] = {"a": [where[key]]}
        elif isinstance(where[key], str):
            where[key] = where[key] + str(value)[:300]
        else:
            where[key] = value
    return document


SHAPES = st.lists(
    st.builds(
        Shape,
        st.sampled_from(["drop", "retype", "retype", "retype", "rename", "repeat", "nest", "append", "replace all"]),
        st.integers(0, 200),
        VALUES,
    ),
    min_size=1,
    max_size=3,
)


def spell(document: Any, how: int) -> bytes:
    """A document's bytes, with Python's NaN and infinities, as text with escapes or without."""
    text = json.dumps(document, ensure_ascii=bool(how & 1), indent=1 if how & 2 else None)
    if how & 4 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]  # every key twice
    return text.encode("utf-8", "surrogatepass")


Damage = Callable[[bytes], bytes]


def _flip(at: int, bit: int) -> Damage:
    def damage(data: bytes) -> bytes:
        if not data:
            return data
        made = bytearray(data)
        made[at % len(made)] ^= 1 << bit
        return bytes(made)

    return damage


def _splice(at: int, piece: bytes) -> Damage:
    return lambda data: data[: at % (len(data) + 1)] + piece + data[at % (len(data) + 1) :]


DAMAGES = st.one_of(
    st.builds(_flip, st.integers(0, 5000), st.integers(0, 7)),
    st.builds(_splice, st.integers(0, 5000), st.binary(max_size=8)),
    st.builds(_splice, st.integers(0, 5000), st.sampled_from([b"\xef\xbb\xbf", b"\0", b"\n", b"\xed\xa0\x80", b"1" * 400, b'"'])),
    st.integers(0, 5000).map(lambda at: lambda data: data[: at % (len(data) + 1)]),
    st.integers(1, 3).map(lambda times: lambda data: data * (times + 1)),
)  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn, name: str, valid: bytes | None = None) -> bytes:
    """A document of kind `name` (or `valid`), spoilt in shape or in bytes; sometimes nothing of it is left."""
    valid = VALID[name] if valid is None else valid
    way = draw(st.integers(0, 9))
    if way == 0:
        return draw(st.binary(max_size=300) | st.sampled_from(JUNK))
    if way <= 2:
        return draw(DAMAGES)(valid)
    head, body = b"", valid
    if name == "m.safetensors":
        head, body = valid[:8], SHARD
    data = head + spell(apply(json.loads(body), draw(SHAPES)), draw(st.integers(0, 7)))
    if name == "m.safetensors":
        data = struct.pack("<Q", len(data) - 8) + data[8:] + b"1234"
    return draw(DAMAGES)(data) if way == 9 else data
