"""Files far larger than memory and disk: sparse here, thrown away there. The daemon's memory does not grow with them."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ByteSize, TypeAdapter

from syncd.model.checkpoint import MAX_RANGES, ranges
from tests.s3.sink import Sink

LARGE = int(TypeAdapter(ByteSize).validate_python(os.environ.get("SYNCD_TEST_LARGE", "2GiB")))
"""`make faults` has 64 GiB."""
MOST = 128.0
"""MiB of the daemon, whatever passes through it."""
S3_PARTS = 10_000


@pytest.mark.parametrize("gib", [100, 150, 151, 1024, 50 * 1024])
def test_no_plan_has_more_parts_than_s3_takes(gib: int) -> None:
    size = (gib << 30) - 1
    planned = ranges(size)
    assert len(planned) <= MAX_RANGES < S3_PARTS
    assert sum(length for _, length in planned) == size
    if gib <= 150:
        assert max(length for _, length in planned) <= 16 << 20


def peak(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_larger_than_memory_passes_with_flat_memory(tmp_path: Path) -> None:
    root = tmp_path / "root"
    path = root / "checkpoint-1"
    path.mkdir(parents=True)
    with (path / "model.bin").open("wb") as file:
        file.truncate(LARGE)
    (path / "_SUCCESS").write_text("")
    with Sink(tmp_path / "sink") as sink:
        about = {
            "SYNCD_ROOT": str(root),
            "SYNCD_STORE": "s3://b/x",
            "SYNCD_TASK": "t",
            "SYNCD_LOG_FORMAT": "json",
            "SYNCD_GRACE": "5",
        }
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **about, **sink.env}
        command = [sys.executable, "-m", "syncd", "run", "--", "sleep", "900"]
        highest, log = 0.0, tmp_path / "log"
        with log.open("wb") as into, subprocess.Popen(command, env=env, stderr=into) as process:
            try:
                while "checkpoint_committed" not in log.read_text():
                    assert process.poll() is None, log.read_text()
                    with suppress(StopIteration):
                        highest = max(highest, peak(process.pid))
                    time.sleep(0.1)
            finally:
                process.terminate()
                process.wait(60)
        counts = sink.counts()
    print(f"{LARGE >> 30} GiB in {counts['parts']} parts with {highest:.0f} MiB")
    assert counts["parts"] == counts["largest_part_number"] == len(ranges(LARGE))
    assert counts["bytes"] >= LARGE
    assert highest <= MOST
