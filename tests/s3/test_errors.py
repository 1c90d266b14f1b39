"""Each way to fail is of the right class and says in one line what to do; no secret is in it."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from syncd_s3 import S3Settings
from syncd_s3.client import Client
from syncd_s3.paths import Paths
from syncd_s3.store import S3Store

from syncd.errors import ConfigError, Denied, Exists, NotFound, SlowDown, StoreError, SyncdError, Transient
from syncd.model.checkpoint import RANGE
from syncd.testing import open_gate, source_of
from syncd.testing.servers import Minio, free_port

HTML = b"<!doctype html><html><head><title>Console</title></head><body><br>Hi</body></html>"


def check_line(error: BaseException) -> str:
    """The message: one line that holds no secret."""
    said = str(error)
    assert "\n" not in said
    assert len(said) < 400
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") is None or os.environ["AWS_SECRET_ACCESS_KEY"] not in said
    assert os.environ.get("AWS_ACCESS_KEY_ID", "????") not in said
    return said


async def opening(kind: type[SyncdError], url: str = "s3://bucket/prefix", **settings: Any) -> str:
    """What opening says, which must fail with this class."""
    with pytest.raises(kind) as caught:
        store = await S3Store.open(url, S3Settings(**settings))
        await store.aclose()
    return check_line(caught.value)


async def test_an_unknown_bucket(minio: Minio) -> None:
    assert "no bucket has this name" in await opening(Denied, "s3://nowhere-to-be-found")


async def test_an_unknown_key(minio: Minio, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    said = await opening(Denied, f"s3://{bucket}")
    assert "AKIA…MPLE is not known" in said


async def test_a_wrong_secret(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-that-it-should-be")
    assert "secret does not belong" in await opening(Denied, f"s3://{bucket}")


async def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Unable to locate credentials" in await opening(Denied, f"s3://{bucket}")


async def test_half_of_the_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "AWS_SECRET_ACCESS_KEY" in await opening(Denied, f"s3://{bucket}")


async def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in await opening(ConfigError)


async def test_an_unknown_host() -> None:
    assert "name is not known" in await opening(Denied, s3_endpoint_url="http://nosuchhost.invalid:9000")


async def test_a_closed_port() -> None:
    assert "refused" in await opening(Transient, s3_endpoint_url=f"http://127.0.0.1:{free_port()}")


async def test_a_server_that_does_not_answer(canned: Any) -> None:
    canned.stall = True
    assert "in time" in await opening(Transient, s3_endpoint_url=canned.endpoint, s3_timeout=0.1)


async def test_plain_http_behind_https(canned: Any) -> None:
    said = await opening(Denied, s3_endpoint_url=canned.endpoint.replace("http:", "https:"))
    assert "does not speak TLS" in said


async def test_a_page_for_people_instead_of_s3(canned: Any) -> None:
    canned.say(200, body=HTML, content_type="text/html; charset=utf-8")
    assert "not S3's" in await opening(Denied, s3_endpoint_url=canned.endpoint)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "s3://bucket:9000/x",
        "s3://bucket/a//b",
        "s3://bucket/../x",
        "s3://bucket/x?y=1",
        "s3://key:hidden@bucket/x",
    ],
)
async def test_a_url_that_cannot_be(url: str) -> None:
    assert "hidden" not in await opening(ConfigError, url)


async def test_settings_that_cannot_be(tmp_path: Path) -> None:
    assert "No such file" in await opening(ConfigError, s3_ca_bundle=tmp_path / "absent.pem")
    (tmp_path / "empty.pem").write_text("no certificate")
    assert "cannot be read" in await opening(ConfigError, s3_ca_bundle=tmp_path / "empty.pem")
    assert "nonsense" in await opening(ConfigError, s3_endpoint_url="nonsense")


CODES: list[tuple[int, str, type[StoreError], str]] = [
    (403, "AccessDenied", Denied, "may not ListObjectsV2"),
    (403, "AllAccessDisabled", Denied, "disabled"),
    (403, "RequestTimeTooSkewed", Denied, "clock"),
    (400, "ExpiredToken", Denied, "has expired"),
    (400, "InvalidToken", Denied, "not valid"),
    (301, "PermanentRedirect", Denied, "SYNCD_S3_REGION=moon-1"),
    (400, "AuthorizationHeaderMalformed", Denied, "SYNCD_S3_REGION=moon-1"),
    (501, "NotImplemented", Denied, "SYNCD_S3_PROFILE"),
    (400, "SomethingNew", Denied, "SomethingNew: as said here"),
    (400, "RequestTimeout", Transient, "RequestTimeout"),
    (400, "IncompleteBody", Transient, "IncompleteBody"),
    (409, "OperationAborted", Transient, "OperationAborted"),
    (429, "TooManyRequests", SlowDown, "TooManyRequests"),
    (429, "", SlowDown, "429"),
    (500, "InternalError", Transient, "InternalError"),
    (503, "SlowDown", SlowDown, "SlowDown"),
    (503, "", Transient, "503"),
    (502, "", Transient, "502"),
    (507, "XMinioStorageFull", Transient, "XMinioStorageFull"),
    (403, "", Denied, "may not"),
    (404, "", Denied, "404"),
    (404, "NoSuchKey", Denied, "NoSuchKey"),
    (412, "PreconditionFailed", Transient, "PreconditionFailed"),
    (416, "InvalidRange", Transient, "InvalidRange"),
]


@pytest.mark.parametrize(
    ("status", "code", "kind", "said"), CODES, ids=[f"{status}-{code}" for status, code, _, _ in CODES]
)
async def test_an_answer_by_its_code(canned: Any, status: int, code: str, kind: type[StoreError], said: str) -> None:
    canned.say(status, code)
    assert said in await opening(kind, s3_endpoint_url=canned.endpoint)
    assert len(canned.requests) <= 2, "the wrapper repeats, not the backend"


@pytest.fixture
async def canned_store(canned: Any) -> Any:
    canned.say(200, body=b"<ListBucketResult></ListBucketResult>")
    store = await S3Store.open("s3://bucket", S3Settings(s3_endpoint_url=canned.endpoint, s3_timeout=0.5))
    yield store
    await store.aclose()


@pytest.mark.parametrize(
    ("status", "code", "put", "create"),
    [
        (412, "PreconditionFailed", Transient, Exists),
        (409, "ConditionalRequestConflict", Transient, Transient),
        (404, "NoSuchKey", Transient, Transient),
        (404, "NoSuchBucket", Denied, Denied),
        (503, "SlowDown", Transient, Transient),
        (400, "BadDigest", Transient, Transient),
    ],
)
async def test_a_refused_put(
    canned: Any, canned_store: S3Store, status: int, code: str, put: type[StoreError], create: type[StoreError]
) -> None:
    canned.say(status, code)
    for kind, verb in ((put, canned_store.put), (create, canned_store.create)):
        with pytest.raises(kind) as caught:
            await verb("x", b"data")
        check_line(caught.value)
    assert "if-none-match: *" in canned.requests[-1].lower()


async def test_an_absent_object_by_status_alone(canned: Any, canned_store: S3Store) -> None:
    canned.say(404)
    with pytest.raises(NotFound):
        await canned_store.get("x")
    with pytest.raises(NotFound):
        await canned_store.get("x", 0, 0)
    await canned_store.delete("x")


async def test_a_truncated_body_is_transient(canned: Any, canned_store: S3Store) -> None:
    canned.say(200, body=b"x" * 100_000)
    canned.short = 1
    with pytest.raises(Transient) as caught:
        await canned_store.get("x")
    check_line(caught.value)


async def test_a_server_without_ranges_is_denied(canned: Any, canned_store: S3Store) -> None:
    canned.say(200, body=b"x" * 1000)
    with pytest.raises(Denied, match="ranges"):
        await canned_store.get("x", 5, 10)


async def test_a_server_that_never_says_continue_is_given_up(
    canned: Any, canned_store: S3Store, tmp_path: Path
) -> None:
    canned.stall = True
    await canned_store.paths.aclose()
    canned_store.paths = Paths.of(canned_store.client, "sdk")
    with source_of(tmp_path / "f", b"x" * RANGE) as source, pytest.raises(Transient, match="in time"):
        await canned_store.upload("x", source, open_gate)
    assert "expect: 100-continue" in canned.requests[-1].lower()


@pytest.mark.parametrize("code", ["InvalidPart", "EntityTooSmall", "NoSuchUpload"])
async def test_parts_that_do_not_fit_are_thrown_away(canned: Any, canned_store: S3Store, code: str) -> None:
    canned.say(400, code)
    with pytest.raises(Transient, match="anew"):
        await canned_store.client.call("complete_multipart_upload", "x", Key="x", UploadId="1")


async def test_an_error_that_comes_late_under_status_200_is_transient(canned: Any, canned_store: S3Store) -> None:
    canned.say(200, "InternalError")
    with pytest.raises(Transient):
        await canned_store.client.call("complete_multipart_upload", "x", Key="x", UploadId="1")


async def test_an_answer_with_a_date_that_is_none_is_transient(canned: Any, canned_store: S3Store) -> None:
    upload = b"<Upload><Key>x</Key><UploadId>1</UploadId><Initiated>2026-11-25T23:18;50.855Z</Initiated></Upload>"
    canned.say(200, body=b"<ListMultipartUploadsResult>" + upload + b"</ListMultipartUploadsResult>")
    with pytest.raises(Transient, match="cannot be read") as caught:
        await canned_store.client.pages("list_multipart_uploads", "x", Prefix="x")
    check_line(caught.value)


async def test_a_key_that_is_too_long(store: S3Store) -> None:
    calls: list[Callable[[str], Awaitable[object]]] = [store.get, store.delete, lambda key: store.put(key, b"")]
    for call in calls:
        with pytest.raises(Denied, match="1024 bytes"):
            await call("ü" * 510)


async def test_an_error_that_is_ours_is_not_hidden(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(self: Client, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("a bug")

    monkeypatch.setattr(Client, "_request", wrong)
    with pytest.raises(KeyError):
        await store.get("x")


@pytest.mark.slow
async def test_tls_is_verified_and_a_ca_file_is_enough(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Minio(tmp_path / "tls", certificates=certificates) as server:
        server.make_bucket("bucket")
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        said = await opening(Denied, "s3://bucket")
        assert "not trusted" in said
        assert "SYNCD_S3_CA_BUNDLE" in said
        content = os.urandom(2 * RANGE + 5)
        settings = S3Settings(s3_ca_bundle=certificates / "public.crt")
        store = await S3Store.open("s3://bucket", settings)
        with source_of(tmp_path / "f", content) as source:
            await store.upload("f", source, open_gate)
        assert b"".join([await store.get("f", n * RANGE, RANGE) for n in range(3)]) == content
        await store.aclose()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates / "public.crt"))
        await (await S3Store.open("s3://bucket", S3Settings())).aclose()


@pytest.mark.parametrize(
    "body", [b"<x/>", b"<InitiateMultipartUploadResult><UploadIx>1</UploadIx></InitiateMultipartUploadResult>"]
)
async def test_an_answer_that_lacks_what_it_should_say_passes(canned: Any, canned_store: S3Store, body: bytes) -> None:
    canned.say(206, body=body)
    answer = await canned_store.client.call("create_multipart_upload", "f", Key="f")
    with pytest.raises(Transient, match="without UploadId"):
        answer["UploadId"]


async def test_a_listing_whose_names_were_damaged_passes(canned: Any, canned_store: S3Store) -> None:
    canned.say(200, body=b"<ListBucketResult><Contents><Kex>a</Kex><Size>1</Size></Contents></ListBucketResult>")
    with pytest.raises(Transient, match="without Key"):
        await canned_store.list("p/")
