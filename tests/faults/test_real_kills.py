"""A sample of the kill points of real processes; `make faults` tries them all."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncd.testing.servers import Minio, skip

from .kill.campaign import Campaign, Notes, strace, summary
from .kill.places import bucket, directory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KILLS, MOST = 6, 12


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        server.make_bucket("kills")
        yield server


@pytest.mark.parametrize("store", ["file", "minio"])
async def test_I1_I3_I4_I5_I7_a_process_killed_at_any_syscall_loses_and_tears_nothing(
    store: str,
    ram_path: Path,
    rng: random.Random,
    request: pytest.FixtureRequest,
    sum_up: Callable[[str, str], None],
) -> None:
    if strace() is None:
        skip("strace", "apt-get install strace, and the right to trace")
    place = directory
    if store == "minio":
        request.getfixturevalue("as_operator")
        place = bucket(request.getfixturevalue("minio"), "kills")
    campaign = Campaign(ram_path, {store: place}, Notes(None))
    await campaign.some_points(int(os.environ.get("SYNCD_TEST_KILLS") or KILLS), rng, MOST)
    print(summary(campaign.notes))
    sum_up(f"kills {store}", f"{campaign.notes.kills} kill points of real processes, {store} store, by strace")
    assert campaign.notes.wrong == []
