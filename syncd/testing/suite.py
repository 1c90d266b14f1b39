"""The suite that every store passes: inherit, give a `store` fixture, done."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from syncd.errors import Exists, NotFound, Torn
from syncd.local.digest import sum_bytes, sum_file
from syncd.model.checkpoint import RANGE
from syncd.store import Entry, Source, Store


@asynccontextmanager
async def open_gate(nbytes: int) -> AsyncIterator[None]:
    """A gate that admits everything."""
    yield


@contextmanager
def source_of(path: Path, content: bytes) -> Iterator[Source]:
    """A `Source` over a new file with this content."""
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield Source(fd, len(content), sum_file(fd, len(content)))
    finally:
        os.close(fd)


class StoreSuite:
    """Cases that hold for every store. A subclass provides a fixture `store`: an empty store, opened."""

    async def test_what_is_put_can_be_got(self, store: Store) -> None:
        await store.put("t/a/x.json", b"one")
        assert await store.get("t/a/x.json") == b"one"

    async def test_put_replaces(self, store: Store) -> None:
        await store.put("t/x", b"one, longer")
        await store.put("t/x", b"two")
        assert await store.get("t/x") == b"two"

    async def test_an_empty_object_is_an_object(self, store: Store) -> None:
        await store.put("t/empty", b"")
        assert await store.get("t/empty") == b""
        assert await store.list("t/") == [Entry("t/empty", 0)]

    async def test_get_of_nothing_is_not_found(self, store: Store) -> None:
        await store.put("t/here", b"x")
        for key in ("t/absent", "t/here/below", "other/x"):
            with pytest.raises(NotFound):
                await store.get(key)

    async def test_get_by_ranges(self, store: Store) -> None:
        await store.put("t/x", b"0123456789")
        assert await store.get("t/x", 2, 3) == b"234"
        assert await store.get("t/x", 7, 100) == b"789"
        assert await store.get("t/x", 4) == b"456789"

    async def test_fetch_puts_a_range_at_its_offset_and_says_what_came(self, store: Store, tmp_path: Path) -> None:
        content = os.urandom(3 << 20)
        with source_of(tmp_path / "f", content) as source:
            await store.upload("t/x", source, open_gate)
        into = tmp_path / "into"
        into.write_bytes(b"-" * (len(content) + 5))
        fd = os.open(into, os.O_RDWR)
        try:
            came = [
                await store.fetch("t/x", 1, 2 << 20, fd),
                await store.fetch("t/x", (2 << 20) + 1, 2 << 20, fd),
                await store.fetch("t/x", len(content), 100, fd),
            ]
            assert [each.nbytes for each in came] == [2 << 20, (1 << 20) - 1, 0]
            for each, part in zip(came, (content[1 : (2 << 20) + 1], content[(2 << 20) + 1 :], b""), strict=True):
                assert each.digest in (None, sum_bytes(part).digest)
            assert into.read_bytes() == b"-" + content[1:] + b"-" * 5
        finally:
            os.close(fd)

    async def test_fetch_of_nothing_is_not_found(self, store: Store, tmp_path: Path) -> None:
        await store.put("t/here", b"x")
        with (tmp_path / "into").open("wb") as file, pytest.raises(NotFound):
            await store.fetch("t/absent", 0, 10, file.fileno())
        assert (tmp_path / "into").read_bytes() == b""

    async def test_fetch_into_a_file_that_cannot_be_written_is_no_error_of_the_store(
        self, store: Store, tmp_path: Path
    ) -> None:
        await store.put("t/here", b"x" * 100_000)
        (tmp_path / "into").write_bytes(b"")
        with (tmp_path / "into").open("rb") as file, pytest.raises(OSError, match="Bad file descriptor"):
            await store.fetch("t/here", 0, 100_000, file.fileno())

    async def test_I3_create_refuses_what_exists_and_leaves_it(self, store: Store) -> None:
        await store.create("t/claim", b"mine")
        with pytest.raises(Exists):
            await store.create("t/claim", b"another's")
        assert await store.get("t/claim") == b"mine"

    async def test_I3_of_many_creates_at_once_exactly_one_wins(self, store: Store) -> None:
        async def claim(n: int) -> bool:
            try:
                await store.create("t/claim", b"node %d" % n)
            except Exists:
                return False
            return True

        for _ in range(5):
            won = await asyncio.gather(*(claim(n) for n in range(12)))
            assert won.count(True) == 1
            assert await store.get("t/claim") == b"node %d" % won.index(True)
            await store.delete("t/claim")

    async def test_create_works_again_after_delete(self, store: Store) -> None:
        await store.create("t/x", b"1")
        await store.delete("t/x")
        await store.create("t/x", b"2")
        assert await store.get("t/x") == b"2"

    async def test_delete_of_nothing_is_no_error(self, store: Store) -> None:
        await store.delete("t/never/was")
        await store.put("t/a/b", b"x")
        await store.delete("t/a/b")
        await store.delete("t/a/b")
        assert await store.list("t/") == []

    async def test_list_is_whole_sorted_and_bounded_by_its_prefix(self, store: Store) -> None:
        for key in ("run-1/b", "run-1/a/2", "run-1/a/1", "run-10/x", "run-1.x"):
            await store.put(key, key.encode())
        assert [entry.key for entry in await store.list("run-1/")] == ["run-1/a/1", "run-1/a/2", "run-1/b"]
        assert (await store.list("run-1/"))[0].size == 9
        assert await store.list("nowhere/") == []

    async def test_shallow_list_names_children_only(self, store: Store) -> None:
        for key in ("t/attempt-0001/attempt.json", "t/attempt-0001/x/y", "t/attempt-0002/attempt.json", "t/done.json"):
            await store.put(key, b"abc")
        assert await store.list("t/", shallow=True) == [
            Entry("t/attempt-0001/", 0),
            Entry("t/attempt-0002/", 0),
            Entry("t/done.json", 3),
        ]

    async def test_a_prefix_is_gone_with_its_last_object(self, store: Store) -> None:
        await store.put("t/attempt-0001/x/y", b"abc")
        await store.delete("t/attempt-0001/x/y")
        assert await store.list("t/", shallow=True) == []

    async def test_list_of_more_than_one_page(self, store: Store) -> None:
        keys = [f"t/many/{n:05d}" for n in range(1_100)]
        for start in range(0, len(keys), 50):
            await asyncio.gather(*(store.put(key, b"") for key in keys[start : start + 50]))
        assert [entry.key for entry in await store.list("t/many/")] == keys

    async def test_odd_names_come_back_as_they_went(self, store: Store) -> None:
        keys = sorted(
            ["t/with space", "t/plus+and&amp;%20", "t/ünïcode-模型", "t/dots..in.name", "t/~tilde'quote\"", "t/#?=;"]
        )
        for key in keys:
            await store.put(key, key.encode())
        assert [entry.key for entry in await store.list("t/")] == sorted(keys)
        for key in keys:
            assert await store.get(key) == key.encode()

    async def test_odd_names_of_files_go_up_and_come_back(self, store: Store, tmp_path: Path) -> None:
        keys = ["t/a b/+&%20=?#;", "t/ünïcode-模型/~tilde'\"(x)*!,:@$"]
        for key in keys:
            with source_of(tmp_path / "f", key.encode()) as source:
                await store.upload(key, source, open_gate)
            with (tmp_path / "into").open("w+b") as file:
                assert (await store.fetch(key, 0, source.size, file.fileno())).nbytes == source.size
                assert file.read() == key.encode()
        assert [entry.key for entry in await store.list("t/")] == sorted(keys)

    @pytest.mark.parametrize("size", [0, 1, 5, 1 << 20, RANGE - 1, RANGE, RANGE + 1, 2 * RANGE + 12_345])
    async def test_I1_upload_stores_every_byte(self, store: Store, tmp_path: Path, size: int) -> None:
        content = os.urandom(size)
        with source_of(tmp_path / "f", content) as source:
            await store.upload("t/file", source, open_gate)
        assert await store.list("t/") == [Entry("t/file", size)]
        got = b"".join(
            [await store.get("t/file", o, RANGE) for o in range(0, size, RANGE)] or [await store.get("t/file")]
        )
        assert got == content

    async def test_upload_replaces_what_an_unfinished_commit_left(self, store: Store, tmp_path: Path) -> None:
        for content in (b"old" * 1000, b"new"):
            with source_of(tmp_path / "f", content) as source:
                await store.upload("t/file", source, open_gate)
        assert await store.get("t/file") == b"new"

    @pytest.mark.parametrize("size", [1000, RANGE + 1000])
    async def test_I6_upload_of_a_file_that_changed_is_torn(self, store: Store, tmp_path: Path, size: int) -> None:
        with source_of(tmp_path / "f", os.urandom(size)) as source:
            with (tmp_path / "f").open("r+b") as file:
                file.seek(size - 10)
                file.write(b"0123456789")
            with pytest.raises(Torn):
                await store.upload("t/file", source, open_gate)
        assert await store.list("t/") == []

    async def test_I6_upload_of_a_file_that_shrank_is_torn(self, store: Store, tmp_path: Path) -> None:
        with source_of(tmp_path / "f", os.urandom(5000)) as source:
            os.truncate(tmp_path / "f", 100)
            with pytest.raises(Torn):
                await store.upload("t/file", source, open_gate)
        assert await store.list("t/") == []

    async def test_every_piece_passes_the_gate(self, store: Store, tmp_path: Path) -> None:
        passed: list[int] = []

        @asynccontextmanager
        async def gate(nbytes: int) -> AsyncIterator[None]:
            passed.append(nbytes)
            yield

        size = 2 * RANGE + 7
        with source_of(tmp_path / "f", os.urandom(size)) as source:
            await store.upload("t/file", source, gate)
        assert sum(passed) == size
        assert max(passed) <= RANGE

    async def test_a_cancelled_upload_leaves_no_object(self, store: Store, tmp_path: Path) -> None:
        started = asyncio.Event()

        @asynccontextmanager
        async def gate(nbytes: int) -> AsyncIterator[None]:
            started.set()
            await asyncio.Event().wait()
            yield

        with source_of(tmp_path / "f", os.urandom(2 * RANGE)) as source:
            task = asyncio.create_task(store.upload("t/file", source, gate))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store.list("t/") == []
            await store.upload("t/file", source, open_gate)
        assert await store.list("t/") == [Entry("t/file", 2 * RANGE)]
