"""Whatever one answer of the store is, what ends up committed is what the trainer wrote.

A node claims, pushes a checkpoint and commits through a proxy that spoils one connection after the other between it and
a real MinIO: with every status, cut or damaged at every place, answered twice. A second node, on a way that is sound,
then restores, and every commit is verified byte for byte. `make faults` runs all of it, `make test` a part by a seed.
"""

import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from syncd_s3 import S3Settings
from syncd_s3.store import S3Store

from syncd.errors import StoreError
from syncd.model.checkpoint import RANGE
from syncd.store.wrap import Retrying
from syncd.testing import Fault, FaultProxy, Node, s3_error, verify
from syncd.testing.servers import Minio

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_operator")]
ALL = bool(os.environ.get("SYNCD_TEST_ALL_FAULTS"))
SHARE = 60
"""Cases of the campaign that `make test` runs."""

CODES: dict[int, str] = {
    200: "InternalError", 204: "", 206: "", 301: "PermanentRedirect", 302: "Found", 304: "NotModified",
    307: "TemporaryRedirect", 308: "PermanentRedirect", 400: "BadRequest", 401: "Unauthorized", 403: "AccessDenied",
    404: "NoSuchKey", 405: "MethodNotAllowed", 408: "RequestTimeout", 409: "OperationAborted", 410: "Gone",
    411: "MissingContentLength", 412: "PreconditionFailed", 413: "EntityTooLarge", 416: "InvalidRange",
    417: "ExpectationFailed", 418: "Teapot", 421: "Misdirected", 425: "TooEarly", 429: "TooManyRequests",
    431: "RequestHeaderSectionTooLarge", 500: "InternalError", 501: "NotImplemented", 502: "BadGateway",
    503: "SlowDown", 504: "GatewayTimeout", 505: "VersionNotSupported", 507: "InsufficientStorage",
    509: "BandwidthLimitExceeded", 520: "Unknown", 599: "NetworkConnectTimeout",
}  # fmt: skip
WORDS = [
    (400, "BadDigest"), (400, "XAmzContentChecksumMismatch"), (400, "InvalidDigest"), (400, "IncompleteBody"),
    (400, "RequestTimeout"), (400, "EntityTooSmall"), (400, "InvalidPart"), (400, "InvalidPartOrder"),
    (400, "ExpiredToken"), (400, "MalformedXML"), (400, "InvalidArgument"), (403, "RequestTimeTooSkewed"),
    (403, "SignatureDoesNotMatch"), (403, "InvalidAccessKeyId"), (404, "NoSuchUpload"), (404, "NoSuchBucket"),
    (409, "ConditionalRequestConflict"), (503, "ServiceUnavailable"), (503, "XMinioServerNotInitialized"),
]  # fmt: skip
PAGE = b"<html><body>captive</body></html>"
CONNECTIONS = range(20)
"""Which connection is spoilt: the claim's, the parts', the manifest's."""
CUTS = [0, 1, 17, 100, 300, 700, 2_000, 65_536, RANGE // 2, RANGE - 1, RANGE, RANGE + 500]


def faults() -> Iterator[tuple[str, Fault]]:
    for status, code in [*CODES.items(), *WORDS]:
        yield f"{status} {code}", Fault(answer=s3_error(status, code))
    yield "a page", Fault(answer=b"HTTP/1.1 200 x\r\nContent-Type: text/html\r\nContent-Length: 33\r\n\r\n" + PAGE)
    yield "an empty 200", Fault(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    yield "another ETag", Fault(answer=b'HTTP/1.1 200 OK\r\nETag: "00"\r\nContent-Length: 0\r\n\r\n')
    wrong = b'HTTP/1.1 200 OK\r\nETag: "00"\r\nx-amz-checksum-crc64nvme: AAAAAAAAAAA=\r\nContent-Length: 0\r\n\r\n'
    yield "another checksum", Fault(answer=wrong)
    yield "twice", Fault(way="back", twice=True)
    for at in CUTS:
        yield f"cut there at {at}", Fault(cut=at)
        yield f"reset there at {at}", Fault(reset=at)
        yield f"cut back at {at}", Fault(way="back", cut=at)
        yield f"still there at {at}", Fault(still=at)
        yield f"damaged there at {at}", Fault(corrupt=at)
    for at in range(0, 1_000, 27):
        yield f"damaged back at {at}", Fault(way="back", corrupt=at)


def cases() -> list[Any]:
    every = [(name, fault, number) for name, fault in faults() for number in CONNECTIONS]
    if not ALL:
        seed = int(os.environ.get("SYNCD_TEST_SEED") or 1)  # the same part each time: `make faults` finds what is new
        print(f"seed: SYNCD_TEST_SEED={seed}")
        every = random.Random(seed).sample(every, SHARE)
    return [pytest.param(fault, number, id=f"{name}, connection {number}") for name, fault, number in every]


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        server.make_bucket("bucket")
        yield server


async def _at_once(seconds: float) -> None:
    """No pause between tries."""


@pytest.fixture
async def proxy(minio: Minio) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(minio.port) as made:
        yield made


_prefixes = iter(range(1 << 30))


@pytest.mark.parametrize(("fault", "number"), cases())
async def test_I1_what_is_committed_is_what_was_written_whatever_one_answer_is(
    proxy: FaultProxy, ram_path: Path, fault: Fault, number: int
) -> None:
    url = f"s3://bucket/{next(_prefixes)}"
    spoilt = await S3Store.open(url, S3Settings(s3_endpoint_url=proxy.endpoint, s3_timeout=0.5))
    opened = proxy.connections
    proxy.choose = lambda at: fault if at == opened + number else None
    proxy.closing = True  # each request has a connection of its own, so that every place of the protocol is met
    retrying = Retrying(spoilt, sleep=_at_once)
    retrying.patient = True  # as once a trainer depends on us: a refusal is waited out
    large = random.Random(number).randbytes(RANGE + 1000)
    first = Node(retrying, ram_path / "first")
    try:
        await first.boot()
        (first.save(1, marker=False) / "large.bin").write_bytes(large)
        (first.root / "checkpoint-1" / "_SUCCESS").write_text("")
        await first.push_all()
    except StoreError as error:
        assert "\n" not in str(error)
    finally:
        await spoilt.aclose()
    sound = await S3Store.open(url, S3Settings())
    try:
        second = Node(sound, ram_path / "second")
        begun = await second.boot()
        if begun.checkpoint:
            assert second.holds(1)
            assert (second.root / "checkpoint-1" / "large.bin").read_bytes() == large
        second.save(2)
        await second.push_all()
        await verify(sound)
        assert [found.manifest.name for found in second.keeper.commits] == ["checkpoint-2"]
    finally:
        await sound.aclose()
