"""Between the S3 store and a real MinIO things go wrong: what is stored is the file's bytes, or nothing is."""

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from syncd_s3 import S3Settings
from syncd_s3.direct import DirectPath
from syncd_s3.store import S3Store
from syncd_s3.wire import Wire

from syncd.errors import NotFound
from syncd.local.digest import sum_bytes
from syncd.model.checkpoint import RANGE
from syncd.store import Entry
from syncd.store.wrap import Retrying
from syncd.testing import Fault, FaultProxy, first, open_gate, s3_error, source_of
from syncd.testing.servers import Minio

pytestmark = pytest.mark.slow
SIZE = 2 * RANGE + 1000


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture(autouse=True)
def aws(minio: Minio, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in minio.env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def proxy(minio: Minio) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(minio.port) as made:
        yield made


async def _at_once(seconds: float) -> None:
    """No pause between tries: what comes after the fault is what counts."""


@pytest.fixture
async def store(proxy: FaultProxy, path: str) -> AsyncIterator[Retrying]:
    settings = S3Settings.model_validate({"s3_endpoint_url": proxy.endpoint, "s3_timeout": 1.0, "s3_path": path})
    opened = await S3Store.open("s3://bucket/p", settings)
    retrying = Retrying(opened, sleep=_at_once)
    retrying.patient = True  # as after the claim: an odd refusal (of a damaged request, say) ends nothing
    yield retrying
    await opened.aclose()


async def _what_is_there(name: str) -> bytes | None:
    """The object past the proxy, None where there is none."""
    straight = await S3Store.open("s3://bucket/p", S3Settings())
    try:
        return await straight.get(name)
    except NotFound:
        return None
    finally:
        await straight.aclose()


PASSING = {
    "500": Fault(answer=s3_error(500, "InternalError")),
    "502": Fault(answer=s3_error(502, "BadGateway")),
    "503": Fault(answer=s3_error(503, "SlowDown")),
    "504": Fault(answer=s3_error(504, "GatewayTimeout")),
    "429": Fault(answer=s3_error(429, "TooManyRequests")),
    "RequestTimeout": Fault(answer=s3_error(400, "RequestTimeout")),
    "truncated answer": Fault(answer=s3_error(500, "InternalError")[:-20]),
    "no answer": Fault(answer=b""),
    "no HTTP": Fault(answer=b"hello\r\n\r\n"),
    "refused": Fault(refuse=True),
    "reset in the head": Fault(reset=200),
    "reset in a part": Fault(reset=RANGE // 2),
    "cut in a part": Fault(cut=RANGE // 2),
    "reset before the answer": Fault(way="back", reset=1),
    "cut in the answer": Fault(way="back", cut=100),
    "half-open in a part": Fault(still=RANGE // 2),
    "black hole": Fault(hole=True),
    "a byte of the body": Fault(corrupt=RANGE // 2),
    "a byte of a small body": Fault(corrupt=3000),
    "slow": Fault(way="back", latency=0.1),
}


BY_SDK = ("503", "reset in a part", "half-open in a part", "a byte of the body", "a byte of a small body")
CASES = [("fast", name) for name in PASSING] + [(path, name) for path in ("signed", "sdk") for name in BY_SDK]


@pytest.mark.parametrize(("path", "name"), CASES)
async def test_I1_what_passes_is_waited_out_and_the_stored_bytes_are_the_files(
    store: Retrying, proxy: FaultProxy, tmp_path: Path, path: str, name: str
) -> None:
    content, key = os.urandom(SIZE), f"up/{name}/{id(store)}"
    proxy.choose = first(4, PASSING[name])
    await _new_connections(store)
    with source_of(tmp_path / "f", content) as source:
        await store.upload(key, source, open_gate)
    assert await store.list(f"up/{name}/") == [Entry(key, SIZE)]
    stored = await _what_is_there(key)
    assert stored is not None
    assert sum_bytes(stored) == sum_bytes(content)
    await store.delete(key)


@pytest.mark.parametrize(("path", "name"), CASES)
async def test_a_range_that_is_fetched_is_the_objects_or_does_not_match(
    store: Retrying, proxy: FaultProxy, tmp_path: Path, path: str, name: str
) -> None:
    content, key = os.urandom(RANGE), f"down/{name}/{id(store)}"
    with source_of(tmp_path / "f", content) as source:
        await store.upload(key, source, open_gate)
    fault = PASSING[name]
    proxy.choose = first(2, replace(fault, way="back"))
    await _new_connections(store)
    into = os.open(tmp_path / "into", os.O_RDWR | os.O_CREAT)
    try:
        came = await store.fetch(key, 0, RANGE, into)
        written = sum_bytes(os.pread(into, RANGE + 1, 0))
    finally:
        os.close(into)
    assert came.nbytes == RANGE
    assert came.digest in (None, written.digest), "it says what is in the file"
    # Nothing vouches for a body on its way back but the manifest's digest: whoever fetched it compares.
    assert written == sum_bytes(content) or fault.corrupt is not None
    await store.delete(key)


async def _new_connections(store: Retrying) -> None:
    """Faults come with connections: those that are open pass unharmed."""
    inner = store.inner
    assert isinstance(inner, S3Store)
    for way in inner.paths.ways:
        if isinstance(way, DirectPath) and isinstance(way.carrier, Wire):
            way.carrier.drop_idle()
