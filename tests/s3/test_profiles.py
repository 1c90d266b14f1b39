"""Kinds of S3 servers: chosen by the endpoint, each spoken to in its own way, the same checkpoints in all."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from syncd_s3 import S3Settings
from syncd_s3.profiles import PROFILES, choose
from syncd_s3.store import S3Store
from syncd_s3.wire import Request, Wire

from syncd.errors import ConfigError, Denied, Exists, Torn
from syncd.model.checkpoint import RANGE
from syncd.model.keys import Keys
from syncd.move.start import claim
from syncd.store import Source
from syncd.testing import open_gate, source_of

from .fakes import FakeGcs, FakeOldRgw, FakeR2, FakeS3, opened


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "aws"),
        ("https://bucket.s3.cn-north-1.amazonaws.com.cn", "aws"),
        ("https://0123abcd.r2.cloudflarestorage.com", "r2"),
        ("https://0123abcd.eu.r2.cloudflarestorage.com/", "r2"),
        ("https://storage.googleapis.com", "gcs"),
        ("https://s3.eu-central-003.backblazeb2.com", "b2"),
        ("http://127.0.0.1:9000", "generic"),
        ("https://amazonaws.com.example.org", "generic"),
        ("https://notamazonaws.com", "generic"),
    ],
)
def test_a_profile_is_chosen_by_the_endpoints_host(endpoint: str, name: str) -> None:
    assert choose(endpoint).name == name
    assert choose(endpoint, "ceph").name == "ceph", "what is set wins"


def test_readme_has_every_profile_as_it_is() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for name, profile in PROFILES.items():
        (row,) = (line for line in readme.splitlines() if line.startswith(f"| `{name}` |"))
        assert profile.lacks in row
        assert ("MD5" if profile.checksum == "md5" else "CRC-64/NVME") in row
        assert ("If-None-Match" if profile.create == "if-none-match" else "x-goog-if-generation-match") in row


KINDS: list[tuple[Callable[[], FakeS3], str]] = [(FakeR2, "r2"), (FakeGcs, "gcs"), (FakeOldRgw, "ceph")]


@pytest.mark.parametrize("path", ["fast", "signed", "sdk"])
@pytest.mark.parametrize(("kind", "profile"), KINDS, ids=[profile for _, profile in KINDS])
async def test_what_is_stored_comes_back_from_every_kind(
    kind: Callable[[], FakeS3], profile: str, path: str, tmp_path: Path
) -> None:
    async with opened(kind(), s3_profile=profile, s3_path=path) as store:
        await store.put("small", b"small")
        assert await store.get("small") == b"small"
        for size in (0, 1000, RANGE + 1000):
            content = os.urandom(size)
            with source_of(tmp_path / "f", content) as source:
                await store.upload(f"of-{size}", source, open_gate)
            assert await store.get(f"of-{size}") == content


@pytest.mark.parametrize(("kind", "profile"), [(FakeR2, "r2"), (FakeGcs, "gcs")])
async def test_I3_create_is_refused_where_something_is_in_the_kinds_own_words(
    kind: Callable[[], FakeS3], profile: str
) -> None:
    async with opened(kind(), s3_profile=profile) as store:
        await store.create("claim", b"mine")
        with pytest.raises(Exists):
            await store.create("claim", b"another's")
        assert await store.get("claim") == b"mine"
        await store.put("claim", b"replaced")
        assert await store.get("claim") == b"replaced", "a plain put has no condition"


async def test_google_spoken_to_as_amazon_is_a_plain_refusal_and_no_overwrite() -> None:
    async with opened(FakeGcs(), s3_profile="generic") as store:
        with pytest.raises(Denied):
            await store.create("claim", b"mine")


async def test_I3_a_server_that_ignores_the_condition_is_refused_when_a_task_is_claimed() -> None:
    async with opened(FakeOldRgw(), s3_profile="ceph") as store:
        with pytest.raises(ConfigError, match="SYNCD_SINGLE_WRITER=1"):
            await claim(store, Keys("task"), node="n", now=0.0)
        assert (await claim(store, Keys("task"), node="n", now=0.0, single_writer=True)).attempt == 2


@pytest.mark.parametrize("size", [1000, RANGE + 1000])
async def test_I1_with_md5_a_body_that_was_damaged_on_the_way_is_refused(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Wire.exchange

    async def damaged(self: Wire, request: Request) -> Any:
        other = tmp_path / "other"
        if request.body and not other.exists():
            other.write_bytes(os.urandom(size))
            fd = os.open(other, os.O_RDONLY)
            try:
                body = type(request.body)(fd, request.body.offset, request.body.length)
                return await original(self, Request(request.method, request.url, request.headers, body))
            finally:
                os.close(fd)
        return await original(self, request)

    monkeypatch.setattr(Wire, "exchange", damaged)
    fake = FakeGcs()
    async with opened(fake, s3_profile="gcs") as store:
        content = os.urandom(size)
        with source_of(tmp_path / "f", content) as source:
            with pytest.raises(Exception, match="damaged on the way"):
                await store.upload("x", source, open_gate)
            assert "p/x" not in fake.objects
            await store.upload("x", source, open_gate)
        assert fake.objects["p/x"] == content


async def test_I6_with_md5_a_file_that_changed_after_it_was_summed_is_torn(tmp_path: Path) -> None:
    async with opened(FakeGcs(), s3_profile="gcs") as store:
        with source_of(tmp_path / "f", b"x" * 1000) as source:
            (tmp_path / "f").write_bytes(b"y" * 1000)
            fd = os.open(tmp_path / "f", os.O_RDONLY)
            try:
                with pytest.raises(Torn):
                    await store.upload("x", Source(fd, 1000, source.sum), open_gate)
            finally:
                os.close(fd)


@pytest.mark.parametrize("path", ["fast", "signed", "sdk"])
async def test_what_the_settings_add_is_on_every_request_that_may_have_it(path: str, tmp_path: Path) -> None:
    fake = FakeR2()
    extra = {"s3_sse": "aws:kms", "s3_sse_kms_key_id": "key-1", "s3_storage_class": "STANDARD_IA"}
    async with opened(fake, s3_requester_pays=True, s3_path=path, **extra) as store:
        with source_of(tmp_path / "f", os.urandom(RANGE + 5)) as source:
            await store.upload("large", source, open_gate)
        await store.put("small", b"x")
        with (tmp_path / "into").open("w+b") as file:
            await store.fetch("large", 0, 10, file.fileno())
        await store.list("")
        await store.delete("small")
    assert {method for method, _, _ in fake.requests} >= {"GET", "PUT", "POST", "DELETE"}
    assert all(headers.get("x-amz-request-payer") == "requester" for _, _, headers in fake.requests)
    new = [headers for _, _, headers in fake.requests if "x-amz-server-side-encryption" in headers]
    assert len(new) == 2, "the small object, and the beginning of the large one"
    for headers in new:
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
        assert headers["x-amz-storage-class"] == "STANDARD_IA"
        assert "x-amz-server-side-encryption" in headers["authorization"], "signed too"


async def test_a_kms_key_without_kms_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="SYNCD_S3_SSE=aws:kms"):
        await S3Store.open("s3://bucket", S3Settings(s3_sse_kms_key_id="key-1"))


async def test_a_storage_class_that_minio_knows_is_taken(bucket: str, tmp_path: Path) -> None:
    store = await S3Store.open(f"s3://{bucket}", S3Settings(s3_storage_class="REDUCED_REDUNDANCY", s3_profile="minio"))
    with source_of(tmp_path / "f", b"x" * 1000) as source:
        await store.upload("x", source, open_gate)
    answer = await store.client.call("head_object", "x", Key="x")
    assert answer["StorageClass"] == "REDUCED_REDUNDANCY"
    await store.aclose()


async def test_encryption_that_the_server_lacks_is_said_in_a_line(bucket: str) -> None:
    store = await S3Store.open(f"s3://{bucket}", S3Settings(s3_sse="AES256"))
    with pytest.raises(Denied) as caught:
        await store.put("x", b"x")
    assert len(str(caught.value).splitlines()) == 1
    assert "SYNCD_S3_SSE" in str(caught.value)
    await store.aclose()


async def test_the_profile_is_printed(bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "syncd.s3"):
        store = await S3Store.open(f"s3://{bucket}", S3Settings(s3_profile="minio"))
    await store.aclose()
    (line,) = (record for record in caplog.records if record.message == "s3.profile")
    assert line.fields == {"profile": "minio", "lacks": PROFILES["minio"].lacks, "way": "fast"}  # type: ignore[attr-defined]
