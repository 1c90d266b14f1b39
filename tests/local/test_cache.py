"""Pages of what was sent are given back; what a rotation took away meanwhile is no error."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from syncd.local.cache import drop_pages
from syncd.store.memory import MemoryStore
from syncd.testing import Node


def resident(path: Path) -> int:
    """Bytes of a file in the page cache."""
    said = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)], check=True, capture_output=True, text=True
    )
    return int(said.stdout)


pytestmark = pytest.mark.skipif(shutil.which("fincore") is None, reason="util-linux's fincore tells what is cached")


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(4 << 20))
        os.fsync(file.fileno())
    if resident(path) == 0 or subprocess.getoutput(f"stat -f -c %T {path}") == "tmpfs":
        pytest.skip("a memory disk is its own cache")
    return path


def test_the_files_of_a_directory_leave_the_cache(tmp_path: Path) -> None:
    below = write(tmp_path / "checkpoint-1" / "sub" / "x.bin")
    drop_pages(tmp_path / "checkpoint-1")
    assert resident(below) == 0


def test_what_is_gone_is_passed_over(tmp_path: Path) -> None:
    drop_pages(tmp_path / "nothing")


async def test_a_commit_drops_the_one_before_and_keeps_the_newest(tmp_path: Path) -> None:
    node = Node(MemoryStore(), tmp_path / "node")
    await node.boot()
    large = []
    for step in (1, 2):
        path = node.save(step, marker=False)
        large.append(write(path / "large.bin"))
        (path / "_SUCCESS").write_text("")
        await node.push_all()
    assert [resident(path) > 0 for path in large] == [False, True]
