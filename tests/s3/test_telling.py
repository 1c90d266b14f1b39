"""What S3 tells `syncd doctor` of itself: by a real MinIO with keys of several rights, by fakes that lack one thing each."""

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from syncd_s3 import S3Settings
from syncd_s3.store import S3Store

from syncd.errors import Denied
from syncd.local.digest import sum_bytes
from syncd.model.answer import Answer
from syncd.move import doctor as doctor_module
from syncd.move import link
from syncd.move.doctor import Doctor
from syncd.move.link import LARGE
from syncd.store import Store
from syncd.store.wrap import Retrying
from syncd.testing import Fault, FaultProxy, open_gate, s3_error
from syncd.testing.servers import Minio

from .fakes import FakeGcs, FakeOldRgw, FakeR2, FakeS3, Headers, Reply, opened, refusal
from .rights import keys_with, temporary_keys


async def answers(store: Store, largest: int = LARGE) -> tuple[dict[str, Answer], Doctor]:
    retrying = Retrying(store, patience=5.0)
    async with Doctor(retrying, open_gate, open_gate, most=1 << 20, largest=largest, token="0123") as doctor:
        found = {key: answer async for key, answer in doctor.ask()}
    return found, doctor


def denied(found: dict[str, Answer]) -> set[str]:
    return {key for key, answer in found.items() if answer.yes is False}


def unfinished(minio: Minio) -> list[Path]:
    """Parts of uploads that were never ended, as they lie on MinIO's disk."""
    return list((minio.directory / "data" / ".minio.sys" / "multipart").rglob("part.*"))


@pytest.fixture
async def narrowed(minio: Minio, bucket: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A store whose keys may do what the test's parameter says."""
    for name, value in keys_with(minio, *request.param, bucket=bucket).items():
        monkeypatch.setenv(name, value)
    store = await S3Store.open(f"s3://{bucket}/p", S3Settings())
    yield store
    await store.aclose()


ALL = (
    "s3:ListBucket",
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListBucketMultipartUploads",
    "s3:ListMultipartUploadParts",
)


def without(*rights: str) -> tuple[str, ...]:
    return tuple(each for each in ALL if each not in rights)


@pytest.mark.slow
async def test_a_real_server_with_all_rights_lacks_nothing_and_nothing_is_left(minio: Minio, store: S3Store) -> None:
    before = unfinished(minio)
    found, doctor = await answers(store)
    assert {key: answer for key, answer in found.items() if not answer.yes} == {}
    assert "CRC-64/NVME" in found["checksums"].said
    assert not doctor.left
    assert await store.list("") == []
    assert unfinished(minio) == before
    about = await doctor.about()
    assert about["kind"] == "generic"
    assert about["server"] == "MinIO"
    assert about["endpoint"] == minio.endpoint
    assert about["credentials"] == "environment variables"
    assert about["large bodies"] == "fast"
    assert minio.secret not in str(about)
    assert minio.key_id not in str(about)


async def cut(store: S3Store, key: str) -> None:
    """An upload of this key that nobody ends, with one part."""
    where = store.prefix + key
    begun = await store.client.call("create_multipart_upload", where, Key=where)
    await store.client.call("upload_part", where, Key=where, UploadId=begun["UploadId"], PartNumber=1, Body=b"x")


async def test_what_is_unfinished_of_one_key_is_ended_and_of_no_other(minio: Minio, store: S3Store) -> None:
    def uploads() -> set[Path]:
        return {path.parent for path in unfinished(minio)}

    before = uploads()
    for key in ("a/x", "a/x", "a/xy"):
        await cut(store, key)
    assert len(uploads() - before) == 3
    assert await store.telling.tidy("a/x")
    assert len(uploads() - before) == 1
    assert await store.telling.tidy("a/x"), "there is nothing"
    assert await store.telling.tidy("a/xy")
    assert uploads() == before


@pytest.mark.parametrize("narrowed", [without("s3:AbortMultipartUpload")], indirect=True)
async def test_what_may_not_be_ended_is_an_error(narrowed: S3Store) -> None:
    await cut(narrowed, "a/x")
    with pytest.raises(Denied, match="AbortMultipartUpload"):
        await narrowed.telling.tidy("a/x")


async def through(proxy: FaultProxy, bucket: str) -> S3Store:
    return await S3Store.open(f"s3://{bucket}/p", S3Settings.model_validate({"s3_endpoint_url": proxy.endpoint}))


@pytest.mark.slow
@pytest.mark.parametrize("failures", [1, 3])
async def test_a_first_part_that_fails_does_not_keep_the_interruption_waiting(
    minio: Minio, bucket: str, failures: int
) -> None:
    """The senders beside it have their turn, and the upload that is begun once more is interrupted and goes on."""
    before, left = unfinished(minio), failures

    def judge(head: bytes) -> bytes | None:
        nonlocal left
        request = head.partition(b"\r\n")[0]
        if left and b"/upload?" in request and b"partNumber=1" in request:
            left -= 1
            return s3_error(500, "InternalError")
        return None

    async with FaultProxy(minio.port) as proxy:
        proxy.judge = judge
        store = await through(proxy, bucket)
        async with asyncio.timeout(60):
            found, doctor = await answers(store)
        await store.aclose()
    assert left == 0
    assert found["upload"].yes is True
    assert found["resume"] == Answer(True)
    assert not doctor.left
    assert unfinished(minio) == before


@pytest.mark.slow
@pytest.mark.parametrize(("still", "first"), [(0, "reach"), (20_000, "held")])
async def test_a_link_that_stalls_holds_nobody_up(
    minio: Minio, bucket: str, still: int, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing passes, or nothing but small requests. All is over in the time that the help names, here by twenty."""
    for module, name in ((doctor_module, "ASKING"), (doctor_module, "CLEANING"), (link, "LONGEST")):
        monkeypatch.setattr(module, name, getattr(module, name) / 20)
    async with FaultProxy(minio.port) as proxy:
        proxy.closing = True
        store = await through(proxy, bucket)
        proxy.choose = lambda number: Fault(still=still)
        began = time.monotonic()
        async with asyncio.timeout(60):
            found, doctor = await answers(store)
            await store.aclose()
        took = time.monotonic() - began
    assert took < 120 / 20 + 3
    assert doctor.owing
    assert next(key for key, answer in found.items() if answer.yes is None) == first
    assert found[first].said == doctor_module.LATE


@pytest.mark.parametrize("narrowed", [ALL], indirect=True)
@pytest.mark.slow
async def test_the_rights_that_the_readme_names_are_enough(minio: Minio, narrowed: S3Store) -> None:
    before = unfinished(minio)
    found, doctor = await answers(narrowed)
    assert denied(found) == set()
    assert found["versions"].yes is None
    assert "GetBucketVersioning" in found["versions"].said
    assert not doctor.left
    assert unfinished(minio) == before


@pytest.mark.parametrize("narrowed", [without("s3:DeleteObject")], indirect=True)
@pytest.mark.slow
async def test_keys_that_may_not_delete(narrowed: S3Store) -> None:
    found, doctor = await answers(narrowed)
    assert denied(found) == {"delete"}
    assert "DeleteObject" in found["delete"].said
    assert found["upload"].yes is True
    assert [entry.size for entry in doctor.left] == [0] * len(doctor.left)
    assert {entry.key for entry in doctor.left} == {entry.key for entry in await narrowed.list("")}


@pytest.mark.parametrize(
    ("narrowed", "right"),
    [((without(right)), right) for right in ALL if "Multipart" in right],
    indirect=["narrowed"],
)
@pytest.mark.slow
async def test_keys_that_may_not_all_of_multipart_uploads(minio: Minio, narrowed: S3Store, right: str) -> None:
    before = unfinished(minio)
    found, doctor = await answers(narrowed)
    assert denied(found) == {"resume"}
    assert right in found["resume"].said
    assert found["upload"].yes is True
    assert not doctor.left
    left = [path for path in unfinished(minio) if path not in before]
    assert all(path.stat().st_size < 10_000 for path in left), "16 MiB of a part stay"
    assert bool(left) == (right == "s3:AbortMultipartUpload")


@pytest.mark.parametrize("narrowed", [("s3:ListBucket", "s3:GetObject")], indirect=True)
async def test_keys_that_may_only_read(narrowed: S3Store) -> None:
    found, _ = await answers(narrowed)
    assert denied(found) == {"put"}
    assert "PutObject" in found["put"].said
    assert found["clock"].yes is True


async def test_old_versions_that_stay_are_told(minio: Minio, store: S3Store) -> None:
    await store.client.api.put_bucket_versioning(
        Bucket=store.client.place.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    found, doctor = await answers(store, largest=0)
    assert denied(found) == {"versions"}
    assert not doctor.left


async def test_keys_of_files_are_renewed_and_temporary_ones_of_variables_are_not(
    minio: Minio, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asked() -> tuple[Answer, str]:
        opened = await S3Store.open(f"s3://{store.client.place.bucket}/p", S3Settings())
        try:
            told = opened.telling
            return await told.probes()["keys"]("x"), (await told.about())["credentials"]
        finally:
            await opened.aclose()

    assert (await asked())[0].yes is True
    with monkeypatch.context() as temporary:
        for name, value in temporary_keys(minio).items():
            temporary.setenv(name, value)
        assert (await asked())[0].yes is False
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        (tmp_path / name).write_text(os.environ[name])
        monkeypatch.delenv(name)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    answer, source = await asked()
    assert answer.yes is True
    assert "AWS_…_FILE" in source


class Dated(FakeR2):
    """A server whose clock is `ahead` seconds of ours; None: one without a date."""

    def __init__(self, ahead: float | None) -> None:
        super().__init__()
        self.ahead = ahead

    def answer(self, method: str, target: str, headers: Headers, body: bytes) -> Reply:
        reply = super().answer(method, target, headers, body)
        if self.ahead is not None:
            now = datetime.now(UTC) + timedelta(seconds=self.ahead)
            reply.headers["Date"] = format_datetime(now, usegmt=True)
        return reply


@pytest.mark.parametrize(
    ("ahead", "yes", "said"),
    [
        (0, True, "within"),
        (-30, True, "behind"),
        (90, False, "ahead"),
        (-2000, False, "behind"),
        (None, None, "no date"),
    ],
)
async def test_a_clock_that_differs_is_told(ahead: float | None, yes: bool | None, said: str) -> None:
    async with opened(Dated(ahead)) as store:
        answer = await store.telling.probes()["clock"]("x")
    assert answer.yes is yes
    assert said in answer.said
    assert not ahead or answer.value == pytest.approx(ahead, abs=2)


class Compares(FakeR2):
    """A server that compares CRC-64/NVME and, unless it `names` it, answers without it."""

    def __init__(self, *, names: bool) -> None:
        super().__init__()
        self.names = names

    def check(self, method: str, key: str, query: Headers, headers: Headers, body: bytes) -> Reply | None:
        from syncd_s3.upload import checksum

        said = headers.get("x-amz-checksum-crc64nvme")
        if method == "PUT" and said and said != checksum(sum_bytes(body).digest):
            return refusal(400, "XAmzContentChecksumMismatch")
        return super().check(method, key, query, headers, body)

    def stored(self, headers: Headers) -> Headers:
        return super().stored(headers) if self.names else {}


async def test_what_a_server_does_with_checksums_is_tried() -> None:
    async def asked(fake: FakeS3, profile: str) -> Answer:
        async with opened(fake, s3_profile=profile) as store:
            return await store.telling.probes()["checksums"]("x")

    assert (await asked(FakeR2(), "r2")) == Answer(False, "a wrong CRC-64/NVME was taken")
    assert (await asked(Compares(names=True), "r2")).said == "CRC-64/NVME, of each part and of the whole"
    assert "read back" in (await asked(Compares(names=False), "r2")).said
    assert (await asked(FakeGcs(), "gcs")) == Answer(True, "MD5, of each part as it arrives")


@pytest.mark.slow
async def test_a_server_that_ignores_the_condition_is_found_and_what_is_tried_there_is_removed() -> None:
    fake = FakeOldRgw()
    async with opened(fake, s3_profile="ceph") as store:
        found, _ = await answers(store)
    assert "create" in denied(found)
    assert fake.objects == {}


def test_a_proxys_password_is_not_told() -> None:
    from syncd_s3.telling import _shown

    assert _shown("http://user:canary@proxy:3128") == "http://proxy:3128"
    assert _shown(None) == ""
