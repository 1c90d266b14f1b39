"""syncd: sums, then the S3 store's upload; or a restore's download, every range verified."""

import asyncio
import os
from functools import partial
from pathlib import Path

from syncd_s3 import S3Settings
from syncd_s3.store import S3Store

from syncd.local.digest import sum_file
from syncd.local.threads import all_of, to_its_end
from syncd.local.tree import opened
from syncd.model.checkpoint import FileEntry, Manifest
from syncd.model.keys import Keys
from syncd.move.budget import Budget
from syncd.move.push import FILES_AT_ONCE
from syncd.move.restore import download
from syncd.store import Source
from tests.bench.clients.common import Task, measured

TASK, ATTEMPT, COMMIT = "bench", 1, "all"


def entry_of(path: Path) -> FileEntry:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return FileEntry(path.name, size, 0o600, sum_file(file.fileno(), size))


async def put(store: S3Store, gate: Budget, task: Task) -> None:
    async def one(name: str) -> None:
        path = Path(task.path, name)
        entry = await to_its_end(entry_of, path)
        with path.open("rb") as file:
            await store.upload(task.key + name, Source(file.fileno(), entry.size, entry.sum), gate)

    await all_of((partial(one, name) for name in task.names), FILES_AT_ONCE)


async def main() -> None:
    task = Task.read()
    store = await S3Store.open(f"s3://{task.bucket}", S3Settings(s3_endpoint_url=task.endpoint))
    gate = Budget(4, 64 << 20)
    try:
        if task.op == "put":
            with measured():
                await put(store, gate, task)
            return
        # The manifest is what a restore has before it fetches the first byte.
        entries = tuple(entry_of(Path(task.source, name)) for name in task.names)
        manifest = Manifest(
            task=TASK, attempt=ATTEMPT, number=1, name=COMMIT, commit=COMMIT,
            kind="directory", step=None, rule="marker", time=0.0, files=entries,
        )  # fmt: skip
        assert Keys(TASK).files(ATTEMPT, COMMIT) == task.key
        with measured(), opened(Path(task.path)) as to:
            await download(store, Keys(TASK), manifest, to, gate)
    finally:
        await store.aclose()


if __name__ == "__main__":
    asyncio.run(main())
