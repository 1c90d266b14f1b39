"""What servers that speak S3 do differently, and which of them an endpoint is. Pure: facts and a choice."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

Name = Literal["aws", "minio", "r2", "gcs", "ceph", "b2", "generic"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of server.

    `checksum`: what a body carries that the server compares with what it received. `crc64nvme` is also given for the
    whole object; `md5` (Content-MD5, of S3's first version and known to all) for each part alone, at 1.5 s of processor
    time for a GiB. `create`: the header of a create-only put. `lacks`: what people should know, in one line.
    """

    name: Name
    checksum: Literal["crc64nvme", "md5"] = "crc64nvme"
    create: Literal["if-none-match", "generation"] = "if-none-match"
    lacks: str = ""


PROFILES = {
    each.name: each
    for each in (
        # https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html, …/conditional-writes.html
        Profile("aws", lacks="unfinished uploads stay until a lifecycle rule ends them"),
        # CRC-64/NVME since RELEASE.2025-01-20, If-None-Match since RELEASE.2024-05-07; measured beside a real one.
        Profile("minio", lacks="needs a release of 2025 or later; drops unfinished uploads after a day"),
        # https://developers.cloudflare.com/r2/api/s3/api/, …/conditional-operations/
        Profile("r2", lacks="no aws-chunked bodies (never sent here), no storage classes of Amazon's names"),
        # https://cloud.google.com/storage/docs/xml-api/reference-headers: If-None-Match is for reads alone.
        Profile("gcs", "md5", "generation", "no If-None-Match for puts, no CRC-64/NVME; HMAC keys are needed"),
        # Seen ignoring If-None-Match in older releases (ceph/s3-tests#583): the claim notices and refuses such a server.
        Profile("ceph", "md5", lacks="older releases ignore If-None-Match, and are refused when a task is claimed"),
        Profile(
            "b2", "md5", lacks="conditional puts were not tried here; the claim notices a server that ignores them"
        ),
        Profile("generic", lacks="CRC-64/NVME and If-None-Match are expected; SYNCD_S3_PROFILE names another kind"),
    )
}
"""By name. Only MinIO could be tried itself; the others stand as they are documented, and are tested against fakes."""

_HOSTS: tuple[tuple[str, Name], ...] = (
    ("amazonaws.com", "aws"),
    ("amazonaws.com.cn", "aws"),
    ("r2.cloudflarestorage.com", "r2"),
    ("storage.googleapis.com", "gcs"),
    ("backblazeb2.com", "b2"),
)


def choose(endpoint: str, wanted: str = "auto") -> Profile:
    """The profile that is wanted by name, else the one of the endpoint's host.

    >>> choose("https://0123abcd.eu.r2.cloudflarestorage.com").name
    'r2'
    """
    for name, profile in PROFILES.items():
        if name == wanted:
            return profile
    host = (urlsplit(endpoint).hostname or "").lower().rstrip(".")
    found: Name = next((name for end, name in _HOSTS if host == end or host.endswith(f".{end}")), "generic")
    return PROFILES[found]
