"""A checkpoint as it is committed: its files, their sums, and the manifest that makes them count."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from syncd.errors import Corrupt, Refused, brief
from syncd.model import canonical
from syncd.model.attempt import AttemptNumber, LineItem
from syncd.model.names import check_checkpoint_name, check_path

RANGE = 16 << 20
"""Bytes of one range of a file: also the part of a multipart upload and the unit of a repeated download."""
MAX_RANGES = 9_600
"""Ranges of one file: S3 ends at 10,000 parts. 16 MiB serve up to 150 GiB; beyond, the range grows."""

Size = Annotated[int, Meta(ge=0, le=1 << 50)]
Step = Annotated[int, Meta(ge=0, lt=10**18)]
"""As large as `step_of` gives them: names bear times as steps too."""
Number = Annotated[int, Meta(ge=1, lt=10**18)]
"""Of a commit."""
Digest = Annotated[str, Meta(pattern=r"^[a-z0-9]{1,16}:[0-9a-f]{8,128}$")]


def range_size(size: int) -> int:
    """Bytes of each fixed range of a file of `size` bytes: `RANGE`, or the next multiple that keeps to `MAX_RANGES`."""
    return RANGE * max(1, -(-size // (RANGE * MAX_RANGES)))


def ranges(size: int) -> list[tuple[int, int]]:
    """`(offset, length)` of each range of a file of `size` bytes; one empty range for an empty file."""
    step = range_size(size)
    return [(offset, min(step, size - offset)) for offset in range(0, size, step)] or [(0, 0)]


class FileSum(Struct, frozen=True, gc=False):
    """Digests of one file's bytes: the whole, and each range of `range_size(size)` where there are several."""

    digest: Digest
    ranges: tuple[Digest, ...] = ()


class FileEntry(Struct, frozen=True, omit_defaults=True, gc=False):
    """One file of a checkpoint: path relative to it, size in bytes, permission bits, sums.

    `seal`: a cryptographic digest of the whole beside, where one is wanted: the sums find accidents, not tampering.
    """

    path: str
    size: Size
    mode: Annotated[int, Meta(ge=0, le=0o777)]
    sum: FileSum
    seal: Digest | None = None


class Manifest(Struct, frozen=True, kw_only=True):
    """The immutable list of a checkpoint's files. Its create-only put is the commit (I1).

    `number` counts the commits of the attempt and alone says which is newest; `commit` is the name in the store,
    `name` the one to restore under; `step`, `time` (seconds since the epoch) and `rule` are for people.
    """

    version: Literal[1] = 1
    task: str
    attempt: AttemptNumber
    number: Number
    name: str
    commit: str
    kind: Literal["directory", "file"]
    step: Step | None
    rule: str
    time: float
    files: tuple[FileEntry, ...]
    kept: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)


def parse_manifest(data: bytes, where: str) -> Manifest:
    """A manifest from a store's bytes, with every name in it checked (I9).

    Raises `Corrupt` naming `where`: also for a path that leads outside, a name that stands twice, a file that is
    another's directory, and ranges that do not fit the size.
    """
    manifest = canonical.decode(data, Manifest, where)
    try:
        check_checkpoint_name(manifest.name, where)
        check_checkpoint_name(manifest.commit, where)
        seen: set[str] = set()
        for entry in manifest.files:
            check_path(entry.path, where)
            if entry.path in seen:
                raise Refused(f"{where}: '{brief(entry.path)}' stands twice")
            seen.add(entry.path)
            if entry.sum.ranges and len(entry.sum.ranges) != len(ranges(entry.size)):
                raise Refused(
                    f"{where}: '{brief(entry.path)}' has {len(entry.sum.ranges)} ranges for {entry.size} bytes"
                )
        for path in seen:
            parent = path.rpartition("/")[0]
            while parent:
                if parent in seen:
                    raise Refused(f"{where}: '{brief(parent)}' is a file and a directory")
                parent = parent.rpartition("/")[0]
    except Refused as error:
        raise Corrupt(str(error)) from None
    if manifest.kind == "file" and (len(manifest.files) != 1 or "/" in manifest.files[0].path):
        raise Corrupt(f"{where}: a single-file checkpoint with {len(manifest.files)} files")
    return manifest


class Committed(Struct, frozen=True):
    """A manifest as found in the store, with the digest of its bytes that lines name."""

    manifest: Manifest
    digest: Digest

    @property
    def item(self) -> LineItem:
        """How a line names it."""
        return LineItem(self.attempt, self.commit, self.digest)

    @property
    def attempt(self) -> int:
        return self.manifest.attempt

    @property
    def commit(self) -> str:
        return self.manifest.commit


__all__ = [
    "MAX_RANGES",
    "RANGE",
    "Committed",
    "FileEntry",
    "FileSum",
    "Manifest",
    "parse_manifest",
    "range_size",
    "ranges",
]
