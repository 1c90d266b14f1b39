"""A trainer that measures itself: small steps of real work, some saves, and how long each step took, told at its end.

All that it does beside its work is what any trainer does: it prints, says how far it is, writes checkpoints.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

from trainer import contract

WORK = bytes(3 << 20)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--from", dest="begin", type=Path, help="saves begin when this file exists")
    parser.add_argument("--until", type=Path, help="it ends when this file exists")
    parser.add_argument("--seconds", type=float, help="between saves")
    parser.add_argument("--size", type=int, default=4 << 20)
    parser.add_argument("--steps", type=Path, help="where to tell: [when it ended, seconds it took] of each step")
    options = parser.parse_args()
    root = Path(os.environ["SYNCD_ROOT"])
    took: list[tuple[float, float]] = []
    saved, due, step, looked = 0, None, 0, 0.0
    while True:
        begin = time.monotonic()
        hashlib.blake2b(WORK).digest()
        step += 1
        print(f"step {step}", flush=True)
        contract.beat(step, root=root)
        end = time.monotonic()
        took.append((end, end - begin))
        if end - looked > 0.1:
            looked = end
            if due is None and options.begin.exists():
                due = end
            if options.until.exists():
                break
        if due is not None and saved < options.saves and end >= due:
            saved, due = saved + 1, due + options.seconds
            save(root / f"checkpoint-{saved}", saved, options.size)
    options.steps.write_text(json.dumps(took))


def save(directory: Path, number: int, size: int) -> None:
    directory.mkdir()
    with (directory / "weights.bin").open("wb") as file:
        file.write(number.to_bytes(8, "little") * (size // 8))
        file.flush()
        os.fsync(file.fileno())
    contract.mark_complete(directory, step=number)


if __name__ == "__main__":
    main()
