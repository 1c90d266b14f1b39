"""A checkpoint of 100,000 files (`make faults`; a part in `make test`), and one of 3 TiB: what they cost, and whom they hold up."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from syncd.local.pins import Pins
from syncd.local.root import Root
from syncd.model import canonical
from syncd.model.checkpoint import MAX_RANGES, FileEntry, FileSum, Manifest, parse_manifest, range_size, ranges
from syncd.model.event import silent
from syncd.store.file import FileStore
from syncd.testing import Node, verify
from tests.faults.fuzzing import ALL

pytestmark = pytest.mark.slow
FILES = 100_000 if ALL else 5_000
LONGEST_LAG = 0.25
"""Seconds for which the event loop may not answer: heartbeats, signals and the trainer's output wait for it."""
S3_PARTS = 10_000
TIB = 1 << 40


class Lag:
    """The longest time for which the event loop did not turn: by the clock, which others' work on this machine moves too,
    and by what the loop's own thread used of a processor meanwhile."""

    def __init__(self) -> None:
        self.longest = self.own = 0.0

    async def _watch(self) -> None:
        last, used = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(0.005)
            now, uses = time.monotonic(), time.thread_time()
            self.longest, self.own = max(self.longest, now - last - 0.005), max(self.own, uses - used)
            last, used = now, uses

    async def during(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """The work's result; its time and the lag are printed."""
        self.longest, self.own, began = 0.0, 0.0, time.monotonic()
        watching = asyncio.create_task(self._watch())
        await asyncio.sleep(0)
        try:
            result = await work()
            await asyncio.sleep(0.02)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
        took, rss = time.monotonic() - began, psutil.Process().memory_info().rss >> 20
        lag = f"{self.longest * 1000:.0f} ms, by its own work {self.own * 1000:.0f} ms"
        print(f"{FILES:,} files: {name} {took:.1f} s, loop held up {lag}, {rss} MiB", flush=True)
        return result


@pytest.mark.timeout(2400)
async def test_I8_many_files_go_and_come_back_and_the_event_loop_turns_all_the_while(ram_path: Path) -> None:
    store = FileStore.open(ram_path / "store", create=True)
    node = Node(store, ram_path / "a")
    await node.boot()
    path = node.root / "checkpoint-1"
    for number in range(FILES):
        if number % 1000 == 0:
            (path / f"shard-{number // 1000}").mkdir(parents=True)
        (path / f"shard-{number // 1000}" / f"file-{number}.bin").write_bytes(b"%d" % number)
    (path / "_SUCCESS").write_text("")
    lag, lags = Lag(), {}

    async def measured(name: str, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        result = await lag.during(name, work)
        lags[name] = lag.own
        return result

    await measured("look and pin", node.keeper.root.look)
    await measured("a second look", node.keeper.root.look)
    await measured("push", node.keeper.push_next)
    await measured("clean up", node.keeper.clean_up)
    again = Node(store, node.root)
    await measured("the same disk again", again.boot)
    other = Node(store, ram_path / "b")
    begun = await measured("restore", other.boot)
    assert begun.checkpoint == "checkpoint-1"
    back = other.root / "checkpoint-1"
    for number in range(0, FILES, 997):
        assert (back / f"shard-{number // 1000}" / f"file-{number}.bin").read_bytes() == b"%d" % number
    found = await measured("verify", lambda: verify(store))
    assert found.checkpoints == 1
    slow = {name: f"{longest:.3f} s" for name, longest in lags.items() if longest > LONGEST_LAG}
    assert not slow, f"the event loop was held up: {slow}"


# ---- 3 TiB


def huge(path: Path, size: int) -> Path:
    """A sparse file; skips by name where the file system takes none so large."""
    path.mkdir(parents=True)
    try:
        with (path / "model.bin").open("wb") as file:
            file.truncate(size)
    except OSError as error:
        pytest.skip(f"this file system takes no sparse file of {size >> 40} TiB: {error.strerror}")
    (path / "_SUCCESS").write_text("")
    return path


def test_the_plan_of_3_tib_fits_every_limit() -> None:
    size = 3 * TIB
    planned = ranges(size)
    assert len(planned) <= MAX_RANGES < S3_PARTS
    assert planned[-1][0] + planned[-1][1] == size
    digest = "crc64nvme:" + "0" * 16
    entry = FileEntry("model.bin", size, 0o644, FileSum(digest, (digest,) * len(planned)))
    manifest = Manifest(
        task="t", attempt=1, number=1, name="c", commit="c", kind="directory", step=1, rule="r", time=0.0, files=(entry,)
    )  # fmt: skip
    data = canonical.encode(manifest)
    assert parse_manifest(data, "here") == manifest
    assert len(data) < 1 << 20
    print(f"3 TiB: {len(planned):,} ranges of {range_size(size) >> 20} MiB, a manifest of {len(data) >> 10} KiB")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("where", ["ram_path", "tmp_path"])
async def test_I8_3_tib_are_seen_and_pinned_at_once_and_a_push_ends_when_it_is_told_to(
    where: str, request: pytest.FixtureRequest
) -> None:
    home: Path = request.getfixturevalue(where)
    path = huge(home / "a" / "checkpoint-1", 3 * TIB)
    node = Node(FileStore.open(home / "store", create=True), home / "a")
    await node.boot()
    lag, began = Lag(), time.monotonic()
    (pin,) = await lag.during("3 TiB pinned", node.keeper.root.look)
    assert time.monotonic() - began < 10.0
    assert pin.bytes == 3 * TIB
    pushing = asyncio.create_task(node.keeper.push_next())
    await asyncio.sleep(0.5)
    assert not pushing.done()
    node.save(2)
    assert [each.name for each in await node.keeper.root.look()] == ["checkpoint-2"], "the sums hold up no look"
    began = time.monotonic()
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert time.monotonic() - began < 10.0, "a drain would wait"
    assert os.stat(path / "model.bin").st_blocks < 1000


async def test_I8_a_huge_marker_or_state_file_is_no_reason_to_read_it_all_at_each_look(ram_path: Path) -> None:
    """Whoever writes zeroes of a TiB under one of the small names waits for itself alone."""
    root = Root(ram_path, silent)
    Pins(ram_path).load()
    for name in ("_SUCCESS", "trainer_state.json", "model.safetensors.index.json", "m.safetensors"):
        path = ram_path / f"checkpoint-{len(name)}"
        path.mkdir()
        (path / "w.bin").write_text("x")
        if name != "_SUCCESS":
            (path / "trainer_state.json").write_text(f'{{"global_step": {len(name)}}}')
        with (path / name).open("ab") as file:
            file.truncate(TIB)
    (ram_path / "sound").mkdir()
    (ram_path / "sound" / "_SUCCESS").write_text("")
    began = time.monotonic()
    seen = await root.scan()
    assert "sound" in [each.name for each in seen]
    assert time.monotonic() - began < 10.0
    assert psutil.Process().memory_info().rss < 1 << 30
