"""Pushing against stores and disks that do not behave."""

import errno
import os
from pathlib import Path

import pytest

from syncd.local.pins import Pin
from syncd.store import Entry, Gate, Source
from syncd.store.memory import MemoryStore
from syncd.testing import Node


class Lying(MemoryStore):
    """Lists another size than was stored, so often."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def list(self, prefix: str, *, shallow: bool = False) -> list[Entry]:
        found = await super().list(prefix, shallow=shallow)
        if not prefix.endswith("/checkpoint-1/") or self.times <= 0:
            return found
        self.times -= 1
        return [Entry(entry.key, entry.size + 1) for entry in found]


async def test_I1_a_store_that_lists_other_sizes_is_asked_ever_more_slowly_and_said(ram_path: Path) -> None:
    node, paused = Node(Lying(4), ram_path / "a"), []
    await node.boot()

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    node.keeper.pusher.sleep = sleep
    node.save(1)
    await node.push_all()
    assert paused == [2.0, 4.0, 8.0]
    said = [(fields["listed"], fields["bytes"]) for event, fields in node.events if event == "not_as_sent"]
    assert len(said) == 3
    assert all(listed == nbytes + 1 for listed, nbytes in said)  # type: ignore[operator]
    assert [event for event, _ in node.events if event == "checkpoint_committed"]


@pytest.mark.parametrize("opened", [3, 6, 8, 11])
async def test_I6_a_disk_that_fails_in_the_midst_makes_an_unreadable_checkpoint_and_no_traceback(
    ram_path: Path, monkeypatch: pytest.MonkeyPatch, opened: int
) -> None:
    """Three files are opened when they are pinned, summed, sent, and at the end, to see that they held still."""
    node, original, left = Node(MemoryStore(), ram_path / "a"), Pin.open, iter(range(opened))
    await node.boot()

    def failing(self: Pin, path: str) -> int:
        if next(left, None) is None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(self, path)

    node.save(1)
    with monkeypatch.context() as patch:
        patch.setattr(Pin, "open", failing)
        await node.push_all()
    torn = [fields["why"] for event, fields in node.events if event == "checkpoint_unreadable"]
    assert len(torn) == 1
    assert "Input/output error" in str(torn[0])
    node.save(2)
    await node.push_all()
    assert [fields["checkpoint"] for event, fields in node.events if event == "checkpoint_committed"] == [
        "checkpoint-2"
    ]


async def test_I1_a_disk_of_the_store_that_fails_tears_nothing(ram_path: Path) -> None:
    """Whatever a store lets slip, what waits still waits."""

    class Slips(MemoryStore):
        fails = True

        async def upload(self, key: str, source: Source, gate: Gate) -> None:
            if self.fails:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            await super().upload(key, source, gate)

    store = Slips()
    node = Node(store, ram_path / "a")
    await node.boot()
    node.save(1)
    with pytest.raises(OSError, match="Read-only"):
        await node.push_all()
    store.fails = False
    await node.push_all()
    assert [event for event, _ in node.events if event in ("checkpoint_torn", "checkpoint_committed")] == [
        "checkpoint_committed"
    ]
