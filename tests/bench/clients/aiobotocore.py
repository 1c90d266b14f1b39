"""aiobotocore with default settings and what one writes with it first: whole parts in memory, four at once. Puts only."""

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

from aiobotocore.session import get_session

from syncd.local.threads import all_of
from tests.bench.clients.common import Task, measured

PART, AT_ONCE = 16 << 20, 4


async def in_parts(client: Any, path: Path, where: dict[str, str]) -> None:
    begun = await client.create_multipart_upload(**where)
    about = where | {"UploadId": begun["UploadId"]}
    with path.open("rb") as file:

        async def one(number: int) -> dict[str, Any]:
            data = await asyncio.to_thread(os.pread, file.fileno(), PART, (number - 1) * PART)
            answer = await client.upload_part(**about, PartNumber=number, Body=data)
            sums = {
                name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"
            }
            return {"PartNumber": number, "ETag": answer["ETag"], **sums}

        count = -(-path.stat().st_size // PART)
        parts = await all_of((partial(one, number) for number in range(1, count + 1)), AT_ONCE)
    await client.complete_multipart_upload(**about, MultipartUpload={"Parts": parts})


async def put(client: Any, path: Path, where: dict[str, str]) -> None:
    if path.stat().st_size > PART:
        await in_parts(client, path, where)
    else:
        await client.put_object(**where, Body=path.read_bytes())


async def main() -> None:
    task = Task.read()
    async with get_session().create_client("s3", endpoint_url=task.endpoint) as client:
        works = [
            partial(put, client, Path(task.path, name), {"Bucket": task.bucket, "Key": task.key + name})
            for name in task.names
        ]
        with measured():
            await all_of(works, AT_ONCE)


asyncio.run(main())
