"""This machine's clock is wrong: requests are signed at the server's time, whichever way they go."""

import asyncio
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
from aiobotocore.credentials import AioRefreshableCredentials
from syncd_s3 import S3Settings, clock
from syncd_s3.clock import CLOCK, Clock
from syncd_s3.credentials import Credentials
from syncd_s3.store import S3Store

from syncd.errors import Denied, NotFound, Transient
from syncd.model.checkpoint import RANGE
from syncd.store.wrap import Retrying
from syncd.testing import open_gate, source_of

HOUR = 3600.0


@pytest.fixture(autouse=True)
def fresh_clock() -> Iterator[None]:
    CLOCK.ahead = 0.0
    yield
    CLOCK.ahead = 0.0


class Wrong:
    """A clock of this machine that is off; settable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, off: float) -> None:
        self.off = off
        now, utc = clock.time.time, botocore.auth.get_current_datetime

        class Time:
            time = staticmethod(lambda: now() + self.off)

        monkeypatch.setattr(clock, "time", Time)
        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: utc() + timedelta(seconds=self.off))


@pytest.mark.parametrize("path", ["fast", "signed", "sdk"])
@pytest.mark.parametrize("off", [-HOUR, HOUR])
async def test_a_store_is_used_by_a_machine_whose_clock_is_an_hour_off_and_then_set(
    bucket: str, path: str, off: float, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "syncd.s3")
    wrong = Wrong(monkeypatch, off)
    with pytest.raises(Transient, match=rf"3(59|60)\d s {'behind' if off < 0 else 'ahead of'} the server's"):
        await S3Store.open(f"s3://{bucket}", S3Settings())
    store = await S3Store.open(f"s3://{bucket}", S3Settings.model_validate({"s3_path": path}))
    content = os.urandom(RANGE + 1000)
    try:
        with source_of(file, content) as source:
            await store.upload("large", source, open_gate)
        await store.create("small", b"1")
        wrong.off = 0.0  # it is set while we work, and the first that notices is a request without a body to its answer
        retrying = Retrying(store)
        retrying.patient = True
        assert await retrying.get("small", 0, 0) == b""
        with source_of(file, content) as source:
            await retrying.upload("again", source, open_gate)
        assert await retrying.get("large", RANGE, 1000) == content[RANGE:]
        with pytest.raises(NotFound):
            await retrying.get("absent")
    finally:
        await store.aclose()
    assert abs(CLOCK.ahead) < 60
    assert [record.message for record in caplog.records] == ["s3.clock", "s3.clock"], "once for each time"


async def test_siblings_that_were_signed_at_the_wrong_time_are_all_repeated(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await S3Store.open(f"s3://{bucket}", S3Settings())
    Wrong(monkeypatch, HOUR)
    refused = await asyncio.gather(*(store.put(f"{n}", b"1") for n in range(8)), return_exceptions=True)
    assert all(isinstance(error, Transient) for error in refused if error)
    assert len([error for error in refused if error]) > 1
    await asyncio.gather(*(store.put(f"{n}", b"1") for n in range(8)))
    await store.aclose()


async def test_a_refusal_at_the_right_time_is_one(canned: Any) -> None:
    canned.say(403, "AccessDenied", Date=formatdate())
    with pytest.raises(Denied, match="may not"):
        await S3Store.open("s3://bucket", S3Settings(s3_endpoint_url=canned.endpoint))
    assert CLOCK.ahead == 0.0


@pytest.mark.parametrize("date", [None, "", "yesterday", "Thu, 99 Foo 2026 00:00:00 GMT"])
def test_a_date_that_is_none_corrects_nothing(date: str | None) -> None:
    assert not Clock().correct(date, 0.0)


async def test_keys_are_good_until_their_end_by_the_servers_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ours ahead botocore would take fresh keys for ended, and refuse to sign."""
    ends = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    asked = 0

    async def refresh() -> dict[str, str]:
        nonlocal asked
        asked += 1
        return {"access_key": "AKIA0000000000000000", "secret_key": "s", "token": "t", "expiry_time": ends}

    async def load() -> Any:
        return AioRefreshableCredentials.create_from_metadata(await refresh(), refresh, "test")

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=2)

    monkeypatch.setattr(clock, "datetime", Ahead)
    CLOCK.ahead = -2 * HOUR
    keys = Credentials(load)
    assert (await keys.get_frozen_credentials()).access_key.startswith("AKIA")
    assert asked == 1
