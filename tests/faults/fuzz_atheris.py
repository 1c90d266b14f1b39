"""Coverage-guided fuzzing of every parser, by hand: `make fuzz FOR=600`. An input that ends in a traceback ends the run.

The readers are those of test_fuzz.py; atheris sees which branches an input reaches and looks for more of them.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["syncd", "json", "tomllib", "dotenv"]):
    from syncd.errors import Corrupt, Refused
    from syncd.local.completion import CORE_RULES, View, judge
    from syncd.local.tree import Identity
    from syncd.model import canonical
    from syncd.model.attempt import Claim, DiskAttempt, Done, parse_item, parse_record
    from syncd.model.checkpoint import parse_manifest
    from syncd.model.heartbeat import HeartbeatBody
    from syncd.model.local import Order, Ready, TrainerState, parse_beat
    from syncd.model.names import check_checkpoint_name

from tests.faults.documents import VALID

WHERE = "here"
NOUNS = (Claim, Done, HeartbeatBody, DiskAttempt, Ready, Order, TrainerState)
FILE = Identity(1, 2, 64, 3, 4, 0o100644)
JUDGED = ("_SUCCESS", "trainer_state.json", "model.safetensors.index.json", "m.safetensors")


def _judge(name: str, data: bytes) -> None:
    files = {"w.bin": FILE, "trainer_state.json": FILE, name: FILE}
    view = View("checkpoint-6", files, lambda path, limit: (data if path == name else VALID[path])[:limit])
    judge(view, CORE_RULES)


def one_input(data: bytes) -> None:
    """The first byte chooses the reader."""
    if not data:
        return
    which, data = data[0] % 16, data[1:]
    try:
        if which == 0:
            canonical.encode(parse_manifest(data, WHERE))
        elif which == 1:
            canonical.encode(parse_record(data, WHERE))
        elif which <= 8:
            canonical.encode(canonical.decode(data, NOUNS[which - 2], WHERE))
        elif which == 9:
            canonical.encode(parse_beat(data))
        elif which == 10:
            parse_item(data.decode(errors="surrogateescape"), WHERE)
        elif which == 11:
            check_checkpoint_name(data.decode(errors="surrogateescape"), WHERE)
        else:
            _judge(JUDGED[which - 12], data)
    except (Corrupt, Refused) as error:
        text = str(error)
        assert text.isprintable(), text
        assert len(text) <= 600, text
        assert WHERE in text, text


SEEDS = {
    0: "manifest", 1: "record", 2: "claim", 3: "done", 4: "heartbeat", 5: "note", 6: "ready", 7: "order", 8: "trainer", 9: "beat",
    12: "marker", 13: "trainer_state.json", 14: "model.safetensors.index.json", 15: "m.safetensors",
}  # fmt: skip
"""With which documents an empty corpus begins."""


def seed(corpus: Path) -> None:
    corpus.mkdir(exist_ok=True)
    if not any(corpus.iterdir()):
        for which, name in SEEDS.items():
            (corpus / name).write_bytes(bytes([which]) + VALID[name])


if __name__ == "__main__":
    seed(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
