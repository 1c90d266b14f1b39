"""A checkpoint comes back range by range: what is wrong is asked for again alone, what is right never twice."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from blake3 import blake3
from msgspec import structs

from syncd.errors import Corrupt
from syncd.local.digest import crc_range, spell, sum_bytes
from syncd.local.place import Place
from syncd.model.checkpoint import RANGE, Committed
from syncd.model.keys import Keys
from syncd.move import restore
from syncd.move.objects import read_manifest
from syncd.store import Fetched
from syncd.store.memory import MemoryStore
from syncd.testing import Node, NodeDied, open_gate

SIZE = 3 * RANGE + 1000
NAME = "checkpoint-1"


class Way(MemoryStore):
    """A store whose answers pass a way that damages some: `damage` says how many times for each offset."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(objects)
        self.damage: dict[int, int] = {}
        self.dies_at: int | None = None
        self.asked: list[int] = []
        self.sums = True

    async def fetch(self, key: str, offset: int, length: int, fd: int) -> Fetched:
        if not key.endswith("large.bin"):
            return await super().fetch(key, offset, length, fd)
        self.asked.append(offset)
        if offset == self.dies_at:
            raise NodeDied
        came = await super().fetch(key, offset, length, fd)
        if self.damage.get(offset, 0) > 0:
            self.damage[offset] -= 1
            os.pwrite(fd, b"?", offset + 5)
        return Fetched(came.nbytes, spell(crc_range(fd, offset, came.nbytes)) if self.sums else None)


@pytest.fixture(params=[True, False], ids=["summed-on-the-way", "summed-in-the-file"])
async def way(ram_path: Path, request: pytest.FixtureRequest) -> Way:
    """A store that holds one commit, with a file of four ranges in it."""
    node = Node(MemoryStore(), ram_path / "first")
    await node.boot()
    path = node.save(1, marker=False)
    (path / "large.bin").write_bytes(os.urandom(SIZE))
    (path / "_SUCCESS").write_text("")
    await node.push_all()
    assert isinstance(node.store, MemoryStore)
    made = Way(node.store.objects)
    made.sums = request.param
    return made


@pytest.fixture
def place(ram_path: Path) -> Place:
    made = Place(ram_path / "second")
    made.make()
    return made


async def committed(way: Way) -> Committed:
    return await read_manifest(way, Keys("task"), 1, NAME)


def whole(way: Way, path: Path) -> bool:
    return (path / "large.bin").read_bytes() == way.objects[f"task/attempt-0001/{NAME}/large.bin"]


async def fetch(way: Way, place: Place) -> Path:
    return await restore.fetch(way, Keys("task"), await committed(way), place, open_gate)


async def test_a_range_that_was_damaged_on_the_way_is_asked_for_again_alone(way: Way, place: Place) -> None:
    way.damage = {RANGE: 2}
    assert whole(way, await fetch(way, place))
    assert sorted(way.asked) == [0, RANGE, RANGE, RANGE, 2 * RANGE, 3 * RANGE]


async def test_I5_a_range_that_is_wrong_each_time_is_damage_and_nothing_appears(way: Way, place: Place) -> None:
    way.damage = {RANGE: 100}
    with pytest.raises(Corrupt, match=f"bytes {RANGE} to {2 * RANGE} are not those"):
        await fetch(way, place)
    assert way.asked.count(RANGE) == restore.TRIES
    assert not (place.root / NAME).exists()


async def test_I5_an_object_that_is_too_short_is_damage(way: Way, place: Place) -> None:
    key = f"task/attempt-0001/{NAME}/large.bin"
    way.objects[key] = way.objects[key][:-1]
    with pytest.raises(Corrupt, match="999 came"):
        await fetch(way, place)


async def test_a_restore_that_was_killed_goes_on_with_the_ranges_that_were_right(way: Way, place: Place) -> None:
    way.dies_at = 3 * RANGE
    with pytest.raises(BaseException) as died:
        await fetch(way, place)
    assert isinstance(died.value, NodeDied)
    done = set(way.asked) - {3 * RANGE}
    assert len(done) >= 1
    (staged,) = place.staging.iterdir()
    fd = os.open(staged / "large.bin", os.O_WRONLY)
    os.pwrite(fd, b"?", 7)  # what a disk that lost power makes of it
    os.close(fd)
    way.dies_at, way.asked = None, []
    assert whole(way, await fetch(way, place))
    assert set(way.asked) == {0, 3 * RANGE}
    assert not list(place.staging.iterdir())


async def test_what_another_restore_left_is_removed_before_this_one_begins(way: Way, place: Place) -> None:
    (place.staging / "another").mkdir()
    (place.staging / "another" / "large.bin").write_bytes(b"x" * 1000)
    assert whole(way, await fetch(way, place))
    assert not list(place.staging.iterdir())


async def test_a_start_leaves_no_staging_behind(way: Way, ram_path: Path) -> None:
    node = Node(way, ram_path / "third")
    left = node.root / ".syncd" / "staging" / "of-a-dead-daemon"
    left.mkdir(parents=True)
    begun = await node.boot()
    assert begun.checkpoint == NAME
    assert not list(left.parent.iterdir())


async def test_a_file_that_may_not_be_written_keeps_its_mode(ram_path: Path, place: Place) -> None:
    node = Node(MemoryStore(), ram_path / "first")
    await node.boot()
    path = node.save(1, marker=False)
    (path / "model.bin").chmod(0o444)
    (path / "_SUCCESS").write_text("")
    await node.push_all()
    assert isinstance(node.store, MemoryStore)
    restored = await fetch(Way(node.store.objects), place)
    assert (restored / "model.bin").stat().st_mode & 0o777 == 0o444


# ---- what the disk has already


def neighbour(way: Way, place: Place, name: str = "checkpoint-0") -> Path:
    """Another checkpoint on this disk with the same large file, written over here and there by the test."""
    path = place.root / name
    path.mkdir()
    (path / "large.bin").write_bytes(way.objects[f"task/attempt-0001/{NAME}/large.bin"])
    return path / "large.bin"


async def test_what_another_checkpoint_on_the_disk_holds_is_copied_and_not_fetched(way: Way, place: Place) -> None:
    there = neighbour(way, place)
    restored = await fetch(way, place)
    assert whole(way, restored)
    assert way.asked == []
    assert there.stat().st_nlink == 1, "writers truncate in place: a link would take the restored file with it"
    assert there.stat().st_ino != (restored / "large.bin").stat().st_ino


async def test_I5_a_local_copy_that_is_right_in_part_saves_that_part(way: Way, place: Place) -> None:
    with neighbour(way, place).open("r+b") as file:
        file.seek(2 * RANGE + 5)
        file.write(b"other")
    assert whole(way, await fetch(way, place))
    assert way.asked == [2 * RANGE]


@pytest.mark.parametrize("what", ["its beginning differs", "its size differs", "a link", "a directory", "unreadable"])
async def test_a_local_file_that_is_another_is_left_alone(way: Way, place: Place, what: str) -> None:
    there = neighbour(way, place)
    if what == "its beginning differs":
        with there.open("r+b") as file:
            file.write(b"other")
    elif what == "its size differs":
        os.truncate(there, SIZE - 1)
    elif what == "a link":
        (place.root / "elsewhere").write_bytes(there.read_bytes())
        there.unlink()
        there.symlink_to(place.root / "elsewhere")
    else:
        there.unlink()
        there.mkdir() if what == "a directory" else os.mkfifo(there)
    assert whole(way, await fetch(way, place))
    assert sorted(way.asked) == [0, RANGE, 2 * RANGE, 3 * RANGE]


async def test_a_neighbour_with_a_bad_block_costs_its_copy_and_not_the_restore(
    way: Way, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbour(way, place)
    honest = restore.range_matches

    def bad_block(fd: int, offset: int, length: int, digest: str) -> bool:
        if "/checkpoint-0/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, "Input/output error")
        return honest(fd, offset, length, digest)

    monkeypatch.setattr(restore, "range_matches", bad_block)
    assert whole(way, await fetch(way, place))
    assert sorted(way.asked) == [0, RANGE, 2 * RANGE, 3 * RANGE]


# ---- seals


async def sealed(ram_path: Path, algorithm: str) -> Way:
    """A store with one commit whose files have seals."""
    node = Node(MemoryStore(), ram_path / "sealing", seal=algorithm)
    await node.boot()
    path = node.save(1, marker=False)
    (path / "large.bin").write_bytes(os.urandom(RANGE + 1000))
    (path / "empty.bin").write_bytes(b"")
    (path / "_SUCCESS").write_text("")
    await node.push_all()
    assert isinstance(node.store, MemoryStore)
    return Way(node.store.objects)


@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
async def test_seals_are_what_the_usual_tools_say_and_a_sealed_checkpoint_comes_back(
    ram_path: Path, place: Place, algorithm: str
) -> None:
    way = await sealed(ram_path, algorithm)
    found = await committed(way)
    content = way.objects[f"task/attempt-0001/{NAME}/large.bin"]
    seals = {entry.path: entry.seal for entry in found.manifest.files}
    known = hashlib.sha256 if algorithm == "sha256" else blake3
    assert seals["large.bin"] == f"{algorithm}:{known(content).hexdigest()}"
    assert seals["empty.bin"] == f"{algorithm}:{known(b'').hexdigest()}"
    assert whole(way, await fetch(way, place))
    assert await restore.sound(way, Keys("task"), found, deep=True, gate=open_gate) == []


@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
async def test_I5_content_that_was_forged_with_its_sums_is_refused_by_its_seal(
    ram_path: Path, place: Place, algorithm: str
) -> None:
    way = await sealed(ram_path, algorithm)
    found = await committed(way)
    forged = os.urandom(RANGE + 1000)
    way.objects[f"task/attempt-0001/{NAME}/large.bin"] = forged
    # Whoever can forge sums, but not the manifest: a CRC of one's choice is a matter of eight bytes.
    files = [
        structs.replace(entry, sum=sum_bytes(forged)) if entry.path == "large.bin" else entry
        for entry in found.manifest.files
    ]
    manifest = structs.replace(found.manifest, files=tuple(files))
    told = Committed(manifest, found.digest)
    with pytest.raises(Corrupt, match="seal"):
        await restore.fetch(way, Keys("task"), told, place, open_gate)
    assert not (place.root / NAME).exists()
    (wrong,) = await restore.sound(way, Keys("task"), told, deep=True, gate=open_gate)
    assert "seal" in wrong
    way.asked = []
    with pytest.raises(Corrupt, match="seal"):
        await restore.fetch(way, Keys("task"), told, place, open_gate)
    assert way.asked, "what was refused is asked for again, not taken from the disk"


async def test_a_seal_that_this_version_does_not_know_asks_for_another(ram_path: Path, place: Place) -> None:
    way = await sealed(ram_path, "sha256")
    found = await committed(way)
    files = tuple(structs.replace(entry, seal="md9:0123456789abcdef") for entry in found.manifest.files)
    told = Committed(structs.replace(found.manifest, files=files), found.digest)
    with pytest.raises(Corrupt, match="update syncd"):
        await restore.fetch(way, Keys("task"), told, place, open_gate)


async def test_without_a_seal_the_manifest_names_none(way: Way) -> None:
    assert b"seal" not in way.objects[f"task/attempt-0001/manifests/{NAME}.json"]
