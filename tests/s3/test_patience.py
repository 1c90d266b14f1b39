"""What is much slower than usual is asked once more, and the first to succeed counts."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from syncd_s3 import S3Settings, patience
from syncd_s3.paths import Paths
from syncd_s3.patience import ENOUGH, SMALL, Patience
from syncd_s3.store import S3Store
from syncd_s3.wire import Span

from syncd.errors import Denied, Transient
from syncd.local.digest import sum_bytes
from syncd.model.checkpoint import RANGE
from syncd.store import Fetched
from syncd.testing import Fault, FaultProxy, open_gate, source_of
from syncd.testing.servers import Minio


class Requests:
    """Requests that end when they are told to."""

    def __init__(self) -> None:
        self.ends: list[asyncio.Future[str]] = []
        self.begun = asyncio.Semaphore(0)
        self.cancelled = 0

    async def one(self) -> str:
        end = asyncio.get_running_loop().create_future()
        self.ends.append(end)
        self.begun.release()
        try:
            return await end
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def used_to_speed(monkeypatch: pytest.MonkeyPatch) -> Patience:
    """One that has seen enough quick requests, so that anything is slow at once."""
    monkeypatch.setattr(patience, "LEAST", 0.001)
    made = Patience()

    async def quick() -> str:
        return "quick"

    for _ in range(ENOUGH):
        assert await made.ask(quick, SMALL) == "quick"
    return made


async def two_at_work(monkeypatch: pytest.MonkeyPatch) -> tuple[Patience, Requests, "asyncio.Task[str]"]:
    made, requests = await used_to_speed(monkeypatch), Requests()
    task = asyncio.create_task(made.ask(requests.one, SMALL))
    for _ in range(2):
        await requests.begun.acquire()
    return made, requests, task


@pytest.mark.parametrize("winner", [0, 1])
async def test_the_first_that_succeeds_counts_and_the_other_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, winner: int
) -> None:
    made, requests, task = await two_at_work(monkeypatch)
    requests.ends[winner].set_result("done")
    assert await task == "done"
    assert (requests.cancelled, made.repeated, len(requests.ends)) == (1, 1, 2)


async def test_one_failure_waits_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    _, requests, task = await two_at_work(monkeypatch)
    requests.ends[0].set_exception(Transient("reset"))
    await asyncio.sleep(0)
    assert not task.done()
    requests.ends[1].set_result("done")
    assert await task == "done"


async def test_two_failures_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _, requests, task = await two_at_work(monkeypatch)
    for end in requests.ends:
        end.set_exception(Transient("reset"))
    with pytest.raises(Transient):
        await task


async def test_a_refusal_is_not_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _, requests, task = await two_at_work(monkeypatch)
    requests.ends[0].set_exception(Denied("no right"))
    with pytest.raises(Denied):
        await task
    assert requests.cancelled == 1


async def test_a_cancelled_caller_cancels_both(monkeypatch: pytest.MonkeyPatch) -> None:
    _, requests, task = await two_at_work(monkeypatch)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert requests.cancelled == 2


async def test_of_many_slow_ones_one_at_a_time_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, requests, task = await two_at_work(monkeypatch)
    others = Requests()
    slow = [asyncio.create_task(made.ask(others.one, SMALL)) for _ in range(5)]
    await asyncio.sleep(0.05)
    assert len(others.ends) == 5
    requests.ends[0].set_result("done")
    assert await task == "done"
    await asyncio.sleep(0.05)
    assert len(others.ends) == 6
    for end in others.ends:
        end.set_result("done")
    assert await asyncio.gather(*slow) == ["done"] * 5


@pytest.mark.parametrize("nbytes", [0, SMALL - 1])
async def test_small_requests_and_those_of_a_beginning_are_never_repeated(
    monkeypatch: pytest.MonkeyPatch, nbytes: int
) -> None:
    made, requests = await used_to_speed(monkeypatch), Requests()
    task = asyncio.create_task(made.ask(requests.one, nbytes))
    await requests.begun.acquire()
    await asyncio.sleep(0.02)
    requests.ends[0].set_result("done")
    assert await task == "done"
    assert made.repeated == 0


async def test_what_others_joined_is_not_slow_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four at once over a link that one fills take four times as long each, and so does the last of them alone."""
    now = 0.0
    made, requests = Patience(lambda: now), Requests()
    monkeypatch.setattr(patience, "LEAST", 0.001)

    async def lone() -> str:
        nonlocal now
        now += 8.0
        return "done"

    for _ in range(ENOUGH):
        await made.ask(lone, SMALL)
    tasks = [asyncio.create_task(made.ask(requests.one, SMALL)) for _ in range(4)]
    for _ in range(4):
        await requests.begun.acquire()
    now += 32.1
    for end in requests.ends[1:]:
        end.set_result("done")
    await asyncio.gather(*tasks[1:])
    await asyncio.sleep(0.05)
    assert made.repeated == 0
    requests.ends[0].set_result("done")
    await tasks[0]


async def test_a_lone_request_is_not_slow_since_many_were_quick_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection of four has its own limit: alone it is no quicker."""
    now = 0.0
    made, requests = Patience(lambda: now), Requests()
    monkeypatch.setattr(patience, "LEAST", 0.001)
    for _ in range(2):
        tasks = [asyncio.create_task(made.ask(requests.one, SMALL)) for _ in range(4)]
        for _ in range(4):
            await requests.begun.acquire()
        now += 8.0
        for end in requests.ends:
            if not end.done():
                end.set_result("done")
        await asyncio.gather(*tasks)
    task = asyncio.create_task(made.ask(requests.one, SMALL))
    await requests.begun.acquire()
    now += 12.0
    await asyncio.sleep(0.05)
    assert made.repeated == 0
    requests.ends[-1].set_result("done")
    await task


class Stuck:
    """A way whose first request never ends; it says what came and its digest."""

    def __init__(self, stuck: int) -> None:
        self.left = stuck

    async def fetch(self, what: str, span: Span, about: Mapping[str, Any]) -> tuple[dict[str, Any], Fetched]:
        self.left -= 1
        if self.left >= 0:
            await asyncio.Event().wait()
        return {}, Fetched(span.length, "crc64nvme:1")

    async def send(self, *_: Any) -> dict[str, Any]:
        raise NotImplementedError

    async def aclose(self) -> None:
        return None


@pytest.mark.parametrize(("stuck", "digest"), [(0, "crc64nvme:1"), (1, None)])
async def test_I5_two_that_wrote_to_one_place_have_no_digest_of_one(
    monkeypatch: pytest.MonkeyPatch, stuck: int, digest: str | None
) -> None:
    paths = Paths({"fast": Stuck(stuck)})
    paths._downwards = await used_to_speed(monkeypatch)
    assert await paths.fetch("x", Span(-1, 0, SMALL), {}) == ({}, Fetched(SMALL, digest))


@pytest.mark.slow
@pytest.mark.parametrize("path", ["fast", "signed"])
async def test_one_slow_connection_does_not_hold_a_file_up(
    minio: Minio, bucket: str, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LEAST", 0.2)
    crawl = Fault(bandwidth=100_000)  # 160 s for a part
    slow = 3  # not the first connections: by those the pace is learnt, and small requests go

    def choose(number: int) -> Fault | None:
        return crawl if number == slow else None

    async with FaultProxy(minio.port, choose) as proxy:
        settings = S3Settings.model_validate({"s3_endpoint_url": proxy.endpoint, "s3_path": path})
        store = await S3Store.open(f"s3://{bucket}", settings)
        content = os.urandom(8 * RANGE)
        async with asyncio.timeout(40):
            with source_of(tmp_path / "f", content) as source:
                await store.upload("x", source, open_gate)
        assert proxy.connections > slow
        with (tmp_path / "into").open("w+b") as into:
            for offset in range(0, len(content), RANGE):
                came = await store.fetch("x", offset, RANGE, into.fileno())
                assert came.nbytes == RANGE
                assert came.digest in (None, sum_bytes(content[offset : offset + RANGE]).digest)
        assert (tmp_path / "into").read_bytes() == content
        assert store.paths._upwards.repeated + store.paths._downwards.repeated >= 1
        await store.aclose()
