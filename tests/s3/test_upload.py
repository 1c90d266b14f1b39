"""Uploads that are interrupted, damaged, stalled or continued."""

import asyncio
import json
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractStreamWriter
from botocore.session import Session
from botocore.validate import ParamValidator
from syncd_s3 import S3Settings
from syncd_s3.body import RangeBody
from syncd_s3.client import Client
from syncd_s3.direct import DirectPath
from syncd_s3.errors import NoRight
from syncd_s3.paths import Paths
from syncd_s3.store import S3Store
from syncd_s3.wire import NICE, Answer, Span, _Connection

from syncd.errors import Denied, NotFound, Torn, Transient
from syncd.model.checkpoint import RANGE
from syncd.move.budget import Budget
from syncd.store import Entry, Gate, Source
from syncd.testing import open_gate, source_of
from syncd.testing.servers import Minio

PARTS = 5
SIZE = (PARTS - 1) * RANGE + 1000


@pytest.fixture(params=["fast", "signed", "sdk"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Interrupted(Exception):
    """Ends an upload in the middle, as a process that dies would."""


@contextmanager
def counted(store: S3Store) -> Iterator[Counter[str]]:
    """The requests that the store sends, by operation."""
    sent: Counter[str] = Counter()

    def count(operation_name: str, **_: Any) -> None:
        sent[operation_name] += 1

    original = Paths.send

    async def counting(self: Paths, operation: str, *args: Any) -> dict[str, Any]:
        if self.name != "sdk":
            count({"put_object": "PutObject", "upload_part": "UploadPart"}[operation])
        return await original(self, operation, *args)

    store.client.events.register("before-sign.s3", count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Paths, "send", counting)
        yield sent
    store.client.events.unregister("before-sign.s3", count)


def gate_for(admitted: int) -> Gate:
    """A gate that lets so many parts through one after the other and then breaks."""
    lock, left = asyncio.Lock(), iter(range(admitted))

    @asynccontextmanager
    async def gate(nbytes: int) -> AsyncIterator[None]:
        async with lock:
            if next(left, None) is None:
                raise Interrupted
            yield

    return gate


async def interrupt(store: S3Store, source: Source, admitted: int, key: str = "t/file") -> None:
    with pytest.raises(Interrupted):
        await store.upload(key, source, gate_for(admitted))


async def uploads(store: S3Store, key: str = "t/file") -> list[str]:
    """Ids of the unfinished uploads of a key, as the server lists them."""
    pages = await store.client.pages("list_multipart_uploads", key, Prefix=f"some/prefix/{key}")
    return [item["UploadId"] for page in pages for item in page.get("Uploads", ())]


async def read(store: S3Store, size: int) -> bytes:
    return b"".join([await store.get("t/file", offset, RANGE) for offset in range(0, size, RANGE)])


async def test_an_interrupted_upload_is_found_again_and_only_its_missing_parts_are_sent(
    store: S3Store, bucket: str, file: Path
) -> None:
    content = os.urandom(SIZE)
    with source_of(file, content) as source:
        await interrupt(store, source, 3)
        assert await store.list("t/") == []
        another = await S3Store.open(f"s3://{bucket}/some/prefix", S3Settings())
        with counted(another) as sent:
            await another.upload("t/file", source, open_gate)
        await another.aclose()
    assert (sent["UploadPart"], sent["CreateMultipartUpload"]) == (PARTS - 3, 0)
    assert await read(store, SIZE) == content
    assert await uploads(store) == []


async def test_parts_of_other_content_are_sent_again(store: S3Store, file: Path) -> None:
    with source_of(file, os.urandom(SIZE)) as source:
        await interrupt(store, source, 2)
    content = os.urandom(SIZE)
    with source_of(file, content) as source, counted(store) as sent:
        await store.upload("t/file", source, open_gate)
    assert sent["UploadPart"] == PARTS
    assert await read(store, SIZE) == content


async def test_of_several_uploads_the_newest_is_continued_and_the_others_are_aborted(
    store: S3Store, file: Path
) -> None:
    with source_of(file, os.urandom(SIZE)) as source:
        for _ in range(2):
            await store.client.call("create_multipart_upload", "", Key="some/prefix/t/file", ChecksumAlgorithm="SHA256")
        await interrupt(store, source, 1, "t/file2")
        await store.upload("t/file", source, open_gate)
        assert await uploads(store, "t/file") == []
        assert len(await uploads(store, "t/file2")) == 1
        with counted(store) as sent:
            await store.upload("t/file2", source, open_gate)
        assert sent["UploadPart"] == PARTS - 1


async def test_a_file_that_is_there_already_is_not_sent_again(store: S3Store, file: Path) -> None:
    with source_of(file, os.urandom(RANGE + 1)) as source:
        await store.upload("t/file", source, open_gate)
        with counted(store) as sent:
            await store.upload("t/file", source, open_gate)
    assert sent["UploadPart"] == 0


async def test_an_upload_that_vanishes_is_transient_and_begun_anew(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with source_of(file, os.urandom(RANGE + 1)) as source:

        @asynccontextmanager
        async def gate(nbytes: int) -> AsyncIterator[None]:
            for upload_id in await uploads(store):
                await store.client.call("abort_multipart_upload", "", Key="some/prefix/t/file", UploadId=upload_id)
            yield

        with pytest.raises(Transient):
            await store.upload("t/file", source, gate)
        await store.upload("t/file", source, open_gate)
    assert await store.list("t/") == [Entry("t/file", RANGE + 1)]


@pytest.mark.parametrize("size", [1000, RANGE + 1000])
async def test_I1_the_server_refuses_bytes_that_were_damaged_on_the_way(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    async def garbage(self: RangeBody, writer: AbstractStreamWriter, content_length: int | None) -> None:
        await writer.write(b"x" * len(self))

    def rubbish(self: _Connection, span: Span) -> None:
        self._plain.sendall(b"x" * span.length)

    with source_of(file, os.urandom(size)) as source:
        with monkeypatch.context() as patch:
            patch.setattr(RangeBody, "write_with_length", garbage)
            patch.setattr(_Connection, "_send_span", rubbish)
            with pytest.raises(Transient, match="damaged"):
                await store.upload("t/file", source, open_gate)
        assert await store.list("t/") == []
        await store.upload("t/file", source, open_gate)
    assert await store.list("t/") == [Entry("t/file", size)]


async def test_I1_the_server_refuses_a_put_that_was_damaged_on_the_way(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Client.put

    async def damaged(self: Client, what: str, data: bytes, **params: Any) -> dict[str, Any]:
        return await original(self, what, b"x" + data[1:], **params)

    monkeypatch.setattr(Client, "put", damaged)
    with pytest.raises(Transient):
        await store.put("t/x", b"0123")
    with pytest.raises(Transient):
        await store.create("t/x", b"0123")
    assert await store.list("t/") == []


@pytest.mark.parametrize("size", [1000, RANGE + 1000])
async def test_I1_an_object_whose_checksum_the_server_does_not_name_is_read_back(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def forget(parsed: dict[str, Any], **_: Any) -> None:
        parsed.pop("ChecksumCRC64NVME", None)

    original = DirectPath._parsed

    def forgetful(self: DirectPath, operation: str, answer: Answer) -> dict[str, Any]:
        parsed = original(self, operation, answer)
        forget(parsed)
        return parsed

    monkeypatch.setattr(DirectPath, "_parsed", forgetful)
    store.client.events.register("after-call.s3", forget)
    with source_of(file, os.urandom(size)) as source, counted(store) as sent:
        await store.upload("t/file", source, open_gate)
        assert sent["GetObject"] == -(-size // RANGE)

        async def damaged(self: Client, what: str, /, **params: Any) -> tuple[dict[str, Any], bytes]:
            return {}, b"x" * size

        monkeypatch.setattr(Client, "get", damaged)
        with pytest.raises(Transient, match="checksum"):
            await store.upload("t/file", source, open_gate)


async def test_I6_of_a_torn_file_nothing_is_left_behind(store: S3Store, file: Path) -> None:
    with source_of(file, os.urandom(SIZE)) as source:
        os.truncate(file, 2 * RANGE + 5)
        with pytest.raises(Torn):
            await store.upload("t/file", source, open_gate)
    assert await store.list("t/") == []
    assert await uploads(store) == []


@pytest.mark.parametrize("sums", ["crc64nvme", "md5"])
async def test_I6_a_file_that_cannot_be_read_is_torn(store: S3Store, file: Path, sums: str) -> None:
    store.client.profile = replace(store.client.profile, checksum=sums)  # type: ignore[arg-type]
    with source_of(file, b"x" * SIZE) as source:
        fd = os.open(file, os.O_WRONLY)
        try:
            with pytest.raises(Torn, match="cannot be read"):
                await store.upload("t/file", Source(fd, source.size, source.sum), open_gate)
        finally:
            os.close(fd)


async def test_what_is_not_sent_since_a_sibling_failed_does_not_count_as_sent(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Budget(1, 64 << 20)

    async def fails(self: Paths, *_: Any) -> dict[str, Any]:
        raise Transient("away")

    with source_of(file, os.urandom(SIZE)) as source, monkeypatch.context() as patch:
        patch.setattr(Paths, "send", fails)
        with pytest.raises(Transient, match="away"):
            await store.upload("t/file", source, gate)
        assert gate.moved == 0


async def test_a_whole_that_the_server_finds_wrong_is_begun_anew(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Client.call

    async def wrong(self: Client, operation: str, what: str, /, **params: Any) -> dict[str, Any]:
        if operation == "complete_multipart_upload":
            params["ChecksumCRC64NVME"] = "AAAAAAAAAAA="
        return await original(self, operation, what, **params)

    with source_of(file, os.urandom(RANGE + 1)) as source:
        with monkeypatch.context() as patch:
            patch.setattr(Client, "call", wrong)
            with pytest.raises(Transient):
                await store.upload("t/file", source, open_gate)
        assert await uploads(store) == []
        await store.upload("t/file", source, open_gate)
    assert await store.list("t/") == [Entry("t/file", RANGE + 1)]


async def test_the_first_failing_part_stops_the_others_and_alone_is_raised(store: S3Store, file: Path) -> None:
    admitted: list[int] = []

    @asynccontextmanager
    async def gate(nbytes: int) -> AsyncIterator[None]:
        admitted.append(nbytes)
        if len(admitted) == 2:
            raise Denied("no")
        await asyncio.Event().wait()
        yield

    with source_of(file, b"x" * SIZE) as source, pytest.raises(Denied, match="no"):
        await store.upload("t/file", source, gate)
    assert len(admitted) < PARTS


async def test_a_part_that_fails_for_a_while_lets_the_others_end_and_costs_itself_alone(
    store: S3Store, file: Path
) -> None:
    asked = 0

    @asynccontextmanager
    async def gate(nbytes: int) -> AsyncIterator[None]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise Transient("no")
        yield

    with source_of(file, os.urandom(SIZE)) as source:
        with pytest.raises(Transient, match="no"), counted(store) as first:
            await store.upload("t/file", source, gate)
        begun = first["UploadPart"]
        with counted(store) as second:
            await store.upload("t/file", source, open_gate)
    assert begun >= 1
    assert begun + second["UploadPart"] == PARTS


@pytest.mark.parametrize("path", ["fast"])
async def test_what_is_not_urgent_travels_in_threads_that_let_the_trainer_go_first(
    store: S3Store, file: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = _Connection._send_span

    def send_span(self: _Connection, span: Span) -> None:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        original(self, span)

    monkeypatch.setattr(_Connection, "_send_span", send_span)
    for hurried, niceness in ((False, NICE), (True, 0)):
        budget = Budget(4, 64 << 20)
        if hurried:
            budget.hurry()
        with source_of(file, os.urandom(2 * RANGE)) as source:
            await store.upload(f"t/{hurried}", source, budget)
        assert seen == [niceness] * 2
        seen.clear()
    assert os.getpriority(os.PRIO_PROCESS, 0) == 0


@pytest.mark.slow
async def test_sigkill_of_the_server_in_the_middle_of_a_file_loses_only_the_parts_in_flight(
    tmp_path: Path, file: Path
) -> None:
    content = os.urandom(SIZE)
    with Minio(tmp_path / "minio") as server, source_of(file, content) as source, pytest.MonkeyPatch.context() as patch:
        server.make_bucket("bucket")
        for name, value in server.env.items():
            patch.setenv(name, value)
        store = await S3Store.open("s3://bucket", S3Settings())
        done = 0

        @asynccontextmanager
        async def gate(nbytes: int) -> AsyncIterator[None]:
            nonlocal done
            async with lock:
                if done == 3:
                    server.kill()
                yield
                done += 1

        lock = asyncio.Lock()
        with pytest.raises(Transient):
            await store.upload("t/file", source, gate)
        with pytest.raises(Transient, match="refused"):
            await store.list("t/")
        await asyncio.to_thread(server.start)
        with counted(store) as sent:
            await store.upload("t/file", source, open_gate)
        assert sent["UploadPart"] == PARTS - 3
        assert await read(store, SIZE) == content
        await store.aclose()


@pytest.mark.slow
async def test_a_server_that_stands_still_is_given_up_in_time(tmp_path: Path, file: Path) -> None:
    with Minio(tmp_path / "minio") as server, pytest.MonkeyPatch.context() as patch:
        server.make_bucket("bucket")
        for name, value in server.env.items():
            patch.setenv(name, value)
        store = await S3Store.open("s3://bucket", S3Settings(s3_timeout=0.5))
        await store.put("x", b"x")
        paused = False

        @asynccontextmanager
        async def gate(nbytes: int) -> AsyncIterator[None]:
            nonlocal paused
            if not paused:
                server.pause()
                paused = True
            yield

        start = time.monotonic()
        with source_of(file, b"x" * SIZE) as source:
            with pytest.raises(Transient, match="in time"):
                await store.upload("f", source, gate)
            for call in (store.put("y", b"y"), store.get("x"), store.list(""), store.delete("x")):
                with pytest.raises(Transient, match="in time"):
                    await call
            assert time.monotonic() - start < 10
            server.resume()
            await store.upload("f", source, open_gate)
        assert Entry("f", SIZE) in await store.list("")
        await store.aclose()


@pytest.mark.slow
async def test_memory_stays_flat_while_a_large_file_goes_up(store: S3Store, file: Path) -> None:
    size = 256 << 20
    file.touch()
    os.truncate(file, size)  # sparse: the memory that counts is ours
    seen: list[int] = []

    @asynccontextmanager
    async def gate(nbytes: int) -> AsyncIterator[None]:
        seen.append(_resident())
        yield
        seen.append(_resident())

    from syncd.local.digest import sum_file

    fd = os.open(file, os.O_RDONLY)
    try:
        source = Source(fd, size, sum_file(fd, size))
        before = _resident()
        await store.upload("t/file", source, gate)
    finally:
        os.close(fd)
    assert max(seen) - before < 24 << 20


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("right", ["list_multipart_uploads", "list_parts"])
async def test_without_the_right_to_list_uploads_or_parts_a_file_goes_up_from_its_beginning(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, right: str
) -> None:
    original = Client.pages

    async def withheld(self: Client, operation: str, what: str, /, **params: Any) -> list[dict[str, Any]]:
        if operation == right:
            raise NoRight("no right")
        return await original(self, operation, what, **params)

    with source_of(file, os.urandom(RANGE + 5)) as source:
        await interrupt(store, source, 1)
        monkeypatch.setattr(Client, "pages", withheld)
        await store.upload("t/file", source, open_gate)
    said = [record.fields for record in caplog.records if record.message == "s3.no_resume"]  # type: ignore[attr-defined]
    assert said == [{"why": "no right"}]
    assert await store.list("t/") == [Entry("t/file", RANGE + 5)]


async def test_rights_that_are_lost_in_the_middle_are_said_at_once(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.client.credentials._inner = None
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
    start = time.monotonic()
    with source_of(file, b"x" * SIZE) as source, pytest.raises(Denied, match="secret"):
        await store.upload("t/file", source, open_gate)
    with source_of(file, b"x" * RANGE) as source, pytest.raises(Denied, match="secret"):
        await store.upload("t/file", source, open_gate)
    assert time.monotonic() - start < 5
    monkeypatch.undo()


async def test_an_upload_into_a_bucket_that_went_away_is_denied(minio: Minio, file: Path) -> None:
    bucket = minio.make_bucket("test-goes-away")
    store = await S3Store.open(f"s3://{bucket}", S3Settings())
    (minio.directory / "data" / bucket).rmdir()
    for size in (10, SIZE):
        with source_of(file, b"x" * size) as source, pytest.raises(Denied, match="no bucket"):
            await store.upload("t/file", source, open_gate)
    with pytest.raises(Denied):
        await store.get("x")
    minio.make_bucket(bucket)
    with pytest.raises(NotFound):
        await store.get("x")
    await store.aclose()


async def test_a_part_that_is_stored_under_another_etag_is_not_sent_again(
    store: S3Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a part was sent twice, and the one counts whose answer came first, and the other was stored last."""
    original = Paths.send

    async def another(self: Paths, operation: str, *args: Any) -> dict[str, Any]:
        answer = await original(self, operation, *args)
        return answer | {"ETag": f'"{"0" * 32}"'} if args[-1].get("PartNumber") == 1 else answer

    monkeypatch.setattr(Paths, "send", another)
    content = os.urandom(RANGE + 1000)
    with source_of(file, content) as source, counted(store) as sent:
        await store.upload("t/file", source, open_gate)
    assert sent["UploadPart"] == 2
    assert sent["AbortMultipartUpload"] == 0
    assert await store.get("t/file") == content


def test_the_rule_that_is_shipped_ends_unfinished_uploads_and_expires_no_object() -> None:
    """MinIO has no such rules: botocore's model of Amazon's API judges its form."""
    said = json.loads((Path(__file__).parents[2] / "deploy" / "s3" / "lifecycle.json").read_text())
    shape = Session().get_service_model("s3").operation_model("PutBucketLifecycleConfiguration").input_shape
    report = ParamValidator().validate({"Bucket": "b", "LifecycleConfiguration": said}, shape)
    assert not report.has_errors(), report.generate_report()
    assert [set(rule) for rule in said["Rules"]] == [{"ID", "Status", "Filter", "AbortIncompleteMultipartUpload"}]
