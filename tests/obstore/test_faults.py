"""What goes wrong between the store of obstore and a service: a class, one line, and nothing left behind."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from obstore import exceptions as obs
from syncd_obstore import ObstoreSettings, open_store
from syncd_obstore.errors import translate
from syncd_obstore.store import ObstoreStore
from syncd_obstore.upload import PART, PARTS, part_of
from syncd_s3 import S3Settings
from syncd_s3.store import S3Store

from syncd.errors import ConfigError, Denied, Exists, NotFound, SyncdError, Torn, Transient
from syncd.model.checkpoint import RANGE
from syncd.testing import Fault, FaultProxy, first, open_gate, s3_error, source_of
from syncd.testing.servers import Minio, free_port


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


async def opened(url: str = "obstore+s3://bucket/p", **settings: Any) -> ObstoreStore:
    return await ObstoreStore.open(url, ObstoreSettings(**settings))


async def opening(kind: type[SyncdError], url: str = "obstore+s3://bucket/p", **settings: Any) -> str:
    """What opening says, which must fail with this class: one line without a secret."""
    with pytest.raises(kind) as caught:
        await opened(url, **settings)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said
    return said


async def unfinished() -> list[str]:
    """Keys of the multipart uploads that the server still holds."""
    store = await S3Store.open("s3://bucket/p", S3Settings())
    try:
        answer = await store.client.call("list_multipart_uploads", "p/", Prefix="p/torn")
        return [upload["Key"] for upload in answer.get("Uploads", [])]
    finally:
        await store.aclose()


async def test_an_unknown_bucket() -> None:
    assert "no bucket or container has this name" in await opening(Denied, "obstore+s3://nowhere/p")


async def test_a_wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-that-it-should-be")
    assert "set the service's credentials" in await opening(Denied)


async def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    assert "the connection broke or was refused" in await opening(Transient)


async def test_a_host_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://no-such-host.invalid:9000")
    await opening(SyncdError)  # without a resolver the library cannot tell an unknown name from one not answered now


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("az://user:canary@container/p", "do not belong in the URL"),
        ("gs://bucket/p?sig=canary", "do not belong in the URL"),
        ("gs://bucket/../p", "the prefix holds"),
        ("obstore+ftp://bucket/p", "ftp"),
        ("obstore+s3://", "SYNCD_STORE"),
    ],
)
async def test_a_url_that_cannot_be(url: str, word: str) -> None:
    said = await opening(ConfigError, url)
    assert word in said
    assert "canary" not in said


async def test_a_bundle_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in await opening(ConfigError, obstore_ca_bundle=tmp_path / "absent.pem")


@pytest.mark.parametrize("url", ["s3://bucket/p", "file:///x", "sample:///x"])
async def test_other_urls_are_left_to_others(url: str) -> None:
    class Event:
        settings = ObstoreSettings()

    Event.url = url  # type: ignore[attr-defined]
    assert await open_store(Event()) is None  # type: ignore[arg-type]


async def test_I6_a_torn_upload_leaves_no_parts(tmp_path: Path) -> None:
    store = await opened()
    with source_of(tmp_path / "f", os.urandom(2 * RANGE)) as source:
        with (tmp_path / "f").open("r+b") as file:
            file.seek(-5, os.SEEK_END)
            file.write(b"other")
        with pytest.raises(Torn):
            await store.upload("torn", source, open_gate)
    assert await unfinished() == []


async def test_a_cancelled_upload_leaves_no_parts_and_reads_no_more(tmp_path: Path) -> None:
    store, second = await opened(), asyncio.Event()
    entered = 0

    @asynccontextmanager
    async def gate(nbytes: int) -> AsyncIterator[None]:
        nonlocal entered
        entered += 1
        if entered == 2:
            second.set()
            await asyncio.Event().wait()
        yield

    with source_of(tmp_path / "f", os.urandom(2 * RANGE)) as source:
        task = asyncio.create_task(store.upload("torn", source, gate))
        await second.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await unfinished() == []
    assert await store.list("") == []


FAULTS = {
    "refused": Fault(refuse=True),
    "cut on the way there": Fault(cut=1 << 20),
    "reset on the way there": Fault(reset=1 << 20),
    "black hole": Fault(hole=True),
    "half open": Fault(still=1 << 20),
    "503": Fault(answer=s3_error(503, "SlowDown")),
    "500": Fault(answer=s3_error(500, "InternalError")),
    "one byte is another": Fault(corrupt=3 << 20),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_the_network_is_transient_and_the_next_try_stores_the_bytes(
    minio: Minio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr("syncd_obstore.store.SLOWEST", 64 << 20)
    content = os.urandom(RANGE + 1000)
    async with FaultProxy(minio.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        store = await opened(f"obstore+s3://bucket/{name.replace(' ', '-')}", obstore_timeout=1)
        # The connection of the opening is kept alive; whatever is opened from here on has the fault.
        proxy.choose = first(20, FAULTS[name])
        with source_of(tmp_path / "f", content) as source:
            for _ in range(30):
                try:
                    await store.upload("x", source, open_gate)
                except (Transient, Denied) as error:  # Denied: a damaged request that the server calls a bad one
                    assert "\n" not in str(error)
                    proxy.choose = lambda number: None
                else:
                    break
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", minio.endpoint)
    straight = await opened(f"obstore+s3://bucket/{name.replace(' ', '-')}")
    assert await straight.get("x") == content


@pytest.mark.parametrize("size", [0, 1, PART, 64 << 20, 100 << 30, 5 << 40])
def test_no_upload_has_more_parts_than_the_services_take(size: int) -> None:
    assert part_of(size) % (1 << 20) == 0
    assert size / part_of(size) <= PARTS


@pytest.mark.slow
def test_a_process_that_used_it_ends_as_it_should(tmp_path: Path) -> None:
    """The library's threads abort one process in seven where nothing waits for them."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SYNCD_STORE": f"obstore+file://{tmp_path}/s",
        "SYNCD_TASK": "t",
    }
    for _ in range(12):
        command = [sys.executable, "-m", "syncd", "ls"]
        done = subprocess.run(command, env=env, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    assert "no credentials were found" in await opening(ConfigError, "az://container/p")


def test_a_metadata_service_that_is_not_there_means_no_credentials() -> None:
    text = (
        "Generic GCS error: Error performing token request: Error performing GET http://169.254.169.254/computeMetadata"
    )
    error = translate(obs.GenericError(text), "gs://bucket/p", "")
    assert isinstance(error, Denied)
    assert "no credentials were found" in str(error)


async def test_a_conflict_at_a_write_passes_and_is_no_claim_of_anothers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = await opened()

    async def conflict(*_: object, **__: object) -> None:
        raise obs.AlreadyExistsError(
            "Object at location p/x already exists: status code: 409 Conflict: OperationAborted"
        )

    monkeypatch.setattr("obstore.put_async", conflict)
    with pytest.raises(Transient):
        await store.put("x", b"1")
    with source_of(tmp_path / "f", b"1") as source, pytest.raises(Transient):
        await store.upload("x", source, open_gate)
    with pytest.raises(Exists):
        await store.create("x", b"1")


@pytest.mark.parametrize("key", ["missing-token-ablation/resume.json", "SlowDown/x", "Not a directory"])
def test_a_key_that_reads_like_an_error_is_none(key: str) -> None:
    for shown in (key, quote(key)):
        text = f"Object at location p/{shown} not found: Error performing GET: status code: 404 Not Found"
        assert isinstance(translate(FileNotFoundError(text), "s3://bucket/p", key), NotFound)
