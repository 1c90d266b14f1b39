"""What is measured, with whom, and what is aimed at."""

from dataclasses import dataclass
from typing import Literal

from tests.bench.table import Target

MANY, SMALL, SMALL_SIZE = 200, 2000, 4096
"""Files of a restore; small files, and bytes of each."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of transfer: which source, which way, who takes part, what is aimed at."""

    title: str
    source: Literal["one", "many", "small"]
    op: Literal["put", "get"]
    peers: tuple[str, ...]
    targets: tuple[Target, ...]
    tls: bool = False


COMMANDS = ("rclone", "s5cmd")
PACKAGES = ("awscrt", "obstore", "boto3", "aiobotocore")
UPLOADERS = COMMANDS + PACKAGES
KINDS = (
    Kind(
        "upload of one file, http", "one", "put", UPLOADERS,
        (
            Target("cpu", "rclone", 8), Target("cpu", "s5cmd", 5), Target("cpu", "awscrt", 2), Target("cpu", "aiobotocore", 4),
            Target("wall", "rclone", 1.7), Target("wall", "s5cmd", 1.2), Target("wall", "aiobotocore", 1.25),
            Target("wall", "awscrt", 0.8), Target("wall", "obstore", 0.8),
        ),
    ),
    Kind(
        "upload of one file, TLS", "one", "put", UPLOADERS,
        (Target("cpu", "rclone", 4), Target("cpu", "s5cmd", 2.8), Target("cpu", "awscrt", 1.6)),
        tls=True,
    ),
    Kind(
        "download of one file, http, digests verified by syncd and awscrt", "one", "get", UPLOADERS[:-1],
        (Target("cpu", "rclone", 1.6), Target("cpu", "s5cmd", 2), Target("cpu", "awscrt", 2.5)),
    ),
    Kind(f"restore of {MANY} files, http", "many", "get", ("rclone",), (Target("wall", "rclone", 1.3),)),
    Kind(f"upload of {SMALL} files of 4 KiB, http", "small", "put", ("aiobotocore",), (Target("cpu", "aiobotocore", 2.5),)),
)  # fmt: skip
