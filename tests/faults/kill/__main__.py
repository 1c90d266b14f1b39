"""The campaign of kill points: all of them, over hours, cut and continued as one likes."""

import argparse
import asyncio
import os
import shutil
import tempfile
from pathlib import Path

from syncd.testing.servers import Minio

from .campaign import Campaign, Notes, sources, strace, summary
from .places import bucket, directory
from .scenes import SCENES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kill", description=__doc__)
    parser.add_argument(
        "--notes", type=Path, default=Path(".cache/kill-points.jsonl"), help="what was tried [%(default)s]"
    )
    parser.add_argument("--store", action="append", choices=["file", "minio"], help="[both]")
    parser.add_argument("--scene", action="append", choices=list(SCENES), help="[all]")
    args = parser.parse_args()
    if strace() is None:
        parser.error("strace is not here, or may not trace: apt-get install strace")
    args.notes.parent.mkdir(parents=True, exist_ok=True)
    notes = Notes(args.notes, sources())
    stores = args.store or ["file", "minio"]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(dir=memory, prefix="syncd-kill-"))
    with Minio(made / "minio") as server:
        server.make_bucket("kills")
        os.environ.update(server.env)
        places = {"file": directory, "minio": bucket(server, "kills")}
        campaign = Campaign(made, {name: places[name] for name in stores}, notes)
        asyncio.run(campaign.all_points(args.scene or list(SCENES)))
    print(summary(notes))
    if not notes.wrong:
        shutil.rmtree(made)
        return 0
    for found in notes.wrong:
        print(f"{found.point}: {found.wrong}")
    print(f"what they left lies in {made}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
