"""A sample of the kill points of real processes; `make faults` tries them all."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncd.testing.servers import Minio, skip

from .kill.campaign import CALLS, Campaign, Notes, strace, summary
from .kill.places import bucket, directory
from .kill.scenes import SCENES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KILLS, MOST = 3, 12
CHANGING = {
    "write", "writev", "pwrite64", "pwritev", "pwritev2", "fsync", "fdatasync", "sync_file_range", "syncfs", "rename",
    "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir",
    "mknod", "mknodat", "truncate", "ftruncate", "fallocate", "copy_file_range", "sendfile", "splice", "vmsplice", "tee",
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utimensat", "setxattr", "fsetxattr",
    "sendto", "sendmsg", "sendmmsg", "connect",
}  # fmt: skip
"""System calls of Linux by which a process changes a disk or a peer, but for opening with O_CREAT: what it makes is nothing
until it is written to, or linked."""


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    with Minio(tmp_path_factory.mktemp("minio")) as server:
        server.make_bucket("kills")
        yield server


@pytest.fixture(params=["file", "minio"])
def campaign(ram_path: Path, request: pytest.FixtureRequest) -> Campaign:
    """Over one store, without notes."""
    if strace() is None:
        skip("strace", "apt-get install strace, and the right to trace")
    place = directory
    if request.param == "minio":
        request.getfixturevalue("as_operator")
        place = bucket(request.getfixturevalue("minio"), "kills")
    return Campaign(ram_path, {request.param: place}, Notes(None))


async def test_I1_I3_I4_I5_I7_a_process_killed_at_any_syscall_loses_and_tears_nothing(
    campaign: Campaign, rng: random.Random, sum_up: Callable[[str, str], None]
) -> None:
    (store,) = campaign.places
    await campaign.some_points(int(os.environ.get("SYNCD_TEST_KILLS") or KILLS), rng, MOST)
    print(summary(campaign.notes))
    sum_up(f"kills {store}", f"{campaign.notes.kills} kill points of real processes, {store} store, by strace")
    assert campaign.notes.wrong == []


async def test_every_syscall_that_changes_something_is_a_kill_point(campaign: Campaign) -> None:
    (store,) = campaign.places
    called = {scene: await campaign.calls_of(store, scene) for scene in SCENES}
    assert {"linkat", "fsync"} <= called["push of a first checkpoint"], "the count says nothing"
    missing = {scene: sorted((names & CHANGING) - set(CALLS)) for scene, names in called.items()}
    assert not any(missing.values()), missing
